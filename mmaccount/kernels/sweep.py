"""Renyi moments of many ModelMix runs at once: integer orders from 2 up, until they no longer help."""

from math import inf, log, log1p

import numpy as np

from mmaccount.kernels.gaussian import log_moments
from mmaccount.kernels.logspace import jit
from mmaccount.kernels.subsampling import subsampled_log_moment


@jit
def best_integer_order(
    q: float,
    steps: float,
    log_delta: float,
    shift: float,
    width: float,
    copies: float,
    most: int,
    errors: np.ndarray,
) -> tuple[float, int]:
    """(epsilon, order) of a run at the best integer order up to `most`, by arXiv 2004.00010, Prop.
    12.

    `errors`, relative: of an unsubsampled moment, of a step's moment, of the latter per unit of
    order, of a term of the conversion. A negative or undefined moment counts as +inf. The search
    ends two orders after the best one.
    """
    logs = np.zeros(most + 1)
    best, at, highest = inf, 2, 1
    for order in range(2, most + 1):
        k = float(order)
        if order > highest:
            highest = min(most, max(4, 2 * highest))
            block = log_moments(np.arange(k, highest + 1.0), shift, width)
            for i in range(block.size):
                logs[order + i] = copies * block[i] * (1.0 + errors[0])
        moment = subsampled_log_moment(order, q, logs) if q < 1.0 else logs[order]
        if not moment >= 0.0:
            moment = inf
        moment = steps * moment * (1.0 + errors[1] + errors[2] * k) / (k - 1.0)
        fixed, less, rest = -log_delta / (k - 1.0), log1p(-1.0 / k), log(k) / (k - 1.0)
        epsilon = moment + fixed + less - rest + errors[3] * (moment + fixed - less + rest)
        if epsilon < best:
            best, at = epsilon, order
        elif order > at + 1 and best < inf:
            break
    return max(0.0, best), at


@jit
def best_integer_orders(
    runs: np.ndarray, log_delta: float, most: int, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of (q, steps, shift, width, copies) -> their epsilons, orders, and epsilons without
    mixing and truncation."""
    epsilons, orders, plain = (
        np.empty(len(runs)),
        np.empty(len(runs), dtype=np.int64),
        np.empty(len(runs)),
    )
    for i in range(len(runs)):
        q, steps, shift, width, copies = runs[i]
        epsilons[i], orders[i] = best_integer_order(
            q, steps, log_delta, shift, width, copies, most, errors
        )
        whole = shift * copies**0.5
        plain[i], _ = best_integer_order(q, steps, log_delta, whole, 0.0, 1.0, most, errors)
    return epsilons, orders, plain
