"""Requested weights: shipped, a local file, cached, or downloaded from their published URL."""
