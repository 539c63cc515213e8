"""The GPU: what is there, arrays on it, the device seam and our kernels."""
