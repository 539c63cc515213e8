"""ONNX file → engine, in a process of its own."""
