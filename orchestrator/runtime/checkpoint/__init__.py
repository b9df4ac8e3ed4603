"""Checkpoints: named tensors in safetensors, written whole or not at all, loadable by any number of workers."""
