"""What a sweep found, in MLflow and on a page."""
