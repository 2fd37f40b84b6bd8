"""Mixing whose density vanishes at its edges, plus Gaussian noise: log-moments, and cells of
outcomes.

Moments h_k(v) as in gaussian.py, with the densities of density.py. Nothing is flat between the
edges, so the line is cut into Gauss-Legendre panels that fit the strip of density.py near the edges
and grow with the distance from them inside.
"""

from math import exp, inf, log, log1p, sinh, sqrt

import numpy as np

from mmaccount.kernels.gaussian import NODES as NODES12
from mmaccount.kernels.gaussian import WEIGHTS as WEIGHTS12
from mmaccount.kernels.gaussian import share
from mmaccount.kernels.logspace import jit, log_excess, log_total, scaled_add, softplus
from mmaccount.kernels.pld import excess_over, mean_loss
from mmaccount.kernels.smooth_density import Mixing, log_density, log_ratio

WINDOW = 10.0  # std beyond an edge or a peak; what is cut off is below 1e-19 of the integral
LOG_ACCURACY = 44.0  # panels leave e^-44 = 1e-19 times the growth of the integrand around them
GROWTH_FROM = 16.0  # std inside, from which panels grow with the distance from the edge
SHARED_UP_TO = 40.0  # order times shift up to which orders within a factor 2 share their panels
CELLS_WINDOW = 13.0  # std beyond the edges; what is cut off is below 1e-37
CELLS_GROWTH_FROM = 1.0

POINTS, WEIGHTS = (
    0.5 * (a + b) for a, b in zip(np.polynomial.legendre.leggauss(20), (1.0, 0.0), strict=True)
)


@jit
def _half_panel(order: float) -> float:
    """Half the length of a panel near the edges: its Bernstein ellipse of parameter rho has to fit
    the strip |y| < half * (rho - 1/rho)/2, and 20 points leave rho^-40 times the growth e^{y^2/2}
    (1 - y^2/2)^{1-k} of the integrand there."""
    squared = 40.0 / (20.0 + order)
    growth = 0.5 * squared - (order - 1.0) * log1p(-0.5 * squared)
    return sqrt(squared) / sinh((LOG_ACCURACY + growth) / 40.0)


@jit
def _edges(high: float, low: float, inner: float, half: float, grow: float) -> np.ndarray:
    """Ends of panels from `high` down to `low`; they grow from `grow` below `inner`, the innermost
    edge on this side."""
    count, at = 1, high
    while at > low:
        at -= 2.0 * half * max(1.0, (inner - at) / grow)
        count += 1
    out = np.empty(count)
    out[0] = high
    for i in range(1, count):
        out[i] = out[i - 1] - 2.0 * half * max(1.0, (inner - out[i - 1]) / grow)
    out[-1] = low
    return out


@jit
def _nodes(ends: np.ndarray, w: float, mixing: Mixing) -> tuple[np.ndarray, np.ndarray]:
    """(log of weight times L p, log r) at the points of all panels, r = p(t + w)/p(t)."""
    size = POINTS.size
    log_weight, log_r = np.empty((ends.size - 1) * size), np.empty((ends.size - 1) * size)
    for i in range(ends.size - 1):
        length = ends[i] - ends[i + 1]
        for j in range(size):
            t = ends[i + 1] + length * POINTS[j]
            log_weight[size * i + j] = log(length * WEIGHTS[j]) + log_density(t, mixing)
            log_r[size * i + j] = log_ratio(t, w, mixing)
    return log_weight, log_r


@jit
def _add(
    state: tuple[float, float], order: float, log_weight: np.ndarray, log_r: np.ndarray
) -> tuple[float, float]:
    peak, total = state
    for i in range(log_weight.size):
        peak, total = scaled_add(peak, total, log_weight[i] + log_excess(order, log_r[i]), 1.0)
    return peak, total


@jit
def _stretch(order: float, shift: float, power: float) -> tuple[float, float]:
    """Where a stretch begins and ends on which p r^k rises (see `log_moments`); empty if it cannot
    be shown to."""
    reach = WINDOW + 2.0 * (power + 1.0) / shift
    first, last = reach, (order - 1.0) * shift - reach  # of s = t - v
    for s in (first, last):
        if not (order - 1.0) * shift - s - order * (power + 1.0) / s > 0.0:
            return 0.0, 0.0
    return (shift + first, shift + last) if last > first else (0.0, 0.0)


