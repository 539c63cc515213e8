"""General helpers: files, images, option checks, progress."""
