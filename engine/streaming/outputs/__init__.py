"""The outputs of a stream that come with the project, one file each; each registers itself."""
