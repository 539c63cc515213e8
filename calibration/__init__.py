"""INT8: measure activation ranges on faces and write Q/DQ models from them. Needs onnx, not PyTorch."""
