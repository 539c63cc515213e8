"""Small tools without words of the field: files, images, checks, progress."""