@jit
def _far_peak(
    order: float, shift: float, stretch: tuple[float, float], mixing: Mixing
) -> tuple[float, float]:
    """The sum over the peak near order * shift, and a bound on the stretch before it."""
    begin, end = stretch
    log_weight, log_r = _nodes(
        _edges(order * shift + WINDOW, end, 0.0, _half_panel(order), GROWTH_FROM), -shift, mixing
    )
    state = _add((-inf, 0.0), order, log_weight, log_r)
    far = log_density(end, mixing) + order * log_ratio(end, -shift, mixing)
    near = log_density(begin, mixing) + log(order - 1.0)
    state = scaled_add(state[0], state[1], far, end - begin)
    return scaled_add(state[0], state[1], near, end - begin)


@jit
def log_moments(orders: np.ndarray, shift: float, mixing: Mixing) -> np.ndarray:
    """h_k(shift) for an array of orders k > 1, shift > 0; relative error below 1e-12 (measured).

    The line is cut at the symmetry point x = v/2; each side is addressed from its own edge. As in
    gaussian.py the stretch before a far peak is bounded instead of summed: with s = t - v the
    log-integrand of p r^k has slope at least (k-1) v - s
    - k B/s there, a concave function of s, as E[d | s] <= B/s (d given s is, in the likelihood
    ratio order, below a Gamma law of shape B and rate s: the rest of its density, (1 - d/L)^{B-1}
    or (sin(pi d/L)/d)^2, times e^{-d^2/2}, falls with d). Where it is positive at both ends p r^k
    is largest at the far one, (k-1) p at the near one: length times both is added. Both ends keep 2
    B/v further away than the peak needs, which is moved by B/v.
    """
    out, first = np.empty(orders.size), 0
    while first < orders.size:
        last = share(orders, first, shift, SHARED_UP_TO)
        top = np.max(orders[first:last])
        half, start = _half_panel(top), top * shift + WINDOW
        stretch, state = _stretch(top, shift, mixing.power), (-inf, 0.0)
        if last == first + 1 and stretch[1] > 0.0:
            state, start = _far_peak(top, shift, stretch, mixing), stretch[0]
        centre = 0.5 * (shift - mixing.width)
        right = _nodes(_edges(start, centre, 0.0, half, GROWTH_FROM), -shift, mixing)
        left = _nodes(
            _edges(WINDOW, -0.5 * (shift + mixing.width), -shift, half, GROWTH_FROM), shift, mixing
        )
        for i in range(first, last):
            total = _add(_add(state, orders[i], right[0], right[1]), orders[i], left[0], left[1])
            out[i] = softplus(log_total(total[0], total[1]) - log(mixing.width))
        first = last
    return out


@jit
def coordinate_masses(
    shift: float, mixing: Mixing, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The outcomes of one coordinate in cells of `step` std, longer far inside: their masses
    without and with the shift, and the log of the ratio of the two.

    12-point Gauss-Legendre, errors as in kernels/pld.py; inside log p changes by at most B * step
    in a longer cell.
    """
    right = _edges(
        shift + CELLS_WINDOW, 0.5 * (shift - mixing.width), 0.0, 0.5 * step, CELLS_GROWTH_FROM
    )
    left = _edges(
        CELLS_WINDOW, -0.5 * (shift + mixing.width), -shift, 0.5 * step, CELLS_GROWTH_FROM
    )
    size = right.size + left.size - 2
    without, shifted, losses = np.zeros(size), np.zeros(size), np.empty(size)
    at = 0
    for ends, w in ((right, -shift), (left, shift)):
        for i in range(ends.size - 1):
            length, excess = ends[i] - ends[i + 1], 0.0
            for j in range(NODES12.size):
                t = ends[i + 1] + length * NODES12[j]
                log_p, log_r = log_density(t, mixing), log_ratio(t, w, mixing)
                weight = length / mixing.width * WEIGHTS12[j]
                without[at] += weight * exp(log_p)
                shifted[at] += weight * exp(log_p + log_r)
                excess += weight * excess_over(log_p, log_r)
            losses[at] = mean_loss(without[at], shifted[at], excess)
            at += 1
    return without, shifted, losses
