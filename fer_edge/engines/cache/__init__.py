"""Engines on disk: key, header, and the cache that is checked before anything is loaded."""
