"""Per-record gradients, and the kernels that compute, clip and sum them."""
