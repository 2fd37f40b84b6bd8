"""Two-sided bounds on epsilon and delta by Fourier inversion of the privacy loss.

With M(z) = E_P[e^{z L}], the moment generating function of the composed privacy loss L (it
multiplies over steps and phases), and any t > 0,

    delta(eps) = E_P[(1 - e^{eps - L})_+]
               = (1/2 pi i) Int_{t - i inf}^{t + i inf} M(z) e^{-z eps} / (z (1 + z)) dz

(Alghamdi et al. 2023, arXiv 2208.09595). The trapezoid rule with spacing D on that line gives, by
Poisson summation, exactly

    T_D(eps) = sum_k e^{k t P} delta(eps + k P),   P = 2 pi / D,

whose terms are all nonnegative: T_D is an upper bound, and T_D less a bound on the terms k != 0 (the
aliases) a lower one. Added to that are bounds on the frequencies left out, on the quadrature of M
and on rounding. There is no grid of losses, hence no cost and no error that grows with the number
of steps, and no floor under delta.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, exp, expm1, inf, isfinite, log, log1p, pi, sqrt
from sys import float_info

import numpy as np

from mmaccount.accounting.plain_steps import (
    ARITHMETIC_ERROR,
    GaussianSteps,
    OneRecord,
    OnLine,
    SeveralRecords,
    Steps,
    SubsampledSteps,
)
from mmaccount.records.bound import BoundError, TwoSided

LOG_ACCURACY = 15.0  # aliases and frequencies left out shall be below e^-15 of delta
CHERNOFF_FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)  # times t, where Chernoff bounds the aliases
# Ways to cut the nodes into cells, whose uniform parts bound the characteristic function.
CELL_COUNTS = (96, 48, 24, 12, 6)
DENSITY_ERROR = 1e-9  # relative, of densities in cells
# Times t, tried where t itself needs more than FEW_FREQUENCIES, but not taken where the integrand is
# e^LARGEST_LOG_RISE times larger: cancellation costs digits.
SMALLER_T_FACTORS = (0.8, 0.65, 0.5, 0.35, 0.25)
FEW_FREQUENCIES = 100
LARGEST_LOG_RISE = 10.0
MOST_FREQUENCIES = 4000
MOST_TERMS = 1e7  # frequencies times nodes of one inversion, about 0.1 s
MOST_TERMS_HURRIED = 3e6  # frequencies times nodes in a hurry
SERIES_HALF_ANGLE = 1e-3  # half angle up to which 1 - |sin(u)/u| is a series


def _sinc_loss(u: np.ndarray) -> np.ndarray:
    """1 - sup over u' >= u of |sin(u')/u'|, or less: its side lobes are below 0.21724 and 1/u.

    For small u the series u^2/6 - u^4/120, which is below by its next term.
    """
    side_lobes = np.minimum(0.21724, 1.0 / np.maximum(u, 1.0))
    highest = np.maximum(np.where(u < 3.0, np.sinc(u / pi), 0.0), side_lobes)
    return np.asarray(
        np.where(u < SERIES_HALF_ANGLE, u**2 / 6.0 * (1.0 - u**2 / 20.0), 1.0 - highest)
    )


def _uniform_parts(
    nodes: tuple[np.ndarray, np.ndarray], order: float, turn: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weights, widths) of disjoint uniform laws that fit under the tilted law of l = log r.

    One entry per cut into cells. P = A phi and Q = B phi for the A and B of kernels.mixture, of up to
    n records (of one: B = 1). turn = n v h, h the step between nodes. (log A)' is v times the mean of
    a law on 0 .. n, (log A)'' is v^2 times its variance, at most n v (log A)' and (n v)^2/4; likewise
    for B, mirrored. Between two nodes, therefore:
    - |l''| <= n v l', so that h l' is at most e^turn times the difference of l;
    - the log of the tilted density in x, phi A^k B^{1-k} times the probability to be kept, k =
      order, has a second derivative of at most max(0, k) (n v)^2/4, as all but A^k is log-concave
      for k >= 1, and all of it for k < 0 (then B = 1). So it is not less than at the lower of the
      two nodes less max(0, k) turn^2/32.
    """
    log_ratio, log_weight = nodes
    tilted = log_weight + order * log_ratio
    tilted = np.exp(tilted - np.max(tilted))
    tilted *= exp(-turn - max(0.0, order) * turn**2 / 32.0) * (1.0 - DENSITY_ERROR) / np.sum(tilted)
    rises = np.maximum(np.diff(log_ratio), float_info.min)
    parts = []
    for cells in CELL_COUNTS:
        edges = np.linspace(0, rises.size, cells + 1).astype(int)
        first = np.minimum(edges[:-1], rises.size - 1)
        lowest = np.minimum(np.minimum.reduceat(tilted, first), tilted[edges[1:]])
        widths = np.diff(log_ratio[edges])
        parts.append((lowest * widths / np.maximum.reduceat(rises, first), widths))
    return parts


