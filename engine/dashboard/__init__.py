"""What a run shows of itself in visdom while it goes on."""
