"""What every other room needs: storage, units, and the environment of our processes."""
