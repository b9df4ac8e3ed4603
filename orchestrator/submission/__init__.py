"""Submitting runs to a cluster, where they run while no one waits, and the part of it that runs on the head."""
