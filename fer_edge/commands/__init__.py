"""The commands of ``fer-edge``: each module parses, calls one library function and prints one table."""
