"""One mixed coordinate cut into cells of outcomes, and loops over lattices of privacy losses."""

from math import ceil, exp, expm1, floor

import numpy as np

from mmaccount.kernels.gaussian import NODES, WEIGHTS, _log_ratio, log_density
from mmaccount.kernels.logspace import jit

REACH = 13.0  # std beyond the edges of the mixing, and of their shifted copy; what is cut off is below 1e-37
ROUNDING = 1e-9  # of a lattice spacing, by which an atom may be moved down to a point


@jit
def _log_likelihood_ratio(t: float, shift: float, width: float) -> float:
    return _log_ratio(t, -shift, width) if width > 0.0 else shift * (t - 0.5 * shift)


@jit
def _fill(starts: np.ndarray, step: float, shift: float, width: float, masses: np.ndarray, shifted: np.ndarray) -> None:
    norm = step / width if width > 0.0 else step
    for i in range(starts.size):
        for j in range(NODES.size):
            t = starts[i] + step * NODES[j]
            log_r = _log_likelihood_ratio(t, shift, width)
            log_p = log_density(t, width) if width > 0.0 else -0.5 * t * t - 0.9189385332046727
            masses[i] += norm * WEIGHTS[j] * exp(log_p)
            shifted[i] += norm * WEIGHTS[j] * exp(log_p + log_r)


@jit
def coordinate_cells(shift: float, width: float, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The outcomes of one coordinate in cells, by increasing likelihood ratio.

    Returns, per cell: the log ratio r = p(x - shift)/p(x) at its lower and upper end (r increases in x, as p is
    log-concave), its mass without the shift, and with it. 12-point Gauss-Legendre: log p changes by (|x| + 1) step at most
    in a cell, so the relative error is below 1e-20 for |x| step < 1.
    """
    windows = [(-width - REACH, shift + REACH)]
    apart = width - shift - 2.0 * REACH
    if apart > 0.0:
        windows = [(-width - REACH, -width + shift + REACH), (-REACH, shift + REACH)]
    sizes = [ceil((hi - lo) / step) for lo, hi in windows]
    size = sum(np.array(sizes)) + len(windows) - 1
    low, high, masses, shifted = np.empty(size), np.empty(size), np.zeros(size), np.zeros(size)
    at = 0
    for i in range(len(windows)):
        lo, hi = windows[i]
        count = sizes[i]
        fine = (hi - lo) / count
        starts = lo + fine * np.arange(count)
        for k in range(count):
            low[at + k] = _log_likelihood_ratio(starts[k], shift, width)
            high[at + k] = _log_likelihood_ratio(starts[k] + fine, shift, width)
        _fill(starts, fine, shift, width, masses[at : at + count], shifted[at : at + count])
        at += count
        if i + 1 < len(windows):  # between the edges all outcomes are equally likely, up to 1e-37
            low[at], high[at] = 0.0, 0.0
            masses[at] = apart / width
            shifted[at] = apart / width
            at += 1
    return low, high, masses, shifted


@jit
def fuse(losses: np.ndarray, masses: np.ndarray, offset: float, spacing: float) -> np.ndarray:
    """Atoms (sorted by loss, all above `offset`) fused into groups of neighbours whose mean of e^loss is a lattice point.

    Returns the masses at the losses offset + k * spacing. An atom may be shared by two groups. Each group starts where the
    last one ended and takes atoms until its mean reaches the next lattice point; one that never does falls to the point
    below its first atom. Merging outcomes, or lowering a loss, lowers the profile.
    """
    out = np.zeros(ceil((losses[-1] - offset) / spacing) + 2)
    i, rest = 0, masses[0]
    while i < losses.size:
        point = max(1, ceil((losses[i] - offset) / spacing - ROUNDING))
        target = offset + point * spacing
        if losses[i] >= target:  # on the point, or moved down to it by less than ROUNDING
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
        out[point if rest > 0.0 else point - 1] += mass
    return out


@jit
def fuse_down(losses: np.ndarray, masses: np.ndarray, offset: float, spacing: float) -> tuple[np.ndarray, float]:
    """As `fuse`, from the largest loss down: each group takes atoms until its mean has fallen to the lattice point below its
    first one. Groups stay narrow where masses fall with the loss, those of `fuse` where they grow. No atom below `offset`.

    The last group may not reach its point, the offset: it is put there, and its mass times (mean of e^(loss - offset) - 1)
    is returned beside the masses.
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
