"""From gradients to a plan: probe, clipping theory, expected descent, schedule, and the reasons in
words."""
