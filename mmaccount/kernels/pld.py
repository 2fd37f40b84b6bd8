"""One mixed coordinate cut into cells of outcomes, and loops over grids of privacy losses."""

from math import ceil, exp, expm1, floor, log, log1p

import numpy as np

from mmaccount.kernels.gaussian import NODES, WEIGHTS, _log_ratio, log_density
from mmaccount.kernels.logspace import LOG_SQRT_2PI, jit

# std beyond the edges of the mixing, and of their shifted copy; what is cut off is below 1e-37
WINDOW = 13.0
# of a grid spacing, by which an atom may be moved down to a point, or a group may miss its point
POINT_TOLERANCE = 1e-9
# of a coordinate's loss, over the largest one; measured below 1e-13 against 40-digit values
LOSS_ERROR = 1e-12


@jit
def mean_loss(without: float, shifted: float, excess: float) -> float:
    """log(shifted / without); where that is small, from their difference `excess`, which was not
    formed by subtraction."""
    return log1p(excess / without) if excess > -0.5 * without else log(shifted / without)


@jit
def excess_over(log_p: float, log_r: float) -> float:
    """p (r - 1) without cancellation."""
    return exp(log_p) * expm1(log_r) if log_r < 1.0 else exp(log_p + log_r) - exp(log_p)


@jit
def _cell(t: float, length: float, w: float, width: float) -> tuple[float, float, float]:
    """Masses of p(t) and of p(t + w) on [t, t + length], t from the edge, and the mean of log p(t +
    w)/p(t)."""
    without, shifted, excess = 0.0, 0.0, 0.0
    for j in range(NODES.size):
        at = t + length * NODES[j]
        log_p = (
            log_density(at, width) - log(width) if width > 0.0 else -0.5 * at * at - LOG_SQRT_2PI
        )
        log_r = _log_likelihood_ratio(at, w, width)
        without += length * WEIGHTS[j] * exp(log_p)
        shifted += length * WEIGHTS[j] * exp(log_p + log_r)
        excess += length * WEIGHTS[j] * excess_over(log_p, log_r)
    return without, shifted, mean_loss(without, shifted, excess)


@jit
def _log_likelihood_ratio(t: float, w: float, width: float) -> float:
    return _log_ratio(t, w, width) if width > 0.0 else -w * (t + 0.5 * w)


