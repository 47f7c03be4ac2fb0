"""The data sets that come with the project, one file each; each registers itself."""
