"""The driver: one attempt after the other, until a run is over."""
