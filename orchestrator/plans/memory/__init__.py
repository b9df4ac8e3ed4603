"""How much memory a plan needs, and which strategies fit."""
