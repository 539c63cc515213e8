"""MTCNN: three networks over an image pyramid."""
