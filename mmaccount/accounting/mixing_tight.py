"""A pair smaller than the envelope of all shifts that dominates a step beside an auxiliary mechanism.

Over many steps the p-sparse shift is the worst one, and the envelope, worst at every single
threshold, asks for too much. Let M be an auxiliary mechanism: a pair of our own, independent of all
else. Let D be the smaller pair, and suppose that for every admitted shift
    (a subsampled step with that shift, M) is dominated by (D, M).                      (*)
Then T steps, each shift chosen in view of what came before, are dominated by T times D and M once:
    A run is dominated by (step 1, ..., step T, M), which tells more. Given what came before,
    (step T, M) is dominated by (D, M), so the run is by (step 1, ..., step T - 1, D, M). Go on with
    step T - 1 and M.
Adaptive composition keeps the order (Zhu-Dong-Wang 2022, arXiv 2106.08567, Theorem 10). Phases of
other kinds may stand in between; every kind brings an auxiliary mechanism of its own.

(*) is checked numerically. In the notation of mixing_envelope.py, shifts are sorted into cells by
theta = Int u dnu / (X s^2). A bound E_cell on the profiles of the shifts in one cell makes a pair;
subsampling keeps the order, and so does rounding up to a grid of losses (pld.py). On a grid,
domination is an inequality between piecewise linear profiles at their kinks. D starts from the last
cell, next to the p-sparse shift, and from the envelope where that is small; the other cells have to
be below it once M has smoothed both. They are, since their second moments are smaller ((S) in
step_moments.py) and M hides the rest.

M has a normal body, BODY_WIDTHS standard deviations of a step wide, and an exponential left tail of
rate TAIL_RATES / q: if outcomes could become unlikely ever faster, a spread-out shift would tell
more than the sparse one at the far left.

The cells are bounded as in mixing_envelope.py, with two additions:
- theta in [a, b] near 1 is also expanded around the p-sparse shift itself:
      A = Int (psi - psi_s) dnu,
      |A| <= X (1 - a) sup_u [|rho(u)| / (1 - u/s^2) + |psi_s - psi_0|],
      T[Phi_s A] <= X (1 - a) sup_u T[Phi_s rho(u)]_+ / (1 - u/s^2)
                    - X (1 - theta) T[Phi_s (psi_s - psi_0)].
  Between the last two grid shifts c < v < s interpolation of u rho errs by
  sup |h''| (v - c)(s - v) / 2, and rho(s^2) = 0: rho / (1 - u/s^2) is at most its value at c times
  c^2 (s + c) / (v^2 (s + v)), a factor between 1 and c^2 (s + c) / (2 s^3), and four times `missed`
  over 1 - c^2/s^2.
- elsewhere rho(u) is written as f(u) rho(u*) and a rest, 0 <= f, at most about 1, u f linear in v
  between grid shifts. The range of Int f dnu / X, up to 1 + ratio^2, is cut into AMPLITUDE_PARTS,
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
    InversionTerms,
    from_profile,
    inversion_terms,
    largest_between,
)
from mmaccount.accounting.pld import Atoms, GridPld, split, subsampled
from mmaccount.accounting.step_moments import StepShape, log_moments

# Edges of the cells of theta: coarse ones, and finer ones next to the p-sparse shift.
COARSE_THETA_EDGES = (0.0, 0.0625, 0.125, 0.25, 0.375, 0.5, 0.6, 0.7, 0.775)
THETA_EDGES = (*COARSE_THETA_EDGES, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 1.0)
SPARSE_FROM = 0.6  # theta from which cells are also expanded around the p-sparse shift
AMPLITUDE_PARTS = 3
SHIFT_LOG_RATIO = 0.03  # of neighbouring shifts at most, as a logarithm
INVERSION_TILTS = (1.0, 2.0)
SMOOTHING = 0.05  # sigma over the standard deviation of the loss
# Times sigma; E_cell of SMALLEST_E_CELL and more does not need the frequencies beyond.
HIGHEST_FREQUENCY = 5.5
SMALLEST_E_CELL = 1e-4  # probability, below which all cells are as large as the envelope
# The smaller pair is the bound on the last cell, and a share of what the cells from this theta on
# exceed it by.
PAIR_FROM = 0.85
EXCESS_SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
POINTS_PER_STD = 15.0  # grid points per standard deviation of a step
BODY_WIDTHS = (4.0, 6.0, 9.0)
TAIL_RATES = (0.8, 0.5, 0.35, 0.25)
TAIL_REACH = 90.0  # the exponent at which the exponential tail of the auxiliary mechanism ends
BODY_REACH = 9.5  # standard deviations of its normal body
# Standard deviation of the ratio of a step; beyond, an auxiliary mechanism that is worth many steps
# would tell too much.
MOST_DEVIATION = 1.0
GRANTED_PROBABILITY = 1e-34  # probability granted per step, for what is smaller than that
# Relative, of profiles. Masses of the smaller pair are raised by twice that, for where rounding is the
# only difference.
PROFILE_TOLERANCE = 1e-10
CELL_MASS_ERROR = 1e-12  # of a mass, absolute or relative


class SmallerPair(NamedTuple):
    """A pair for one subsampled step, and the auxiliary mechanism beside which it dominates the step.

    Both are laws of the loss in the removal direction.
    """

    pair: GridPld
    auxiliary: GridPld
    worth: float  # variance of the auxiliary mechanism, in steps


def _per_distance(
    terms: InversionTerms, values: np.ndarray, missed: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """sup over u of (a function, or 0) / (1 - u/s^2), the function given as largest_between takes
    it, its bound below the grid and, at the last grid shift, 0."""
    left = 1.0 - terms.parts
    inner = largest_between(values[:, :-1], missed[:, :-1], terms.ratio) / left[1:-1]
    last, least = values[:, -2], 0.5 * terms.parts[-2] * (1.0 + terms.parts[-2] ** 0.5)
    end = (np.maximum(last, least * last) + 4.0 * missed[:, -1]) / left[-2]
    return np.asarray(np.maximum(np.maximum(np.max(inner, axis=1), end), zero / left[0]))


def _near_sparse(
    terms: InversionTerms, expander: Expander, budget: float, a: float, b: float
) -> np.ndarray:
    """E_cell of theta in [a, b], expanded around the p-sparse shift."""
    size = np.abs(terms.difference)
    zero = terms.near_zero + terms.parts[0] * size
    largest = _per_distance(terms, np.abs(terms.rho).T, terms.missed.T, zero) + size
    expansion = expander.around(
        terms.psi[-1], budget * (1.0 - a) * largest, terms.rho, terms.difference
    )
    zero = expansion.near_zero + terms.parts[0] * np.abs(expansion.along)
    bow = _per_distance(terms, expansion.rows, expansion.between, zero)
    slope = np.maximum(-(1.0 - a) * expansion.along, -(1.0 - b) * expansion.along)
    return np.asarray(expansion.value + slope + (1.0 - a) * bow + expansion.rest)


def _shape_of_rho(
    terms: InversionTerms, budget: float, theta: float
) -> tuple[np.ndarray, np.ndarray]:
    """(f at each grid shift, rho(u*)): rho(u) is about f(u) rho(u*), in the frequencies that count."""
    exponent = budget * (terms.psi_0 + theta * terms.difference)
    weights = np.where(terms.trusted, np.abs(terms.kernel * np.exp(exponent)), 0.0)
    amplitude = np.max(np.abs(terms.rho) * weights, axis=1)
    top = terms.rho[int(np.argmax(amplitude))]
    return amplitude / np.max(amplitude), top


def _anywhere(
    terms: InversionTerms, expander: Expander, budget: float, a: float, b: float
) -> np.ndarray:
    """E_cell of theta in [a, b], cut by amplitude."""
    theta, half = 0.5 * (a + b), 0.5 * (b - a)
    part = 0.5 * (1.0 + terms.ratio**2) / AMPLITUDE_PARTS
    difference, first = terms.difference, terms.parts[0]
    shares, top = _shape_of_rho(terms, budget, theta)
    rest_of_rho = terms.rho - shares[:, None] * top

    zero = terms.near_zero + first * np.abs(difference) + shares[0] * np.abs(top)
    inner = largest_between(np.abs(rest_of_rho).T, terms.missed.T, terms.ratio)
    largest = np.maximum(np.max(inner, axis=1), zero)
    largest = budget * (largest + half * np.abs(difference) + part * np.abs(top))

    bound = np.zeros(expander.decay.size)
    for share in (2.0 * np.arange(AMPLITUDE_PARTS) + 1.0) * part:
        exponent = terms.psi_0 + theta * difference + share * top
        expansion = expander.around(exponent, largest, np.vstack([rest_of_rho, top]), difference)
        rows, along_top = expansion.rows[:, :-1], np.abs(expansion.rows[:, -1])
        slope = np.abs(expansion.along)
        bow = np.max(largest_between(rows, expansion.between, terms.ratio), axis=1)
        zero = expansion.near_zero + first * slope + shares[0] * along_top
        linear = expansion.value + half * slope + part * along_top
        bound = np.maximum(bound, linear + np.maximum(bow, zero) + expansion.rest)
    return bound


def _cells(step: StepShape) -> tuple[np.ndarray, np.ndarray]:
    """(epsilons, E_cell): cells x epsilons.

    The envelope where that is smaller, or below SMALLEST_E_CELL.
    """
    budget = step.copies * step.shift**2
    epsilons, upper = mixing_envelope.profile(step)
    near = int(np.searchsorted(-upper, -SMALLEST_E_CELL))
    best = np.repeat(upper[None, :], len(THETA_EDGES) - 1, axis=0)
    sigma = SMOOTHING * float(epsilons[1]) * mixing_envelope.POINTS_PER_STD
    period = 1.5 * float(epsilons[-1]) + 5.0
    for terms in inversion_terms(
        step, INVERSION_TILTS, sigma, period, ratio=SHIFT_LOG_RATIO, frequency=HIGHEST_FREQUENCY
    ):
        expander = Expander(terms, budget, epsilons[:near])
        for cell, (a, b) in enumerate(pairwise(THETA_EDGES)):
            bounds = [_anywhere(terms, expander, budget, a, b)] if b < 1.0 else []
            if a >= SPARSE_FROM:
                bounds.append(_near_sparse(terms, expander, budget, a, b))
            for bound in bounds:
                best[cell, :near] = np.fmin(best[cell, :near], bound)
    return epsilons, best


def _auxiliary(sigma: float, rate: float, spacing: float) -> GridPld:
    """An auxiliary mechanism with a normal body and an exponential left tail.

    Any law of e^loss with mean one will do: its mean is moved there, off the grid, and atoms are
    split.
    """
    reach = floor(BODY_REACH * sigma / spacing)
    body = np.arange(-reach, reach + 1) * spacing
    tail = np.arange(-floor(TAIL_REACH / rate / spacing), 1) * spacing
    normal = np.exp(-((body + 0.5 * sigma**2) ** 2) / (2.0 * sigma**2))
    masses = np.convolve(normal, np.exp(rate * tail))
    masses = masses / np.sum(masses)
    losses = body[0] + tail[0] + spacing * np.arange(masses.size)
    mean = float(np.sum(masses * np.exp(losses)))
    return split(Atoms(losses - log(mean), masses), spacing)


def _difference(cell: GridPld, pair: GridPld) -> tuple[int, np.ndarray]:
    """(index of the first point, masses of `cell` raised by rounding errors less those of `pair`).

    From the first to the last point where they differ. Masses are second differences of a profile
    that is near 1 - x for x < 1: absolute errors there, relative ones above.
    """
    laws = (cell, pair)
    starts = [round(law.start / law.spacing) for law in laws]
    ends = [start + law.masses.size for start, law in zip(starts, laws, strict=True)]
    first = min(starts)
    size = max(ends) - first
    ours, theirs = (
        np.pad(law.masses, (start - first, size))[:size]
        for start, law in zip(starts, laws, strict=True)
    )
    less = ours - theirs
    errors = CELL_MASS_ERROR * (ours + theirs + (first + np.arange(size) <= 0))
    differs = np.flatnonzero(np.abs(less) > 0.0)
    part = slice(differs[0], differs[-1] + 1) if differs.size else slice(0, 1)
    return first + int(part.start), (less + errors)[part]


def _calls_and_puts(law: GridPld, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[(y e^loss - 1)_+] and E[(1 - y e^loss)_+] at y = e^(points * spacing)."""
    start, shifted = round(law.start / law.spacing), law.masses * np.exp(law.losses)
    above = [np.append(np.cumsum(part[::-1])[::-1], 0.0) for part in (law.masses, shifted)]
    below = [np.append(0.0, np.cumsum(part)) for part in (law.masses, shifted)]
    y = np.exp(points * law.spacing)
    at = np.clip(-points - start, 0, law.masses.size)
    calls = np.maximum(0.0, y * above[1][at] - above[0][at])
    puts = np.maximum(0.0, below[0][at] - y * below[1][at])
    return calls, puts


