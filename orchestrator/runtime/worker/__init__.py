"""What runs in each worker process. Never imports Ray."""
