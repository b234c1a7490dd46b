"""The phantom study: every network, the same phantoms, the same budget, several seeds."""
