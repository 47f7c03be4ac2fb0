"""What a run shows of itself in files: tables, pages, plots, pictures of clips, and the memory inspector."""
