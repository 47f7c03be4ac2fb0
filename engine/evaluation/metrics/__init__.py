"""The shipped metrics, one file each, which reports show in the order of the files' names; each registers itself."""
