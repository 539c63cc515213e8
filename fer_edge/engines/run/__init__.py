"""Runner of an engine: one thread owns the device and serves all callers."""
