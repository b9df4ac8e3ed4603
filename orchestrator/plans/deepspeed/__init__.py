"""The DeepSpeed config of a plan, and the user's own DeepSpeed settings on top."""