def _dominated(cell: GridPld, pair: GridPld, auxiliary: GridPld) -> bool:
    """Whether the profile of (cell, M) is nowhere above that of (pair, M) by more than the tolerance.

    True only if the infinite and absent masses of the pair are as large, and these are left aside
    then. The excess is sum_j less_j call(y e^j) and, as masses and means agree, the same with puts:
    for removal it has to be small against the call of M, for addition against the put, at every y.
    Both are linear in y beyond the points tried: there the limits decide, y -> 0 of puts and
    y -> infinity of calls over y.
    """
    if cell.infinite > pair.infinite or cell.absent > pair.absent:
        return False
    first, less = _difference(cell, pair)
    spacing = auxiliary.spacing
    forward = less * np.exp((first + np.arange(less.size)) * spacing)
    if max(np.sum(less), np.sum(forward)) > PROFILE_TOLERANCE:
        return False
    start, size = round(auxiliary.start / spacing), auxiliary.masses.size
    points = np.arange(-(start + size) - (first + less.size), 2 - start - first)
    wide = np.arange(points[0] + first, points[-1] + first + less.size)
    small = GRANTED_PROBABILITY * np.minimum(1.0, np.exp(points * spacing))
    far, own = _calls_and_puts(auxiliary, wide), _calls_and_puts(auxiliary, points)
    for values, allowed in zip(far, own, strict=True):
        if np.any(np.correlate(values, less, "valid") > PROFILE_TOLERANCE * allowed + small):
            return False
    return True


