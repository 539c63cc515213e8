"""YuNet: one network, as a graph that any backend runs."""
