"""What happened in a run: events in run storage, and their way from there into MLflow."""
