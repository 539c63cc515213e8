"""The training side: networks of the papers, checkpoints, ONNX export and training. Needs PyTorch."""
