"""From overrides to a validated JobSpec. Pure: imports neither ray, torch, deepspeed nor mlflow."""
