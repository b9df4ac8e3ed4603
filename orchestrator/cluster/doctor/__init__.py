"""What a machine has and lacks for training, and how to fix it."""
