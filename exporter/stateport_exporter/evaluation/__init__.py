"""A graph in float64, node by node."""
