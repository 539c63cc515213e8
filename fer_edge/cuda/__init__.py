"""GPUs: discovery, device arrays, the device protocol, and the CUDA kernels."""
