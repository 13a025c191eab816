"""The paper's comparisons of networks, repeated, and the cost of every network."""
