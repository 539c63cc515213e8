"""Evaluation on labelled faces: metrics, temperature scaling, plots."""
