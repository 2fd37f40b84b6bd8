"""A pair smaller than the envelope of all shifts that dominates a step all the same, next to a
catalyst.

Over many steps the p-sparse shift is the worst one, and the envelope, worst at every single
threshold, asks for too much. Let M be a pair of our own, the catalyst, independent of all else, and
suppose that for every admitted shift
    (a subsampled step with that shift, M) is dominated by (star, M).
    (*)
Then T steps, each shift chosen in view of what came before, are dominated by T times star and M
once:
    a run is dominated by (step 1, ..., step T, M), which tells more. Given what came before, (step
    T, M) is dominated by (star, M), so the run is by (step 1, ..., step T - 1, star, M). Go on with
    step T - 1 and M.
Adaptive composition keeps the order (Zhu-Dong-Wang 2022, arXiv 2106.08567, Theorem 10). Phases of
other kinds may stand in between; every kind brings a catalyst of its own.

(*) is checked numerically. In the notation of mixing_envelope.py, shifts are sorted into cells by
theta = Int u dnu / (X s^2). A bound E_cell on the profiles of the shifts in one cell makes a pair;
subsampling keeps the order, and so does rounding up to a lattice (pld.py). On a lattice, domination
is an inequality between piecewise linear profiles at their kinks. Star starts from the last cell,
next to the p-sparse shift, and from the envelope where that is small; the other cells have to be
below it once M has smoothed both. They are, since their second moments are smaller ((S) in
step_moments.py) and M hides the rest.

M has a normal body, WIDTHS standard deviations of a step wide, and an exponential left tail of rate
RATES / q: if outcomes could become unlikely ever faster, a spread-out shift would tell more than
the sparse one at the far left.

The cells are bounded as in mixing_envelope.py, with two additions:
- theta in [a, b] near 1 is also expanded around the p-sparse shift itself: A = Int (psi - psi_s)
  dnu, so that
      |A| <= X (1 - a) sup_u [|rho(u)| / (1 - u/s^2) + |psi_s - psi_0|],
      T[Phi_s A] <= X (1 - a) sup_u T[Phi_s rho(u)]_+ / (1 - u/s^2) - X (1 - theta) T[Phi_s (psi_s -
      psi_0)].
  Between the last two grid shifts c < v < s interpolation of u rho errs by sup |h''| (v - c)(s - v)
  / 2, and rho(s^2) = 0: rho / (1 - u/s^2) is at most its value at c times c^2 (s + c) / (v^2 (s +
  v)), a factor between 1 and c^2 (s + c) / (2 s^3), and four times `missed` over 1 - c^2/s^2.
- elsewhere rho(u) is written as f(u) rho(u*) and a rest, 0 <= f, at most about 1, u f linear in v
  between grid shifts. The range of Int f dnu / X, up to 1 + ratio^2, is cut into AMPLITUDES parts,
  and A is expanded around the middle of each.
"""

from functools import lru_cache
from itertools import pairwise
from math import ceil, expm1, floor, log, log1p
from typing import NamedTuple

import numpy as np

from mmaccount.accounting import mixing_envelope
from mmaccount.accounting.mixing_envelope import (
    Expander,
    Line,
    from_profile,
    largest_between,
    lines,
)
from mmaccount.accounting.pld import Atoms, Lattice, split, subsampled
from mmaccount.accounting.step_moments import Geometry, log_moments

THETA = (
    0.0,
    0.0625,
    0.125,
    0.25,
    0.375,
    0.5,
    0.6,
    0.7,
    0.775,
    0.85,
    0.9,
    0.93,
    0.95,
    0.97,
    0.98,
    1.0,
)
SPARSE_END = 0.6  # theta from which cells are also expanded around the p-sparse shift
AMPLITUDES = 3
RATIO = 0.03  # of neighbouring shifts at most, as a logarithm
TILTS = (1.0, 2.0)
SMOOTHING = 0.05  # sigma over the standard deviation of the loss
FREQUENCY = 5.5  # highest frequency times sigma; E_cell of SMALL and more does not need the others
SMALL = 1e-4  # probability, below which all cells are as large as the envelope
# theta; star is the bound on the last cell, and a share of what the cells from here on exceed it by
STAR_FROM = 0.85
SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
POINTS = 15.0  # lattice points per standard deviation of a step
WIDTHS = (4.0, 6.0, 9.0)
RATES = (0.8, 0.5, 0.35, 0.25)
TAIL = 90.0  # exponents, after which the exponential tail of the catalyst ends
BODY = 9.5  # standard deviations of its normal body
# of the ratio of a step; beyond, a catalyst worth many steps would tell too much
MOST_DEVIATION = 1.0
EXTRA = 1e-34  # probability granted per step, for what is smaller than that
# relative, of profiles; star's masses are larger by twice that, for where rounding is the only
# difference
TOLERANCE = 1e-10
ROUNDING = 1e-12  # of a mass, absolute or relative


class Exchange(NamedTuple):
    """Star and catalyst: laws of the loss in the removal direction, star for one subsampled step."""

    star: Lattice
    catalyst: Lattice
    worth: float  # variance of the catalyst in steps


