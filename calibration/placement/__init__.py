"""Q/DQ placement: the graph, the rules by network family, and the multiply-adds of each layer."""
