"""What a network scores: one pass over labeled clips, its metrics, and how steady labels are over time."""
