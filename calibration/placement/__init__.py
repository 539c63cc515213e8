"""Where Q/DQ goes: the graph, the rules by family of layer, and the multiply-adds of each."""
