"""A network written as ONNX."""
