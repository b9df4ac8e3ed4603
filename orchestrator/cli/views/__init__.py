"""How plans, runs, sweeps and progress look in a terminal."""
