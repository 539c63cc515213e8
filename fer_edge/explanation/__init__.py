"""Explanations of a network: attention maps and Grad-CAM, and their drawing."""
