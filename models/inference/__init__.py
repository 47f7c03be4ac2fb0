"""A network for use: made fast, frame by frame, in 8 bits, and as ONNX files."""
