"""Commands of ``fer-edge``: each module parses arguments, calls one library function and prints one table."""
