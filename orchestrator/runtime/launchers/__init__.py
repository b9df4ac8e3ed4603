"""How workers are started: as plain processes, or as a gang of Ray actors."""
