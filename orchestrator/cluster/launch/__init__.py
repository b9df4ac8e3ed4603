"""Clusters of several machines over SSH, described by a cluster.yaml."""
