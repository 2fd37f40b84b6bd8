"""Attacks on the trainer: a battery against its own steps, and canaries in a real run."""
