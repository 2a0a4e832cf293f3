"""Models of the next item of a sequence: what they share, the encoders, and their export to ONNX."""
