"""How fast a private step is: measured beside others, and counted."""
