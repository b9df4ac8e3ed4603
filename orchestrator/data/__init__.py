"""Data as people keep it, made into arrays that training reads quickly: sources, preparations, and their cache."""
