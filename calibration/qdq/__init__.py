"""Write Q/DQ models from ranges, in the dialect of a backend."""
