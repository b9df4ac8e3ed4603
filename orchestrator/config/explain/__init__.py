"""What went wrong in a config, and where each setting came from."""
