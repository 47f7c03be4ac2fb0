"""The metrics that come with the project, one file each, in the order of their names; each registers itself."""
