"""Where a network looked: attention and Grad-CAM, and their drawing."""
