"""Weight files: their kinds, the strict loader, the export, and the options that they hold."""
