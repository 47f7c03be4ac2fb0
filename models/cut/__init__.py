"""Cuts any single-frame network into an encoder and a decoder, for a memory between the two.

``plan`` finds by dry runs what crosses the cut; ``record`` and ``frames`` are what it runs and on what. ``halves`` are
the two modules, ``card`` registers them as a backbone.
"""
