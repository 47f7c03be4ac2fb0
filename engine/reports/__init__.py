"""Reports of a run as files: tables, pages, plots, pictures of clips, and the memory inspector."""
