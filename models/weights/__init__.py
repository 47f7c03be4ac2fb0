"""Weight files: the kinds there are, the strict loader, and what is written."""
