"""Which trial comes next, and which one ends early."""
