"""The single-frame networks that come with the project, one file or folder each; each registers itself.

What is imported with them, the cards, is free of torch; networks are imported when they are built.
"""
