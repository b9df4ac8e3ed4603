"""Measuring what a cluster's nodes can do, and what that means for training."""
