"""YuNet: a single network that any backend runs."""
