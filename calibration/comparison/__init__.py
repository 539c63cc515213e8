"""Compare a quantised model with its FP32 model: logits, accuracy, latency and memory."""
