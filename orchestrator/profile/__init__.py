"""What a model weighs: built and run on fake tensors, which have shapes and no memory. Remembered between plans."""
