"""Workers as a gang of Ray actors, placed as a whole."""
