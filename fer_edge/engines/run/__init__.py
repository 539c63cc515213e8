"""Runs an engine: one thread owns the device and serves any caller."""