def _law(epsilons: np.ndarray, values: np.ndarray, q: float, spacing: float) -> GridPld:
    """The subsampled step whose unsubsampled profile has these values."""
    return split(subsampled(from_profile(epsilons, values).atoms(), q), spacing)


def _spacing(deviation: float, q: float) -> float:
    """POINTS_PER_STD points a standard deviation; with q < 1 the smallest loss, log(1 - q), is a point."""
    spacing = deviation / POINTS_PER_STD
    if q == 1.0:
        return spacing
    lowest = -log1p(-q)
    return lowest / ceil(lowest / spacing)


def _auxiliaries(deviation: float, q: float, spacing: float) -> list[tuple[float, GridPld]]:
    """(worth, mechanism), those worth the fewest steps first."""
    mechanisms = []
    for width in BODY_WIDTHS:
        for rate in TAIL_RATES:
            worth = width**2 + (q / rate / deviation) ** 2
            mechanisms.append((worth, _auxiliary(width * deviation, rate / q, spacing)))
    return sorted(mechanisms, key=lambda pair: pair[0])


def _raised(law: GridPld) -> GridPld:
    """The law with what the check of domination tolerates added."""
    return law._replace(
        masses=law.masses * (1.0 + 2.0 * PROFILE_TOLERANCE),
        infinite=law.infinite + GRANTED_PROBABILITY,
        absent=law.absent + GRANTED_PROBABILITY,
    )


