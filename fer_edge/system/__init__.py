"""This machine: processors, memory, installed packages, and the record of a measurement."""