@jit
def coordinate_cells(
    shift: float, width: float, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The outcomes of one coordinate in cells, by increasing likelihood ratio.

    Returns, per cell: the log ratio r = p(x - shift)/p(x) at its lower and upper end (r increases
    in x, as p is log-concave), its mass without the shift, with it, and the log of their ratio.
    12-point Gauss-Legendre: log p changes by (|x| + 1) step at most in a cell, so the relative
    error is below 1e-20 for |x| step < 1. Each half, left and right of the symmetry point x =
    shift/2, is addressed from its own edge, so that no width costs digits. The log of the ratio is
    off by LOSS_ERROR of the largest one at most, however small the shift: no difference of nearly
    equal masses is formed.
    """
    apart = width - shift - 2.0 * WINDOW
    starts = (
        WINDOW,
        -WINDOW if apart > 0.0 else 0.5 * (shift - width),
    )  # distances beyond the left and the right edge
    stops = (-shift - WINDOW if apart > 0.0 else -0.5 * (shift + width), shift + WINDOW)
    sizes = [ceil(abs(stops[side] - starts[side]) / step) for side in range(2)]
    size = sizes[0] + sizes[1] + (1 if apart > 0.0 else 0)
    low, high, without, shifted, losses = (
        np.empty(size),
        np.empty(size),
        np.empty(size),
        np.empty(size),
        np.empty(size),
    )
    at = 0
    for side in range(2):
        w = shift if side == 0 else -shift
        fine = (stops[side] - starts[side]) / sizes[side]
        for k in range(sizes[side]):
            first, last = starts[side] + fine * k, starts[side] + fine * (k + 1)
            low[at] = _log_likelihood_ratio(first, w, width)
            high[at] = _log_likelihood_ratio(last, w, width)
            without[at], shifted[at], losses[at] = _cell(
                min(first, last), abs(last - first), w, width
            )
            at += 1
        if (
            side == 0 and apart > 0.0
        ):  # between the edges all outcomes are equally likely, up to 1e-37
            low[at], high[at], losses[at] = 0.0, 0.0, 0.0
            without[at] = shifted[at] = apart / width
            at += 1
    return low, high, without, shifted, losses


@jit
def fuse(losses: np.ndarray, masses: np.ndarray, offset: float, spacing: float) -> np.ndarray:
    """Atoms (sorted by loss, all above `offset`) fused into groups of neighbours whose mean of
    e^loss is a grid point.

    Returns the masses at the losses offset + k * spacing. An atom may be shared by two groups. Each
    group starts where the last one ended and takes atoms until its mean reaches the next grid
    point; one that never does falls to the point below its first atom, unless it misses by POINT_TOLERANCE
    only, which the caller takes off. Merging outcomes, or lowering a loss, lowers the profile in
    this direction; lowering a loss raises that of the reversed pair.
    """
    out = np.zeros(ceil((losses[-1] - offset) / spacing) + 2)
    i, rest = 0, masses[0]
    while i < losses.size:
        point = max(1, ceil((losses[i] - offset) / spacing - POINT_TOLERANCE))
        target = offset + point * spacing
        if losses[i] >= target:  # on the point, or moved down to it by less than POINT_TOLERANCE
            out[point] += rest
            i += 1
            rest = masses[i] if i < losses.size else 0.0
            continue
        mass, missing = 0.0, 0.0
        while i < losses.size:
            over = expm1(losses[i] - target)
            part = min(rest, missing / over) if over > 0.0 else rest
            mass, missing, rest = mass + part, missing - over * part, rest - part
            if rest > 0.0:
                break
            i += 1
            rest = masses[i] if i < losses.size else 0.0
        reached = rest > 0.0 or missing <= POINT_TOLERANCE * spacing * mass
        out[point if reached else point - 1] += mass
    return out


@jit
def fuse_down(
    losses: np.ndarray, masses: np.ndarray, offset: float, spacing: float
) -> tuple[np.ndarray, float]:
    """Atoms (sorted by loss, none below `offset`) fused into groups from the largest loss down.

    Each group takes atoms until its mean of e^loss has fallen to the grid point below its first one.
    Groups stay narrow where masses fall with the loss, those of `fuse` where they grow.

    The last group may not reach its point, the offset: it is put there, and its mass times (mean of
    e^(loss - offset) - 1) is returned beside the masses.
    """
    out = np.zeros(ceil((losses[-1] - offset) / spacing) + 2)
    i = losses.size - 1
    point, excess, rest = 0, 0.0, masses[i]
    while i >= 0:
        point = max(0, floor((losses[i] - offset) / spacing))
        if point > 0 and offset + point * spacing > losses[i]:
            point -= 1
        target = offset + point * spacing
        mass, excess = 0.0, 0.0
        while i >= 0:
            under = -expm1(losses[i] - target)
            part = min(rest, max(0.0, excess) / under) if under > 0.0 else rest
            mass, excess, rest = mass + part, excess - under * part, rest - part
            if rest > 0.0:
                break
            i -= 1
            rest = masses[i] if i >= 0 else 0.0
        out[point] += mass
    return out, excess if point == 0 else 0.0


@jit
def hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The values at x (increasing) of the largest convex function that is nowhere above (x, y)."""
    kept = np.empty(x.size, dtype=np.int64)
    count = 0
    for i in range(x.size):
        while count > 1:
            a, b = kept[count - 2], kept[count - 1]
            if (y[b] - y[a]) * (x[i] - x[b]) < (y[i] - y[b]) * (x[b] - x[a]):
                break
            count -= 1
        kept[count] = i
        count += 1
    out = np.empty(x.size)
    for j in range(count - 1):
        a, b = kept[j], kept[j + 1]
        for i in range(a, b):
            out[i] = y[a] + (y[b] - y[a]) * ((x[i] - x[a]) / (x[b] - x[a]))
    out[-1] = y[-1]
    return out
