"""Training scripts of the user's own, run as workers."""
