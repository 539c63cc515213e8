"""Tells what this machine can run, and the command for what is missing."""
