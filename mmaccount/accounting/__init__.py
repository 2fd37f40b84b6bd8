"""From the moments of one step to (epsilon, delta) of a run."""