@lru_cache(maxsize=64)
def smaller_pairs(step: StepShape, q: float) -> tuple[SmallerPair, ...]:
    """Pairs that dominate a step with sampling rate q beside an auxiliary mechanism each.

    The smallest pair comes first; a later one is listed if its mechanism is worth fewer steps.
    Empty if none was found.
    """
    deviation = q * expm1(float(log_moments(step, np.array([2.0]))[0])) ** 0.5
    if not deviation <= MOST_DEVIATION:
        return ()
    spacing = _spacing(deviation, q)
    epsilons, bounds = _cells(step)
    upper = np.max(bounds, axis=0)
    cells = [_law(epsilons, values, q, spacing) for values in bounds]
    mechanisms = _auxiliaries(deviation, q, spacing)
    least, most = bounds[-1], np.max(bounds[THETA_EDGES.index(PAIR_FROM) :], axis=0)

    pairs: list[SmallerPair] = []
    for share in EXCESS_SHARES:
        values = np.where(upper < SMALLEST_E_CELL, upper, least + share * (most - least))
        law = _law(epsilons, values, q, spacing)
        for worth, auxiliary in mechanisms:
            if pairs and worth >= pairs[-1].worth:
                break
            if all(_dominated(cell, law, auxiliary) for cell in reversed(cells)):
                pairs.append(SmallerPair(_raised(law), auxiliary, worth))
                break
    return tuple(pairs)
