"""Sweeps: a search over settings, in which each trial is a plan that warm workers train."""
