"""ONNX files: one step of a stream, with the memory as inputs and outputs, and the single-frame network.

A memory in ONNX has a fixed size, so that one graph serves the first frame too: frames not yet there are zeros, and
``filled`` counts those that are. Scores of absent frames are left out of the softmax by that number.
"""
