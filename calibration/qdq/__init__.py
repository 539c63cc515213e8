"""Q/DQ models written from ranges, in the dialect of a backend."""
