"""Refuses ONNX files that would do harm when they are loaded."""
