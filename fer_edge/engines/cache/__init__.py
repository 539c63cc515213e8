"""Content-addressed engine cache: key, header and store."""
