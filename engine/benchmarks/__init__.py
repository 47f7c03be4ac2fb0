"""``--benchmark``: what the attention, a frame and a whole stream cost."""
