"""Where workers go: over nodes, by CPUs, GPUs, memory and labels."""
