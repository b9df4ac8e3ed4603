"""The search space, and the grammar it is written in."""
