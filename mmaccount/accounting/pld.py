"""Privacy loss distributions on a grid, rounded to a chosen side: every bound here holds for the
pair it stands for.

A pair (P, Q) of laws is held as atoms: losses log(dP/dQ) and their masses under Q. Its profile in x
= e^eps,
    H(x) = sum_i mass_i (e^loss_i - x)_+ = delta(log x),
is convex and piecewise linear, so a pair is bounded by bounding that function:
- upper: every atom is split over its two grid neighbours so that both masses are kept. The new
  profile is the chord of the old one between grid points (connect the dots: Doroshenko et al.
  2022, arXiv 2207.04380), and it is above by convexity.
- lower: neighbouring outcomes are merged into groups whose mean of e^loss is a grid point; a
  function of the outcome tells the adversary less.
Both rules err by the square of the spacing, not by the spacing, so spacing need not shrink with the
number of steps. A lower pair bounds one direction only: a loss that is lowered in it is raised in
the reversed pair. Each direction is therefore rounded by itself. What losses may be off by is
charged to them (`nudged`), not to masses: a loss that is too large by its rounding is no attack.
Composition and subsampling keep the order (Zhu-Dong-Wang 2022, arXiv 2106.08567, Theorems 10 and
11), and less mass anywhere lowers every delta, which is how errors are charged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, exp, expm1, floor, inf, log, log1p, log2
from typing import NamedTuple

import numpy as np
from numpy.fft import irfft, rfft

from mmaccount.kernels.pld import POINT_TOLERANCE, fuse, fuse_down

# relative, of a mass that a projection makes, the tilting of it and of the sum of all included
MASS_ERROR = 1e-13
FFT_ERROR = 8.0 * 2.0**-53
"""Error of a transform per log2 of its length: relative in the 2-norm, and of one frequency over the
sum of all masses.

