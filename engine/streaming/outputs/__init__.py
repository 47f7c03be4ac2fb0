"""The shipped outputs of a stream, one file each; each registers itself."""