def _decay(parts: list[tuple[np.ndarray, np.ndarray]], frequency: float) -> float:
    """1 - |characteristic function| at least, at every frequency from the given one on.

    A law that holds uniform parts of weight m_i and width w_i has
    |phi(y)| <= 1 - sum m_i (1 - |sinc(y w_i / 2)|).
    """
    return max(float(np.sum(m * _sinc_loss(0.5 * frequency * w))) for m, w in parts)


class LossTransform:
    """The moment generating function M of the composed privacy loss in one direction."""

    def __init__(self, laws: Sequence[Steps], *, remove: bool, hurried: bool = False) -> None:
        """`hurried`: rather no inversion than a slow one that leaves much out."""
        self.laws = laws
        self.remove = remove
        self.hurried = hurried
        self.subsampled = [law for law in laws if isinstance(law, SubsampledSteps)]
        self.mu_squared = sum(law.mu_squared for law in laws if isinstance(law, GaussianSteps))

    def order(self, t: float) -> float:
        """The power of r = dP_1/dP_0 under P_0 that M(t) is the mean of, for one step."""
        return 1.0 + t if self.remove else -t

    def log_moment(self, t: float) -> float:
        """log M(t), not rounded to either side."""
        total = 0.0
        for law in self.laws:
            total += law.log_moment(t, self.order(t))
        return total if isfinite(total) else inf

    def rough_log_moment(self, t: float) -> float:
        """About log M(t), in a fraction of the time where that is known: to choose t by."""
        if any(isinstance(law, SeveralRecords) for law in self.subsampled):
            return self.log_moment(t)
        single = [law for law in self.subsampled if isinstance(law, OneRecord)]
        gaussian = 0.5 * self.mu_squared * t * (1.0 + t)
        return gaussian + sum(law.rough_log_moment(self.order(t)) for law in single)

    def frequency_cut(self, t: float) -> Callable[[float], float]:
        """y -> a bound on log of sup_{y' >= y} |M(t + i y')| / M(t)."""
        order = self.order(t)
        parts = [
            (law.steps, _uniform_parts(law.nodes(order, 0.0), order, law.turn(order)))
            for law in self.subsampled
        ]

        def cut(y: float) -> float:
            decays = sum(steps * log1p(-min(_decay(part, y), 1.0 - 1e-12)) for steps, part in parts)
            return decays - 0.5 * self.mu_squared * y * y

        return cut

    def rule(self, t: float, epsilon: float) -> "TrapezoidRule | None":
        """Spacing and length of the trapezoid rule at t, fit for about `epsilon`.

        None where M is not finite or the rule takes too long.
        """
        here = self.log_moment(t)
        others = [(u, self.log_moment(u)) for u in (t * part for part in CHERNOFF_FACTORS)]
        others = [(u, moment) for u, moment in others if isfinite(moment)]
        if not isfinite(here) or not others:
            return None
        height = here - t * epsilon
        wanted = height - 2.0 * log1p(t) - LOG_ACCURACY
        above = min((moment - u * epsilon - wanted) / (u - t) for u, moment in others)
        period = max(-wanted / t, above)
        if not isfinite(period):
            return None
        spacing, cut = 2.0 * pi / period, self.frequency_cut(t)

        def left_out(count: int) -> float:
            """log of a bound on the frequencies from number `count` on: the sum of 1/y^2."""
            return here + cut(count * spacing) - log(pi * (count - 0.5) * spacing)

        if self.hurried and left_out(MOST_FREQUENCIES) - t * epsilon > wanted:
            return None
        count = 8
        while left_out(count) - t * epsilon > wanted and count < MOST_FREQUENCIES:
            count = ceil(1.2 * count)
        if self.hurried and self.terms(t, count * spacing) * count > MOST_TERMS_HURRIED:
            return None
        while count > 1 and (terms := self.terms(t, count * spacing) * count) > MOST_TERMS:
            # Far out nodes are about as many as frequencies.
            count = ceil(0.95 * count * sqrt(MOST_TERMS / terms)) - 1
        return TrapezoidRule(
            t=t,
            period=period,
            count=count,
            log_height=height,
            log_left_out=left_out(count),
            others=others,
        )

    def terms(self, t: float, frequency: float) -> float:
        """Number of nodes that frequencies up to the given one need."""
        return sum(law.size(self.order(t), frequency) for law in self.subsampled)

    def cheapest(self, t: float, epsilon: float) -> "TrapezoidRule | None":
        """The rule at t, or to its left.

        There a loss with rare large values needs far fewer frequencies.
        """
        best = first = self.rule(t, epsilon)
        for part in SMALLER_T_FACTORS:
            if best is not None and best.count <= FEW_FREQUENCIES:
                continue
            other = self.rule(part * t, epsilon)
            if other is None:
                continue
            if first is not None and other.log_height > first.log_height + LARGEST_LOG_RISE:
                continue
            if best is None or other.count < best.count:
                best = other
        return best

    def inversion(self, t: float, epsilon: float) -> "FourierInversion | None":
        """The inversion on the line through t, or left of it, good for about `epsilon`.

        None where rounding would spoil it.
        """
        rule = self.cheapest(t, epsilon)
        if rule is None:
            return None
        t, order = rule.t, self.order(rule.t)
        frequencies = 2.0 * pi / rule.period * np.arange(rule.count)
        moments = OnLine(rule.count)
        for law in self.laws:
            signed = frequencies if self.remove else -frequencies
            law.add_on_line(t, order, signed, moments)
        denominator = (t + 1j * frequencies) * (1.0 + t + 1j * frequencies)
        log_size = moments.log_size - np.log(np.abs(denominator))
        log_high = moments.log_high - np.log(np.abs(denominator))
        phase = moments.phase - np.angle(denominator)
        if not np.all(np.isfinite(log_high)):
            return None
        return FourierInversion(
            rule=rule,
            frequencies=frequencies,
            log_size=log_size,
            log_high=log_high,
            phase=phase,
            lost=sum(law.weight_lost for law in self.laws),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapezoidRule:
    """A trapezoid rule on Re z = t, of `count` frequencies with spacing 2 pi / period.

    `log_height`: log of M(t) e^{-t eps}, the size of the integrand. `log_left_out`: log of e^{t eps}
    times a bound on the frequencies left out. `others`: (u, log M(u)) at some u > t.
    """

    t: float
    period: float
    count: int
    log_height: float
    log_left_out: float
    others: list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierInversion:
    """M(z) / (z (1 + z)) at the frequencies of a rule, ready to bound delta at any epsilon.

    log of its size, log of size plus error, phase; `lost` is what outcomes left out may add to delta.
    """

    rule: TrapezoidRule
    frequencies: np.ndarray
    log_size: np.ndarray
    log_high: np.ndarray
    phase: np.ndarray
    lost: float

    def delta(self, epsilon: float) -> TwoSided:
        """Bounds on delta(epsilon) of this direction."""
        shift = self.rule.t * epsilon
        if np.max(self.log_high) - shift > 700.0:
            return TwoSided(0.0, 1.0)
        halves = np.full(self.phase.size, 2.0 / self.rule.period)
        halves[0] *= 0.5
        weight = halves * np.exp(self.log_size - shift)
        high = halves * np.exp(self.log_high - shift)
        value = float(np.sum(weight * np.cos(self.phase - self.frequencies * epsilon)))
        rounding = ARITHMETIC_ERROR * (
            4.0
            + np.abs(self.log_high)
            + abs(shift)
            + np.abs(self.phase)
            + self.frequencies * abs(epsilon)
        )
        error = float(np.sum(high - weight + high * rounding))
        error += exp(min(700.0, self.rule.log_left_out - self.rule.t * epsilon))
        upper = min(1.0, max(float_info.min, value + error) + self.lost)  # never rounded down to 0
        lower = min(1.0, max(0.0, value - error - self.aliases(epsilon)))
        if lower > upper:
            raise BoundError(
                f"the bounds on delta cross at epsilon {epsilon!r}: {lower!r} > {upper!r}."
            )
        return TwoSided(lower, upper)

    def upper(self, epsilon: float) -> float:
        """The upper bound on delta(epsilon)."""
        return self.delta(epsilon).upper

    def lower(self, epsilon: float) -> float:
        """The lower bound on delta(epsilon)."""
        return self.delta(epsilon).lower

    def aliases(self, epsilon: float) -> float:
        """A bound on the terms k != 0.

        delta <= 1 for k < 0, delta(e) <= M(u) e^{-u e} (Chernoff) for k > 0.
        """
        below = 1.0 / expm1(min(700.0, self.rule.period * self.rule.t))
        above = inf
        for u, log_moment in self.rule.others:
            ratio = self.rule.period * (u - self.rule.t)
            above = min(above, exp(min(700.0, log_moment - u * epsilon - ratio)) / -expm1(-ratio))
        return below + above
