"""What the visdom server that is started here and the dashboard's client agree on."""

HOST = "127.0.0.1"
LONGEST_HISTORY = 300  # pictures in a window's history
