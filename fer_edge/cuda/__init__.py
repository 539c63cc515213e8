"""GPUs: which there are, arrays on them, the protocol of a device, and our kernels."""
