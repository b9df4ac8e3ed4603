"""Which nodes there are, and what they have: this machine, a live Ray cluster, a cluster.yaml."""