Higham 2002, Accuracy and Stability of Numerical Algorithms, Theorem 24.2, for radix 2; for the
radices 2 to 5 of pocketfft counted likewise, u = 2^-53, to first order. A twiddle factor is assumed
to be off by 2 u at most, a complex product adds sqrt 5 u (Brent, Percival and Zimmermann 2007): 4.3
u a stage. Its sums add u for radix 2, 2 u for radix 4, 5 u for radix 3, 6 sqrt 5 u for radix 5 (six
roundings a term): in all 5.3, 6.3, 9.3 and 17.7 u, where 8 u log2(radix) is 8, 16, 12.6 and 18.5 u;
less at one frequency. Lengths have no other factor. Assumed, not proven: that numpy.fft is that
algorithm.
"""
LOSS_ROUNDING = 8.0 * 2.0**-53  # relative, of a loss and of a grid point: some roundings
# Steps of a run; beyond, the rounding of transforms, which is raised to that power, says all there is.
MOST_STEPS = 10**10
# Tilts at which powers are taken; per atom the one with the smallest error counts.
POWER_TILTS = (0.0, 0.5, 1.0, 2.0)
# Chernoff exponents tried, over the standard deviation and over the span.
CHERNOFF_SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
OUTSIDE_EXPONENT = 40.0  # e^-40 of the tilted mass may lie outside of a window
ALIGNMENT_TOLERANCE = 1e-9  # of a spacing, by which the smallest loss may miss its point
ANCHORINGS = 4  # rounds of moving the grid point that most of the mass lies at
ODD_FACTORS = (1, 3, 5, 9, 15, 25, 27, 45, 75, 81, 125)  # of the length of a transform
HIGH_LOSS = 700.0  # loss whose exponential is near the end of float64
FAR_DISTANCE = 600.0  # distance of grid points from which on an atom is moved up whole
TINY_MASS = 1e-300  # stands in for zero, in logarithms and divisions


class Atoms(NamedTuple):
    """A pair (P, Q) of laws as point masses of its privacy loss.

    Losses log(dP/dQ), their masses under Q; the mass of P where Q has none (infinite loss), and the
    mass of Q where P has none (absent).
    """

    losses: np.ndarray
    masses: np.ndarray
    infinite: float = 0.0
    absent: float = 0.0


class GridPld(NamedTuple):
    """A privacy loss distribution discretised on a grid: atoms at losses start + i * spacing."""

    start: float
    spacing: float
    masses: np.ndarray
    infinite: float = 0.0
    absent: float = 0.0

    @property
    def losses(self) -> np.ndarray:
        """The losses of all points."""
        return self.start + np.arange(self.masses.size) * self.spacing

    def atoms(self) -> Atoms:
        """The pair as atoms, without the grid; empty points left out."""
        held = self.masses > 0.0
        return Atoms(self.losses[held], self.masses[held], self.infinite, self.absent)


def reverse(atoms: Atoms) -> Atoms:
    """The pair (Q, P)."""
    return Atoms(-atoms.losses, atoms.masses * np.exp(atoms.losses), atoms.absent, atoms.infinite)


def subsampled(pair: Atoms, q: float) -> Atoms:
    """The step with sampling rate q, in the removal direction: (q P + (1 - q) Q, Q) (arXiv
    2106.08567, Theorem 11)."""
    if q == 1.0:
        return pair
    high = pair.losses > HIGH_LOSS
    rise = q * np.expm1(np.where(high, 0.0, pair.losses))
    rest = (1.0 - q) + q * np.exp(
        np.where(high, 0.0, pair.losses)
    )  # for q near 1, where 1 + rise has no digits left
    losses = np.where(rise < -0.5, np.log(rest), np.log1p(np.maximum(rise, -0.5)))
    losses = np.where(
        high, pair.losses + np.log(q + (1.0 - q) * np.exp(-np.abs(pair.losses))), losses
    )
    return Atoms(
        np.append(losses, log1p(-q)), np.append(pair.masses, pair.absent), q * pair.infinite
    )


def split(
    atoms: Atoms, spacing: float, spans: tuple[np.ndarray, np.ndarray] | None = None
) -> GridPld:
    """The upper rule, on multiples of the spacing. `spans`: smallest and largest loss of what each
    atom stands for (a cell of outcomes)."""
    lows, highs = (atoms.losses, atoms.losses) if spans is None else spans
    offset = floor(float(np.min(lows)) / spacing) * spacing
    below = np.maximum(0, np.floor((lows - offset) / spacing).astype(np.int64))
    above = np.maximum(np.ceil((highs - offset) / spacing).astype(np.int64), below + 1)
    low, high = offset + below * spacing, offset + above * spacing
    share = np.clip(
        np.expm1(np.minimum(atoms.losses - low, FAR_DISTANCE))
        / np.expm1(np.minimum(high - low, FAR_DISTANCE)),
        0.0,
        1.0,
    )
    share = np.where(
        (high - low < FAR_DISTANCE) | (atoms.losses <= low), share, 1.0
    )  # a smaller share could round to 0
    count = int(above.max()) + 1
    masses = np.bincount(above, share * atoms.masses, count) + np.bincount(
        below, (1.0 - share) * atoms.masses, count
    )
    return GridPld(offset, spacing, masses * (1.0 + MASS_ERROR), atoms.infinite, atoms.absent)


def merge(atoms: Atoms, spacing: float) -> GridPld:
    """The lower rule, on multiples of the spacing less a nudge: loss 0, where much mass may sit, is
    a point."""
    order = np.argsort(atoms.losses)
    losses = atoms.losses[order]
    start = (
        floor(losses[0] / spacing + ALIGNMENT_TOLERANCE) - 1
    ) * spacing  # a point below every loss, to fall to
    masses = fuse(losses, atoms.masses[order], start, spacing)
    return nudged(GridPld(start, spacing, masses * (1.0 - MASS_ERROR)), upper=False)


def nudged(grid: GridPld, *, upper: bool) -> GridPld:
    """The pair with what rounding may have done to losses added on the chosen side.

    Also what it may have done to means of groups of losses.
    """
    most = max(abs(grid.start), abs(grid.start + grid.masses.size * grid.spacing))
    move = POINT_TOLERANCE * grid.spacing + LOSS_ROUNDING * most
    return grid._replace(start=grid.start + (move if upper else -move))


class _Heap(NamedTuple):
    """Outcomes at one end of the losses, merged into one: most of the mass.

    Its mass, the sum of mass * (e^(loss - first) - 1), and the smallest of its losses. That sum has
    no cancellation: with rare sampling all losses are next to each other, and to 0.
    """

    mass: float
    rise: float
    first: float

    @property
    def mean(self) -> float:
        """The loss of the merged outcome."""
        return self.first + log1p(self.rise / self.mass)


def _heap(losses: np.ndarray, masses: np.ndarray) -> _Heap:
    first = float(losses[0])
    rise = float(np.sum(masses * np.expm1(losses - first)))
    return _Heap(float(np.sum(masses)), rise, first)


def _below(start: float, spacing: float, masses: np.ndarray) -> GridPld:
    """A pair with errors of masses and losses charged to the lower side."""
    return nudged(GridPld(start, spacing, masses * (1.0 - MASS_ERROR)), upper=False)


def merged_low(atoms: Atoms, spacing: float) -> GridPld:
    """The lower rule for atoms by increasing loss, most of whose mass is at the low end.

    The mean of that heap is a grid point. What the groups above leave over joins the heap, which
    moves its mean: ANCHORINGS rounds.
    """
    losses, masses = atoms.losses, atoms.masses
    near = losses < losses[0] + 0.5 * spacing
    heap, others = _heap(losses[near], masses[near]), ~near
    if not others.any():
        return _below(heap.mean, spacing, np.array([heap.mass]))
    mean = heap.mean
    for _ in range(ANCHORINGS):
        anchor = min(mean, float(losses[others][0]))
        groups, excess = fuse_down(losses[others], masses[others], anchor, spacing)
        apart = anchor - heap.first
        rise = heap.rise + groups[0] * expm1(apart) + exp(apart) * excess
        mean = heap.first + log1p(rise / (heap.mass + groups[0]))
    groups[0] += heap.mass
    return _below(min(anchor, mean), spacing, groups)


def merged_high(atoms: Atoms, spacing: float) -> GridPld:
    """The lower rule for atoms by increasing loss, most of whose mass is at the high end.

    The mean of that heap is a grid point.
    """
    losses, masses = atoms.losses, atoms.masses
    near = losses > losses[-1] - 0.5 * spacing
    heap, others = _heap(losses[near], masses[near]), ~near
    if not others.any():
        return _below(heap.mean, spacing, np.array([heap.mass]))
    # Number of the grid point that the heap becomes, with a point below every loss.
    at = ceil((heap.mean - float(losses[0])) / spacing) + 1
    start = heap.mean - at * spacing
    groups = fuse(losses[others], masses[others], start, spacing)
    groups = np.pad(groups, (0, max(0, at + 1 - groups.size)))
    groups[at] += heap.mass
    return _below(start, spacing, groups)


def tilted(pair: Atoms | GridPld, order: float) -> tuple[np.ndarray, float]:
    """Masses times e^(order * loss), over their total, and the log of that."""
    exponents = np.log(np.maximum(pair.masses, TINY_MASS)) + order * pair.losses
    top = float(np.max(exponents))
    weights = np.exp(exponents - top)
    total = float(np.sum(weights))
    return weights / total, top + log(total)


def moments(pair: Atoms | GridPld, order: float) -> tuple[float, float, float]:
    """log total, mean and variance of the losses weighted with masses * e^(order * loss)."""
    weights, log_total = tilted(pair, order)
    mean = float(np.sum(weights * pair.losses))
    return log_total, mean, float(np.sum(weights * (pair.losses - mean) ** 2))


def window(parts: Sequence[tuple[Atoms | GridPld, int]], order: float) -> tuple[float, float]:
    """Losses beyond which at most e^-OUTSIDE_EXPONENT of the tilted composed law lies, on each side.

    By Chernoff.
    """
    weighted = [(steps, *moments(pair, order)) for pair, steps in parts]
    here, mean, variance = (sum(steps * values[i] for steps, *values in weighted) for i in range(3))
    span = max(float(np.ptp(pair.losses)) for pair, _ in parts)
    low, high = -inf, inf
    for unit in {
        1.0 / max(variance, TINY_MASS) ** 0.5,
        1.0 / max(span, TINY_MASS),
    }:  # bulk, and rare large losses
        for move in (side * scale * unit for scale in CHERNOFF_SCALES for side in (-1.0, 1.0)):
            bound = (
                sum(steps * tilted(pair, order + move)[1] for pair, steps in parts)
                - here
                + OUTSIDE_EXPONENT
            )
            if move > 0.0:
                high = min(high, bound / move)
            else:
                low = max(low, bound / move)
    return min(low, mean), max(high, mean)


def span(parts: Sequence[tuple[Atoms | GridPld, int]], order: float) -> float:
    """The width of the window that the composed law, weighted with e^(order * loss), needs."""
    low, high = window(parts, order)
    return high - low


def _fast_length(size: int) -> int:
    """The next number of points that Fourier transforms are fast at."""
    return min(odd << max(0, ceil(log2(size / odd))) for odd in ODD_FACTORS)


def _points(
    parts: Sequence[tuple[GridPld, int]], low: float, high: float
) -> tuple[int, np.ndarray]:
    """The grid of the composed law from low to high, at least: index of its first point, losses."""
    start, spacing = (
        sum(steps * Fraction(grid.start) for grid, steps in parts),
        Fraction(parts[0][0].spacing),
    )
    first = floor((Fraction(low) - start) / spacing)
    size = _fast_length(max(2, ceil((Fraction(high) - start) / spacing) - first + 1))
    return first, float(start + first * spacing) + np.arange(size) * parts[0][0].spacing


class _Error(NamedTuple):
    """Bounds on the errors of masses: the largest of one, and the root of the sum of squares
    (Parseval)."""

    largest: float
    norm: float

    def of_sum(self, worth: np.ndarray) -> float:
        """A bound on the error of the sum of masses times `worth`."""
        return min(self.largest * float(np.sum(worth)), self.norm * float(np.linalg.norm(worth)))


def _composed(
    parts: Sequence[tuple[GridPld, int]], order: float, first: int, size: int
) -> tuple[np.ndarray, _Error, float]:
    """The composed law with weights e^(order * loss): masses over their total on points first ..
    first + size - 1 after the sum of the starts, their errors, and the log of the total.

    `spent` bounds the errors of frequencies if each transform is off by (unit + FFT_ERROR) times
    the sum of its weights, 1, there: a path through the transform meets the roundings that
    FFT_ERROR counts, and the logarithm takes 8 u at most. As `spent` is convex in those errors, a
    share of them costs that share of it at most; by the 2-norm all shares together, squared, sum to
    no more than `together` squared.
    """
    log_transform, rounding = np.zeros(size // 2 + 1, dtype=complex), np.zeros(size // 2 + 1)
    log_total, unit, together = 0.0, FFT_ERROR * log2(size + 1), 0.0
    for grid, steps in parts:
        weights, log_sum = tilted(grid, order)
        weights = np.bincount(np.arange(weights.size) % size, weights, size)
        transform = rfft(weights)
        modulus = np.maximum(np.abs(transform), TINY_MASS)
        log_transform += steps * np.log(np.where(modulus > TINY_MASS, transform, TINY_MASS))
        rounding += steps * np.log1p((unit + FFT_ERROR) / modulus)
        together += (size * float(np.sum(weights**2))) ** 0.5
        log_total += steps * log_sum
    size_of = np.exp(log_transform.real)
    spent = np.exp(np.minimum(300.0, log_transform.real + rounding)) - size_of
    kept = np.minimum(1.0 + size_of, spent)
    phase = np.exp(2j * np.pi * (np.arange(size // 2 + 1) * (first % size) % size) / size)
    masses = irfft(np.exp(log_transform) * phase, size)
    whole = float(np.sum(size_of**2)) ** 0.5
    mean = min(float(np.sum(kept)), together * float(np.linalg.norm(spent))) / size
    root = min(float(np.linalg.norm(kept)), together * float(np.max(spent)))
    largest = 2.0 * (mean + unit * whole / size**0.5 + exp(-OUTSIDE_EXPONENT))
    norm = 2.0 * ((root + unit * whole) / size**0.5 + exp(-OUTSIDE_EXPONENT))
    return masses, _Error(largest, norm), log_total


def lowered(atoms: Atoms, spacing: float, order: float) -> GridPld:
    """The lower rule that keeps most of log E[(dP/dQ)^order] under Q.

    From the smallest loss up, a group that has to outweigh much mass just below a grid point
    takes all the rare large losses: a step that is hardly ever sampled would keep nothing.
    """
    by_loss = np.argsort(atoms.losses)
    held = by_loss[atoms.masses[by_loss] > 0.0]
    ordered = Atoms(atoms.losses[held], atoms.masses[held])
    candidates = [rule(ordered, spacing) for rule in (merge, merged_low, merged_high)]
    return max(candidates, key=lambda grid: tilted(grid, order)[1])


def _ever(chances: Sequence[tuple[float, int]]) -> float:
    """The probability that anything happens that has these chances in so many steps each."""
    if any(chance >= 1.0 for chance, _ in chances):
        return 1.0
    return -expm1(sum(steps * log1p(-chance) for chance, steps in chances))


def power(grid: GridPld, copies: int, *, upper: bool) -> GridPld:
    """The law of the sum of `copies` independent losses, each mass on the chosen side of the true
    one."""
    parts = [(grid, copies)]
    spans = [window(parts, tilt) for tilt in POWER_TILTS]
    first, losses = _points(parts, min(low for low, _ in spans), max(high for _, high in spans))
    size = losses.size
    best, smallest = np.zeros(size), np.full(size, inf)
    for tilt in POWER_TILTS:
        masses, error, log_total = _composed(parts, tilt, first, size)
        scale = np.exp(np.minimum(700.0, log_total - tilt * losses))
        better = error.largest * scale < smallest
        best[better], smallest[better] = (masses * scale)[better], (error.largest * scale)[better]
    if upper:
        outside = 4.0 * exp(-OUTSIDE_EXPONENT)  # of P above, of Q below the window
        infinite = _ever([(grid.infinite, copies)]) + outside
        absent = _ever([(grid.absent, copies)]) + outside
        return GridPld(losses[0], grid.spacing, np.maximum(0.0, best + smallest), infinite, absent)
    return GridPld(losses[0], grid.spacing, np.maximum(0.0, best - smallest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A composed loss, tilted: masses of e^{t loss} dP over e^log_total, and their errors."""

    tilt: float
    log_total: float
    losses: np.ndarray
    masses: np.ndarray
    error: _Error
    infinite: float

    def delta(self, epsilon: float, *, upper: bool) -> float:
        """A bound on delta(epsilon) from the chosen side."""
        slack = LOSS_ROUNDING * (
            abs(epsilon) + abs(float(self.losses[0])) + abs(float(self.losses[-1]))
        )
        first = int(
            np.searchsorted(self.losses, epsilon - slack if upper else epsilon, side="right")
        )
        over = self.losses[first:] - epsilon
        over = over + slack if upper else np.maximum(0.0, over - slack)
        worth = np.exp(-self.tilt * over) * -np.expm1(-over)
        height = exp(min(700.0, self.log_total - self.tilt * epsilon))
        value = height * float(np.sum(self.masses[first:] * worth))
        cut_off = 2.0 * exp(-OUTSIDE_EXPONENT)
        error = height * (self.error.of_sum(worth) + cut_off) + 1e-12 * abs(value)
        if upper:
            return min(1.0, value + error + self.infinite)
        return min(1.0, max(0.0, value - error))


def compose(parts: Sequence[tuple[GridPld, int]], tilt: float) -> Composed:
    """`steps` copies of each grid (all of one spacing), accurate where e^{tilt * loss} dP has
    its mass."""
    low, high = window(parts, 1.0 + tilt)
    first, losses = _points(parts, low, high)
    masses, error, log_total = _composed(parts, 1.0 + tilt, first, losses.size)
    infinite = _ever([(grid.infinite, steps) for grid, steps in parts])
    return Composed(
        tilt=tilt, log_total=log_total, losses=losses, masses=masses, error=error, infinite=infinite
    )
