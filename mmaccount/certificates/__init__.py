"""Proofs of an epsilon in a file, and the checkers that outsiders read: each one file that needs
mpmath alone."""
