"""An upper bound on the profile of one ModelMix step without sampling, over every admitted shift.

Clipping and truncation admit shifts v_j with sum v_j^2 <= X and |v_j| <= s (step_moments.py). The
profile of one step,

    H_v(x) = E_0[(R - x)_+],   R = prod_j r_j,   r_j = p(x_j - v_j) / p(x_j),

is largest for different v at different x, so no single v gives a dominating pair. Any convex
E >= sup_v H_v with E(0) = 1 does (Zhu, Dong, Wang 2022, arXiv 2106.08567, Prop. 8). This file finds
one.

1. Write u = v^2, F_w(v) = E_0[r^w], psi_w(u) = log F_w(v) / u, and nu = sum_j v_j^2 delta_{u_j}: a
   measure on (0, s^2] of mass X (a smaller mass is topped up with more coordinates, which tell
   more). Then E_0[R^w] = Phi_nu(w) = exp(Int psi_w dnu).

2. As in plain_fourier.py, with w_j = 1 + t + i j D over all integers j, H_nu(x) <= T[Phi_nu], where

       T[f] = (D / 2 pi) sum_j f(w_j) S(w_j) x^{1 - w_j} / (w_j (w_j - 1)),
       S(w) = exp(sigma^2 (w^2 - w) / 2):

   aliases of the trapezoid sum are nonnegative, and S, an independent Gaussian pair of mean sigma,
   tells more.

3. psi_0 = lim_{u -> 0} psi = w (w - 1) I / 2 is a Gaussian (a spread-out gradient), psi_s =
   psi(s^2) the p-sparse shift. Let theta = Int u dnu / (X s^2), th within d of it, and
   Phi_th = exp(X [(1 - th) psi_0 + th psi_s]). Then

       Phi_nu = Phi_th e^A,   A = Int rho_w dnu + (theta - th) X (psi_s - psi_0),
       rho_w(u) = psi_w(u) - (1 - u/s^2) psi_0 - (u/s^2) psi_s,
       T[Phi_nu] <= T[Phi_th] + T[Phi_th A] + T of absolute values [|Phi_th| (e^|A| - 1 - |A|)].

   The middle term is linear in nu, so at most

       X sup_u T[Phi_th rho_w(u)] + d X |T[Phi_th (psi_s - psi_0)]|:

   no absolute value inside the sum hides that shifts between the two extremes are mostly *better*
   than both. The last term is of second order. Where |A| is not small (high frequencies),
   |Phi_nu| <= exp(X sup_u Re psi_w(u)) is used instead.

4. Suprema over u come from a grid of shifts and what linear interpolation in v misses,
   (dv)^2 / 8 sup |h''|, with h = log F and

       |F'| <= |w| E[|a|],   |F''| <= |w|^2 E[a^2] + |w| E[g''],   a = g'(x - v),   g = -log p,

   E being the integral against p(x)^{-t} p(x - v)^{1 + t}. Each E is even and convex in v
   (substitute x -> x + v: p(x + v)^{-t} is log-convex in v), so it is largest at the far end of a
   cell. What is interpolated is u rho; a chord of u exceeds it by up to (dv)^2 / 4, and
   u (psi - rho) has second derivative at most 2 |psi_0| + 12 |psi_s - psi_0|.

5. Below the first shift of the grid, with J = |F - 1| and |F''''| <= M_4,

       |psi - psi_0| <= v^2 M_4 / 24 + J^2 / (2 v^2 (1 - J)),
       M_4 = |w|^4 E[a^4] + 6 |w|^3 E[a^2] + 3 |w|^2 E[g''] + 12 |w|^2 E[|a|] + 12 |w| E[1],

   because 0 <= g'' <= 1 and the third and fourth derivatives of g are at most 3 and 12: they are
   cumulants of the mixing given x, a 1-Lipschitz image of a standard normal (Caffarelli 2000),
   whose central fourth moment is at most 6.

Of the mixing law this needs that it is symmetric and log-concave, and (S) of step_moments.py for the
bounds by real moments. Then p is log-concave too; 0 <= g'' <= 1, as the variance of the mixing given
x is at most 1; and Caffarelli applies, as the mixing given x has a density e^{-(u-x)^2/2} times a
log-concave one. All laws of `mmaccount.records.mixing_laws` are of that kind.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, inf, log, pi
from typing import NamedTuple

import numpy as np

from mmaccount.accounting.pld import GridPld
from mmaccount.accounting.step_moments import StepShape
from mmaccount.kernels import smooth_density
from mmaccount.kernels.complex_moments import lines_of_moments, lines_of_moments_of_law
from mmaccount.kernels.pld import hull
from mmaccount.records import mixing_laws

INVERSION_TILTS = (1.0, 2.5)
SMOOTHING = 0.07  # sigma over the standard deviation of the loss
HIGHEST_FREQUENCY = 7.5  # times sigma; beyond, S is below e^-28
GRID_SPAN = 80.0  # s over the first shift of the grid
SHIFT_LOG_RATIO = 0.035  # of neighbouring shifts at most, as a logarithm
GRID_POWER = 1.5  # power by which the grid is denser towards s
THETA_CELLS = 8  # into which [0, 1] is cut
POINTS_PER_STD = 20  # grid points per standard deviation of the loss
# Error of F(w), relative to |w| F(Re w), as errors of log r count, and to s^2 where s > 1; measured
# below 1e-16.
COMPLEX_MOMENT_ERROR = 1e-15
SUM_ERROR = 1e-11  # relative, of sums over frequencies, added to every value
NEGLIGIBLE_TERM = 1e-20  # size of terms, relative to the largest, that are only bounded
NEGLIGIBLE_DELTA = 1e-20  # below which the profile is constant
LARGEST_EXPANSION = 50.0  # |A| up to which Phi_nu is compared with Phi_th
LARGEST_LOG_MOMENT = 700.0  # log of a moment; beyond, nothing is said
LEAST_MODULUS = (
    0.05  # of F between grid shifts; where it may be smaller, its logarithm is not trusted
)
MOMENT_ORDERS = 1.0 + 2.0 ** (np.arange(-16, 49) / 4.0)


class InversionTerms(NamedTuple):
    """The terms of the derivation at one tilt t: what Fourier inversion on the line Re w = 1 + t needs.

    Shapes: frequencies (y), grid shifts (v), cells between them (v - 1).
    """

    tilt: float
    frequencies: np.ndarray
    kernel: np.ndarray  # (D / pi) S(w) / (w (w - 1)), halved at y = 0
    psi_0: np.ndarray
    psi: np.ndarray  # v x y; the last row is psi_s
    missed: np.ndarray  # (v - 1) x y: of psi, between grid shifts
    doubt: np.ndarray  # largest error of psi_s
    near_zero: np.ndarray  # of psi - psi_0, below the first grid shift
    trusted: np.ndarray  # frequencies where these bounds hold
    log_largest: np.ndarray  # sup over u of log|F_w| / u
    parts: np.ndarray  # u / s^2 of the grid
    ratio: float  # of neighbours of the grid at most, as a logarithm

    @property
    def difference(self) -> np.ndarray:
        """psi_s - psi_0."""
        return np.asarray(self.psi[-1] - self.psi_0)

    @property
    def rho(self) -> np.ndarray:
        """rho_w(u), v x y."""
        return np.asarray(self.psi - self.psi_0 - self.parts[:, None] * self.difference)


def inversion_terms(
    step: StepShape,
    tilts: Sequence[float],
    sigma: float,
    period: float,
    *,
    ratio: float = SHIFT_LOG_RATIO,
    frequency: float = HIGHEST_FREQUENCY,
) -> list[InversionTerms]:
    """The terms for a grid of shifts, neighbours differing by at most about `ratio`, at each tilt;
    frequencies up to `frequency` / sigma."""
    size = ceil(GRID_POWER * log(GRID_SPAN) / ratio)
    grid = step.shift * np.exp(-log(GRID_SPAN) * np.linspace(1.0, 0.0, size + 1) ** GRID_POWER)
    spacing = 2.0 * pi / period
    count = ceil(frequency / sigma / spacing) + 1
    shifts = np.concatenate([[0.0], grid])
    if step.law == mixing_laws.UNIFORM:
        moments, real = lines_of_moments(shifts, step.width, np.array(tilts), spacing, count)
    else:
        law = smooth_density.named(step.law, step.width)
        moments, real = lines_of_moments_of_law(shifts, law, np.array(tilts), spacing, count)
    return [
        _terms_at_tilt(grid, tilt, sigma, spacing, *table)
        for tilt, *table in zip(tilts, moments, real, strict=True)
    ]


def _terms_at_tilt(
    grid: np.ndarray,
    tilt: float,
    sigma: float,
    spacing: float,
    moments: np.ndarray,
    real: np.ndarray,
) -> InversionTerms:
    """The terms from F(w) - 1 and the real integrals, at v = 0 (first row) and at the grid shifts."""
    integrals = _integrals(real)
    shift, u = float(grid[-1]), grid**2
    y = spacing * np.arange(moments.shape[1])
    w = 1.0 + tilt + 1j * y
    kernel = (spacing / pi) * np.exp(0.5 * sigma**2 * (w * w - w)) / (w * (w - 1.0))
    kernel[0] *= 0.5

    psi_0 = 0.5 * w * (w - 1.0) * integrals.square[0]
    log_moments = np.log1p(moments[1:])
    psi = (log_moments.real + 1j * np.unwrap(log_moments.imag, axis=0)) / u[:, None]
    straight = 2.0 * np.abs(psi_0) + 12.0 * np.abs(psi[-1] - psi_0)

    between = _between_shifts(grid, np.abs(w), integrals, np.abs(1.0 + moments[1:]), straight)
    below = _below_first_shift(float(u[0]), np.abs(w), integrals, psi_0)
    largest = np.maximum(between.log_largest, below.log_largest)
    return InversionTerms(
        tilt=tilt,
        frequencies=y,
        kernel=kernel,
        psi_0=psi_0,
        psi=psi,
        missed=between.missed,
        doubt=between.doubt,
        near_zero=below.near_zero,
        trusted=between.trusted & below.trusted,
        log_largest=np.minimum(largest, log(integrals.one[-1]) / shift**2),
        parts=u / shift**2,
        ratio=float(np.max(np.diff(np.log(grid)))),
    )


class _Integrals(NamedTuple):
    """E[1], E[|a|], E[a^2], E[a^4], E[g''] at v = 0 and at the grid shifts (4. and 5. above).

    E[|a|] by Cauchy and Schwarz.
    """

    one: np.ndarray
    absolute: np.ndarray
    square: np.ndarray
    fourth: np.ndarray
    curve: np.ndarray


def _integrals(real: np.ndarray) -> _Integrals:
    one, square, fourth, curve = (real * (1.0 + SUM_ERROR)).T
    return _Integrals(one, np.sqrt(one * square), square, fourth, curve)


class _Between(NamedTuple):
    """Bounds between grid shifts: fields as in InversionTerms."""

    missed: np.ndarray
    doubt: np.ndarray
    log_largest: np.ndarray
    trusted: np.ndarray


def _between_shifts(
    grid: np.ndarray,
    size: np.ndarray,
    integrals: _Integrals,
    modulus: np.ndarray,
    straight: np.ndarray,
) -> _Between:
    """What interpolation between grid shifts misses (4. above).

    `size` is |w|, `modulus` |F| at the grid shifts, `straight` bounds the second derivative of
    u (psi - rho).
    """
    shift, u, gaps = float(grid[-1]), grid**2, np.diff(grid)[:, None]
    first = size * integrals.absolute[2:, None]
    second = size**2 * integrals.square[2:, None] + size * integrals.curve[2:, None]
    lowest = np.minimum(modulus[:-1], modulus[1:]) - 0.5 * gaps * first
    divisor = np.maximum(lowest, LEAST_MODULUS)
    curvature = second / divisor + (first / divisor) ** 2 + straight

    error = COMPLEX_MOMENT_ERROR * max(1.0, shift**2) * size * integrals.one[-1]  # of F
    log_error = error / np.maximum(np.min(lowest, axis=0), LEAST_MODULUS)
    missed = gaps**2 / 8.0 * curvature + 2.0 * log_error  # rho has the error of psi_s too

    highest = np.maximum(modulus[:-1], modulus[1:]) + gaps**2 / 8.0 * second + error
    log_highest = np.log(highest)
    log_largest = log_highest / np.where(log_highest > 0.0, u[:-1, None], u[1:, None])
    return _Between(
        missed=missed / u[:-1, None],
        doubt=log_error / u[-1],
        log_largest=np.max(log_largest, axis=0),
        trusted=np.all(lowest > LEAST_MODULUS, axis=0),
    )


class _Below(NamedTuple):
    """Bounds below the first grid shift: fields as in InversionTerms."""

    near_zero: np.ndarray
    log_largest: np.ndarray
    trusted: np.ndarray


def _below_first_shift(
    u: float, size: np.ndarray, integrals: _Integrals, psi_0: np.ndarray
) -> _Below:
    """What psi may differ from psi_0 by below the first grid shift, whose square is u (5. above)."""
    one, absolute, square, fourth, curve = integrals
    fourth_derivative = (
        size**4 * fourth[1]
        + 6 * size**3 * square[1]
        + 3 * size**2 * curve[1]
        + 12 * size**2 * absolute[1]
        + 12 * size * one[1]
    )
    moved = u * 0.5 * size**2 * square[0] + u**2 / 24.0 * fourth_derivative  # |F - 1|
    remainder = moved**2 / (2.0 * u * np.maximum(0.1, 1.0 - moved))
    near_zero = u / 24.0 * fourth_derivative + remainder
    by_derivatives = 0.5 * (size**2 * square[1] + size * curve[1])
    trusted = moved < 0.5
    return _Below(near_zero, np.where(trusted, psi_0.real + near_zero, by_derivatives), trusted)


class Expansion(NamedTuple):
    """T[Phi_nu] at each epsilon, to first order in A = Int f dnu + (a number) * direction.

    The expansion is around a reference Phi.
    """

    value: np.ndarray  # T[Phi]
    rows: np.ndarray  # epsilon x v: X T[Phi f(v)]
    between: np.ndarray  # epsilon x (v - 1): what rows miss between grid shifts
    near_zero: np.ndarray  # X T of absolute values [|Phi| near_zero]
    along: np.ndarray  # X T[Phi direction]
    rest: np.ndarray  # all else, positive


class Expander:
    """Makes expansions at given epsilons from the terms at one tilt; `budget` is X."""

    def __init__(self, terms: InversionTerms, budget: float, epsilons: np.ndarray) -> None:
        self.terms, self.budget = terms, budget
        self.decay = np.exp(-terms.tilt * epsilons)
        self.waves = np.exp(-1j * np.outer(epsilons, terms.frequencies)) * self.decay[:, None]
        log_any = budget * terms.log_largest
        self.any_shift = np.exp(np.where(log_any < LARGEST_LOG_MOMENT, log_any, inf))
        # S falls by e^{-(highest frequency * sigma)^2 / count} a step, or faster
        last = 2.0 * abs(terms.kernel[-1])
        self.beyond = float(self.any_shift[0] * last * terms.frequencies.size)

    def around(
        self, exponent: np.ndarray, largest: np.ndarray, rows: np.ndarray, along: np.ndarray
    ) -> Expansion:
        """The expansion around exp(X exponent).

        `largest` bounds |A|, but for X times the error of psi_s; `rows` are f(v) (v x y), `along` the
        direction (y).
        """
        terms, budget, size = self.terms, self.budget, np.abs(self.terms.kernel)
        doubt = SUM_ERROR + budget * terms.doubt
        largest = largest + budget * terms.doubt
        moderate = (budget * exponent).real < LARGEST_LOG_MOMENT - 2.0 * LARGEST_EXPANSION
        reference = np.exp(np.where(moderate, budget * exponent, 0.0))
        modulus, bounded = np.abs(reference), np.minimum(largest, LARGEST_EXPANSION)
        remainder = modulus * (np.expm1(bounded) - bounded)

        # Frequencies at which Phi_nu is compared with the reference, and those of them that count.
        usable = terms.trusted & moderate & (largest < LARGEST_EXPANSION)
        used = usable & (remainder < self.any_shift + modulus)
        kept = used & (size * modulus > NEGLIGIBLE_TERM * np.max(size * modulus * used))
        others = np.where(used, remainder + modulus * (1.0 + bounded), self.any_shift)
        rest = float(np.sum(size * np.where(kept, remainder, others))) + self.beyond

        waves = self.waves[:, kept]
        factors = (terms.kernel * reference)[kept]
        sizes = (size * modulus)[kept]
        return Expansion(
            value=(waves @ factors).real,
            rows=budget * (waves @ (factors * rows[:, kept]).T).real,
            between=budget * np.outer(self.decay, terms.missed[:, kept] @ sizes),
            near_zero=budget * self.decay * float(terms.near_zero[kept] @ sizes),
            along=budget * (waves @ (factors * along[kept])).real,
            rest=self.decay * (rest + float(doubt[kept] @ sizes)),
        )


def largest_between(values: np.ndarray, missed: np.ndarray, ratio: float) -> np.ndarray:
    """sup over each cell of the grid of a function of u, or 0.

    Its values at the grid shifts are given along the last axis. u times the function is interpolated,
    and the chord of u exceeds u by a relative ratio^2 / 2 at most.
    """
    ends = np.maximum(values[..., :-1], values[..., 1:])
    return np.asarray((1.0 + ratio**2) * np.maximum(0.0, ends + missed))


def _bound(terms: InversionTerms, budget: float, epsilons: np.ndarray) -> np.ndarray:
    """E(e^epsilon) from the terms at one tilt."""
    if budget * np.max(terms.log_largest) > LARGEST_LOG_MOMENT:
        return np.full(epsilons.size, inf)
    expander, half = Expander(terms, budget, epsilons), 0.5 / THETA_CELLS
    difference, rho = terms.difference, terms.rho
    inner = largest_between(np.abs(rho).T, terms.missed.T, terms.ratio)
    zero = terms.near_zero + terms.parts[0] * np.abs(difference)
    largest = np.maximum(np.max(inner, axis=1), zero) + half * np.abs(difference)
    bound = np.zeros(epsilons.size)
    for theta in (np.arange(THETA_CELLS) + 0.5) / THETA_CELLS:
        exponent = terms.psi_0 + theta * difference
        expansion = expander.around(exponent, budget * largest, rho, difference)
        slope = np.abs(expansion.along)
        bow = np.max(largest_between(expansion.rows, expansion.between, terms.ratio), axis=1)
        zero = expansion.near_zero + terms.parts[0] * slope
        at_theta = expansion.value + half * slope + np.maximum(bow, zero) + expansion.rest
        bound = np.maximum(bound, at_theta)
    return bound


def _chernoff(step: StepShape, epsilons: np.ndarray) -> np.ndarray:
    """E(e^epsilon) from real orders k > 1: H(x) <= A_k x^{1-k} (1 - 1/k)^{k-1} / k (arXiv
    2004.00010, Prop. 12)."""
    k = MOMENT_ORDERS
    logs = step.copies * step.moments(k, step.shift) * (1.0 + SUM_ERROR)
    logs = logs + (k - 1.0) * np.log1p(-1.0 / k) - np.log(k)
    return np.asarray(np.exp(np.minimum(0.0, np.min(logs - np.outer(epsilons, k - 1.0), axis=1))))


@lru_cache(maxsize=32)
def profile(step: StepShape) -> tuple[np.ndarray, np.ndarray]:
    """(epsilons from 0 on, E(e^epsilon)): a bound on the profile of the step at every admitted shift."""
    budget = step.copies * step.shift**2
    spread = float(step.copies * step.moments(np.array([2.0]), step.shift)[0]) ** 0.5
    spacing = spread / POINTS_PER_STD
    reach = spacing * np.arange(1, 400 * POINTS_PER_STD)
    tail = _chernoff(step, reach)
    last = int(np.searchsorted(-tail, -NEGLIGIBLE_DELTA)) + 1
    epsilons = np.concatenate([[0.0], reach[:last]])
    upper = _chernoff(step, epsilons)
    period = 2.0 * float(epsilons[-1]) + 10.0
    for terms in inversion_terms(step, INVERSION_TILTS, SMOOTHING * spread, period):
        bound = _bound(terms, budget, epsilons)
        upper = np.minimum(upper, np.where(np.isfinite(bound), bound, inf))
    return epsilons, upper


def envelope(step: StepShape) -> GridPld:
    """A pair that dominates one unsubsampled step with any admitted shift.

    In both directions (reflect x -> v - x).
    """
    return from_profile(*profile(step))


def from_profile(epsilons: np.ndarray, upper: np.ndarray) -> GridPld:
    """The pair whose profile is the lower convex hull of E at the points e^{+-epsilon}.

    E(1/x) = 1 - 1/x + E(x)/x, and the hull has that symmetry too. So the masses below loss 0 are
    those that P has above it: read off there they keep their relative accuracy, which slopes near
    x = 0, where E is 1 - x but for rounding, have lost.
    """
    x = np.exp(np.concatenate([-epsilons[:0:-1], epsilons]))
    mirrored = 1.0 - np.exp(-epsilons) + upper * np.exp(-epsilons)
    values = np.concatenate([mirrored[:0:-1], upper])
    values = np.minimum(1.0, np.maximum(values, 1.0 - x))
    x_from_0 = np.concatenate([[0.0], x])
    values = hull(x_from_0, np.concatenate([[1.0], values]))
    slopes = np.diff(values) / np.diff(x_from_0)
    masses = np.maximum(0.0, np.diff(np.concatenate([slopes, [0.0]])))
    above = masses[epsilons.size :] * x[epsilons.size :]
    masses[: above.size] = above[::-1]
    unmatched = float(values[-1])
    return GridPld(float(-epsilons[-1]), float(epsilons[1]), masses, unmatched, unmatched)
