"""Ways to lose less accuracy: equalisation, bias correction, the search over methods, layers left in floating point."""
