"""Check of untrusted ONNX files before they are loaded."""
