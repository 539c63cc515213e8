"""INT8: activation ranges from faces, and Q/DQ models written from them. Needs onnx, not PyTorch."""
