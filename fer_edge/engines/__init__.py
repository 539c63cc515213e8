"""Engines: an ONNX file compiled by TensorRT or TensorRT-RTX, in a process of its own."""
