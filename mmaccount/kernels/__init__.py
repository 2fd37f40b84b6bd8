"""Pure float64 kernels, compiled by numba. No policy lives here: no tolerances to choose, no
rounding direction."""
