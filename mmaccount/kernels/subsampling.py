"""Poisson subsampling at integer orders: the binomial expansion of the moment, in the log domain."""

from math import inf, log, log1p

import numpy as np

from mmaccount.kernels.logspace import jit, log_expm1, log_total, scaled_add, softplus


@jit
def subsampled_log_moment(order: int, q: float, log_moments: np.ndarray) -> float:
    """log sum_{k=0}^{order} C(order, k) (1-q)^{order-k} q^k e^{log_moments[k]}, log_moments[0] =
    log_moments[1] = 0, q < 1.

    The weights sum to one, so this is log(1 + sum_{k>=2} weight_k (e^{log_moments[k]} - 1)): only
    nonnegative terms.
    """
    log_choose, lost = log(float(order)), 0.0
    peak, total = -inf, 0.0
    for k in range(2, order + 1):
        term = log((order - k + 1.0) / k) - lost  # compensated (Kahan) sum
        previous, log_choose = log_choose, log_choose + term
        lost = (log_choose - previous) - term
        log_weight = log_choose + (order - k) * log1p(-q) + k * log(q)
        peak, total = scaled_add(peak, total, log_weight + log_expm1(log_moments[k]), 1.0)
    return softplus(log_total(peak, total))


@jit
def am_gm(
    order: float, q: float, exponents: np.ndarray, log_moments: np.ndarray
) -> tuple[float, float]:
    """(log of the bound on the moment minus 1, its beta), the smallest over beta = exponents >=
    order, whose log A_beta are given; 1 < order < 2, q < 1. Formula and proof: divergences.am_gm.
    """
    best, at = inf, 2.0
    for i in range(exponents.size):
        beta = exponents[i]
        if beta < order:
            break
        theta = (2.0 - beta) / (2.0 - order)
        log_mean = (1.0 - theta) * log((1.0 - q) / (1.0 - theta)) if theta < 1.0 else 0.0
        log_mean += theta * log(q / theta) if theta > 0.0 else 0.0
        log_factor = (
            2.0 * log(q)
            + log(order * (order - 1.0) / (beta * (beta - 1.0)))
            - (2.0 - order) * log_mean
        )
        value = log_factor + log_expm1(log_moments[i])
        if value < best:
            best, at = value, beta
    return best, at
