"""Weights that are asked for: shipped, in the cache, or at their published place."""
