"""``--benchmark``: time and memory of the attention, of a frame, and of a whole stream."""
