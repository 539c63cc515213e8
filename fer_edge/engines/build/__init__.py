"""Build of an engine from an ONNX file, in a subprocess."""
