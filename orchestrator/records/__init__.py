"""What a run is on disk: its record, events, logs and status, and how a run is found among others."""
