"""Everything that carries a plan out: the driver, the launchers, and the worker they start."""