def _per_distance(
    line: Line, values: np.ndarray, missed: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """sup over u of (a function, or 0) / (1 - u/s^2), the function given as largest_between takes
    it, its bound below the grid and, at the last grid shift, 0."""
    left = 1.0 - line.parts
    inner = largest_between(values[:, :-1], missed[:, :-1], line.ratio) / left[1:-1]
    last, least = values[:, -2], 0.5 * line.parts[-2] * (1.0 + line.parts[-2] ** 0.5)
    end = (np.maximum(last, least * last) + 4.0 * missed[:, -1]) / left[-2]
    return np.asarray(np.maximum(np.maximum(np.max(inner, axis=1), end), zero / left[0]))


def _near_sparse(line: Line, expander: Expander, budget: float, a: float, b: float) -> np.ndarray:
    """E_cell of theta in [a, b], expanded around the p-sparse shift."""
    zero = line.near_zero + line.parts[0] * np.abs(line.difference)
    largest = _per_distance(line, np.abs(line.rho).T, line.missed.T, zero) + np.abs(line.difference)
    made = expander.around(line.psi[-1], budget * (1.0 - a) * largest, line.rho, line.difference)
    bow = _per_distance(
        line, made.rows, made.between, made.near_zero + line.parts[0] * np.abs(made.along)
    )
    slope = np.maximum(-(1.0 - a) * made.along, -(1.0 - b) * made.along)
    return np.asarray(made.value + slope + (1.0 - a) * bow + made.rest)


def _anywhere(line: Line, expander: Expander, budget: float, a: float, b: float) -> np.ndarray:
    """E_cell of theta in [a, b], cut by amplitude."""
    theta, half, part = 0.5 * (a + b), 0.5 * (b - a), 0.5 * (1.0 + line.ratio**2) / AMPLITUDES
    rho, difference = line.rho, line.difference
    weights = np.where(
        line.trusted, np.abs(line.kernel * np.exp(budget * (line.psi_0 + theta * difference))), 0.0
    )
    amplitude = np.max(np.abs(rho) * weights, axis=1)
    top = rho[int(np.argmax(amplitude))]
    shares = amplitude / np.max(amplitude)
    left = rho - shares[:, None] * top
    zero = line.near_zero + line.parts[0] * np.abs(difference) + shares[0] * np.abs(top)
    largest = np.maximum(
        np.max(largest_between(np.abs(left).T, line.missed.T, line.ratio), axis=1), zero
    )
    largest = budget * (largest + half * np.abs(difference) + part * np.abs(top))
    found = np.zeros(expander.decay.size)
    for share in (2.0 * np.arange(AMPLITUDES) + 1.0) * part:
        exponent = line.psi_0 + theta * difference + share * top
        made = expander.around(exponent, largest, np.vstack([left, top]), difference)
        rows, along, slope = made.rows[:, :-1], made.rows[:, -1], made.along
        bow = np.max(largest_between(rows, made.between, line.ratio), axis=1)
        zero_here = made.near_zero + line.parts[0] * np.abs(slope) + shares[0] * np.abs(along)
        bound = (
            made.value
            + half * np.abs(slope)
            + part * np.abs(along)
            + np.maximum(bow, zero_here)
            + made.rest
        )
        found = np.maximum(found, bound)
    return found


def _cells(step: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """(epsilons, E_cell): cells x epsilons, the envelope where that is smaller or below SMALL."""
    budget = step.copies * step.shift**2
    epsilons, upper = mixing_envelope.profile(step)
    near = int(np.searchsorted(-upper, -SMALL))
    found = np.repeat(upper[None, :], len(THETA) - 1, axis=0)
    sigma = SMOOTHING * float(epsilons[1]) * mixing_envelope.PARTS
    for line in lines(
        step, TILTS, sigma, 1.5 * float(epsilons[-1]) + 5.0, ratio=RATIO, frequency=FREQUENCY
    ):
        expander = Expander(line, budget, epsilons[:near])
        for cell, (a, b) in enumerate(pairwise(THETA)):
            bounds = [_anywhere(line, expander, budget, a, b)] if b < 1.0 else []
            if a >= SPARSE_END:
                bounds.append(_near_sparse(line, expander, budget, a, b))
            for bound in bounds:
                found[cell, :near] = np.fmin(found[cell, :near], bound)
    return epsilons, found


def _smooth(sigma: float, rate: float, spacing: float) -> Lattice:
    """A catalyst. Any law of e^loss with mean one will do: its mean is moved there, off the
    lattice, and atoms are split."""
    body = np.arange(-floor(BODY * sigma / spacing), floor(BODY * sigma / spacing) + 1) * spacing
    tail = np.arange(-floor(TAIL / rate / spacing), 1) * spacing
    masses = np.convolve(
        np.exp(-((body + 0.5 * sigma**2) ** 2) / (2.0 * sigma**2)), np.exp(rate * tail)
    )
    losses = body[0] + tail[0] + spacing * np.arange(masses.size)
    masses = masses / np.sum(masses)
    return split(Atoms(losses - log(float(np.sum(masses * np.exp(losses)))), masses), spacing)


def _difference(cell: Lattice, star: Lattice) -> tuple[int, np.ndarray]:
    """(index of the first point, masses of `cell` raised by rounding errors less those of `star`)
    from the first to the last point where they differ.

    Masses are second differences of a profile that is near 1 - x for x < 1: absolute errors there,
    relative ones above.
    """
    starts = [round(law.start / law.spacing) for law in (cell, star)]
    first = min(starts)
    size = (
        max(start + law.masses.size for start, law in zip(starts, (cell, star), strict=True))
        - first
    )
    both = [
        np.pad(law.masses, (start - first, size))
        for start, law in zip(starts, (cell, star), strict=True)
    ]
    less = both[0][:size] - both[1][:size]
    errors = ROUNDING * (both[0][:size] + both[1][:size] + (first + np.arange(size) <= 0))
    held = np.flatnonzero(np.abs(less) > 0.0)
    part = slice(held[0], held[-1] + 1) if held.size else slice(0, 1)
    return first + int(part.start), (less + errors)[part]


def _calls_and_puts(law: Lattice, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[(y e^loss - 1)_+] and E[(1 - y e^loss)_+] at y = e^(points * spacing)."""
    start, shifted = round(law.start / law.spacing), law.masses * np.exp(law.losses)
    above = [np.append(np.cumsum(part[::-1])[::-1], 0.0) for part in (law.masses, shifted)]
    below = [np.append(0.0, np.cumsum(part)) for part in (law.masses, shifted)]
    y, at = np.exp(points * law.spacing), np.clip(-points - start, 0, law.masses.size)
    return np.maximum(0.0, y * above[1][at] - above[0][at]), np.maximum(
        0.0, below[0][at] - y * below[1][at]
    )


def _dominated(cell: Lattice, star: Lattice, catalyst: Lattice) -> bool:
    """Whether the profile of (cell, M) is nowhere above that of (star, M) by more than the
    tolerance. True only if the infinite and absent masses of star are as large, and these are left
    aside then.

    The excess is sum_j less_j call(y e^j) and, as masses and means agree, the same with puts: for
    removal it has to be small against the call of M, for addition against the put, at every y. Both
    are linear in y beyond the points tried: there the limits decide, y -> 0 of puts and y ->
    infinity of calls over y.
    """
    first, less = _difference(cell, star)
    forward = less * np.exp((first + np.arange(less.size)) * catalyst.spacing)
    if (
        max(np.sum(less), np.sum(forward)) > TOLERANCE
        or cell.infinite > star.infinite
        or cell.absent > star.absent
    ):
        return False
    start, size = round(catalyst.start / catalyst.spacing), catalyst.masses.size
    points = np.arange(-(start + size) - (first + less.size), 2 - start - first)
    wide = np.arange(points[0] + first, points[-1] + first + less.size)
    small = EXTRA * np.minimum(1.0, np.exp(points * catalyst.spacing))
    for near, own in zip(
        _calls_and_puts(catalyst, wide), _calls_and_puts(catalyst, points), strict=True
    ):
        if np.any(np.correlate(near, less, "valid") > TOLERANCE * own + small):
            return False
    return True


def _law(epsilons: np.ndarray, values: np.ndarray, q: float, spacing: float) -> Lattice:
    return split(subsampled(from_profile(epsilons, values).atoms(), q), spacing)


@lru_cache(maxsize=64)
def exchanges(step: Geometry, q: float) -> tuple[Exchange, ...]:
    """Stars with a catalyst each, the smallest star first; empty if none was found."""
    deviation = q * expm1(float(log_moments(step, np.array([2.0]))[0])) ** 0.5
    if not deviation <= MOST_DEVIATION:
        return ()
    spacing = deviation / POINTS
    spacing = -log1p(-q) / ceil(-log1p(-q) / spacing) if q < 1.0 else spacing
    epsilons, bounds = _cells(step)
    upper, laws = np.max(bounds, axis=0), [_law(epsilons, values, q, spacing) for values in bounds]
    catalysts = [_smooth(w * deviation, r / q, spacing) for w in WIDTHS for r in RATES]
    worths = [w**2 + (q / r / deviation) ** 2 for w in WIDTHS for r in RATES]
    found: list[Exchange] = []
    least, most = bounds[-1], np.max(bounds[THETA.index(STAR_FROM) :], axis=0)
    for share in SHARES:
        values = np.where(upper < SMALL, upper, least + share * (most - least))
        star = _law(epsilons, values, q, spacing)
        for worth, catalyst in sorted(
            zip(worths, catalysts, strict=True), key=lambda pair: pair[0]
        ):
            if found and worth >= found[-1].worth:
                break
            if all(_dominated(cell, star, catalyst) for cell in reversed(laws)):
                masses = star.masses * (1.0 + 2.0 * TOLERANCE)
                law = Lattice(
                    star.start, spacing, masses, star.infinite + EXTRA, star.absent + EXTRA
                )
                found.append(Exchange(law, catalyst, worth))
                break
    return tuple(found)
