"""Training data: batches, sampling, landmarks and rendered faces."""
