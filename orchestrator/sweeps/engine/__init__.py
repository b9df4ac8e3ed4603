"""The process that runs a sweep's trials, and the ledger it resumes from."""
