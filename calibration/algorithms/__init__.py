"""Algorithms that reduce the accuracy loss: equalisation, bias correction, method search, mixed precision."""
