"""How a worker gets its batches: sampling, loading, and a cache between trainings."""
