"""What training reads: batches, augmentation, sampling, and faces that are rendered or composed."""
