"""This machine: processor, memory, installed packages, and the origin of what ran on it."""
