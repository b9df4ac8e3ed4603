"""What becomes of a trained model: loading it back, and serving it through MLflow."""
