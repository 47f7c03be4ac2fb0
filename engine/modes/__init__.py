"""One file a mode: from the options to what it prints and writes."""
