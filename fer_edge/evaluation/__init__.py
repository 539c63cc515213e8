"""Accuracy on labelled faces: metrics, temperature, plots."""
