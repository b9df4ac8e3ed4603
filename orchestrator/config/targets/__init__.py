"""The code that a config names: checked by text, then imported."""
