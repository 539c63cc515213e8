"""Explanations: built-in attention, Grad-CAM, and their overlap with EMFACS action units."""
