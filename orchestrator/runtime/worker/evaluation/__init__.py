"""Metrics, predictions and plots of a split."""
