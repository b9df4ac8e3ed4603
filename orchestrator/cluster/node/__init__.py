"""One machine's part of a cluster: the services that keep running on it, their files and secrets."""
