"""Activation ranges: statistics of tensors over faces, and the methods that choose scales."""
