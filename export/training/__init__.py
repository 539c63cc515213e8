"""Training: recipes, augmentation, losses and the loop."""
