"""From a request to a plan: compose the config, look at the machines, measure the model, then plan."""
