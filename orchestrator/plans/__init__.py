"""From a JobSpec to a Plan: exactly what will run. Pure: imports neither ray, torch, deepspeed nor mlflow."""
