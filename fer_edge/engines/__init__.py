"""TensorRT and TensorRT-RTX engines: build, cache and runner."""
