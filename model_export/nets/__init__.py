"""The networks of the paper in PyTorch, and the graph that is exported from them."""
