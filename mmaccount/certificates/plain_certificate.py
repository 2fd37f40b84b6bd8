"""Certificates of plain Gaussian DP-SGD: delta by inversion on a line, in intervals;
`verify_plain.py` checks them.

A certificate is {"schema": 2, "phases", "delta", "contours", "values"}; numbers mean the decimals
that are written. "contours" holds, for each direction (a record removed, a record added), the
contour of integration: the line Re s = "t" and on it the trapezoid rule of "count" points with this
"spacing"; "added" is the step below. "values" is what `verify_plain.recompute` gets, as [lower,
upper] rounded outward to 30 digits, and "epsilon", a decimal. Mixing is post-processing, so a
certificate of a run is one of the same run with mixing.

With R = 1 - q + q e^{vx - v^2/2}, x ~ N(0,1), v = 1/z, the pair that dominates a step is (R N, N),
or (N, R N) (Zhu-Dong-Wang 2022, arXiv 2106.08567, Theorem 11; composed: Theorem 10). The moment
generating function of its loss is E[R^(1 + s)], or E[R^(-s)]. Why the sum of `verify_plain` is at
least delta(eps):
Added step. The run, followed by a Gaussian step of squared mean m = "added", has no smaller delta:
    the outcome of that step may be ignored. M(s), now e^{m s (1 + s)/2} times the product over all
    steps, falls like e^{-m y^2/2} at s = t + iy, whatever the steps are. Full batches are such
    steps too: they count towards m, in closed form.
Inversion. delta(eps) e^{t eps}, t > 0, is continuous and falls exponentially on both sides; its
    Fourier transform is M(s)/(s (1 + s)) at s = t + iy (Alghamdi et al. 2023, arXiv 2208.09595), at
    most M(t)/y^2. So Poisson summation holds: for any spacing D the sum (D/2 pi) sum_j M(s_j)
    e^{-s_j eps}/(s_j (1 + s_j)) over all integers j, s_j = t + ijD, equals sum_k e^{2 pi k t/D}
    delta(eps + 2 pi k/D), whose terms are not negative and whose term k = 0 is delta(eps).
(E4) Frequencies left out, |j| >= count. |s (1 + s)| >= y^2 and |M(s)| <= M(t) e^{-m y^2/2}; the sum
    of 1/j^2 from count on is at most 1/(count - 1/2).
(E1) Trapezoid rule for E[R^k], k = a + ib. On the line Im x = c, |c| v < pi, |R| lies between R(Re
    x) cos(c v/2) and R(Re x), and |arg R| <= |c| v. So on all lines up to |c| = y the integral of
    |phi R^k| is at most G E[R^a], G = e^{y^2/2 + |b| y v} cos(y v/2)^min(a, 0), and the error of
    the rule at most 2 G/(e^{2 pi y/h} - 1) times E[R^a] (Trefethen and Weideman 2014, Theorem 5.1).
(E2) Nodes left out, x < -w and x > w + max(a v, 0). R^a <= (1 - q)^a everywhere if a < 0, otherwise
    R^a <= 1 + e^{a (vx - v^2/2)}. P(N > w) <= e^{-w^2/2}/2, and the terms fall outwards, so that
    their sum is below an integral from w on.
(E3) Integers. All frequencies of a node are powers of one number of modulus 1, as integers over
    2^prec. With e the error of its first term, plus that of the number and of the rounding of a
    product, no term is off by more than 3 count e if count e < 1/3.
"""

import json
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from math import ceil, cos, inf, isfinite, log, log1p, pi, sqrt
from typing import Any, NamedTuple

from mpmath import MPContext

from mmaccount.accounting import renyi
from mmaccount.certificates import verify_plain
from mmaccount.kernels import loss
from mmaccount.records.settings import Settings

PLAIN_FIELDS = ("sample_rate", "steps", "noise_multiplier", "noise")
# Part of epsilon lost to each of three errors: the most frequencies (and 100) times nodes that it
# may take, 1e6 a second.
LOOSENESS_TRIED = {1e-4: 2e6, 3e-4: 2e6, 1e-3: 2e6, 3e-3: 2e7, 1e-2: 2e7, 3e-2: 2e7, 0.1: 2e7}
# With full batches alone, where frequencies cost nothing.
LOOSENESS_WITHOUT_SAMPLING = {1e-28: inf}
T_FACTORS = (
    1.0,
    0.8,
    0.65,
    0.5,
    0.35,
    0.25,
    0.1,
    0.03,
    0.01,
    1e-3,
    1e-4,
)  # times the best t, where less may do
# Times t, where Chernoff bounds the aliases.
CHERNOFF_FACTORS = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
# Number of frequencies, and 20 t or the largest frequency over the noise multiplier.
LARGEST_FOR_CHECKER = 99_999.0
ROOT_DIGITS = 60  # to which the root is found
MOST_NEWTON_STEPS = 100
LAST_NEWTON_STEP = 1e-40  # relative, of the last step
CLAIM_FACTOR = Decimal("1.000000000000000000000000001")  # what is claimed over the root

mp = MPContext()
mp.dps = ROOT_DIGITS
Number = Any  # a number of `mp`


class _Direction(NamedTuple):
    """One direction of the run, in floats: enough to choose a contour by."""

    phases: Sequence[Settings]
    remove: bool

    def log_moment(self, t: float) -> float:
        """About log M(t)."""
        total = 0.0
        for phase in self.phases:
            q, z = phase.sample_rate, phase.noise_multiplier
            order = 1.0 + t if self.remove else -t
            step = (
                0.5 * t * (1.0 + t) / z**2 if q == 1.0 else loss.rough_log_moment(order, z, q, inf)
            )
            total += phase.steps * step
        return total

    def contour(
        self, t: float, chernoff_t: float, epsilon: float, delta: float, looseness: float
    ) -> tuple[float, dict[str, Any]]:
        """(nodes times frequencies, contour at t), fit for delta at epsilon.

        Up to about `looseness` times epsilon, or times 1/chernoff_t if that is more: the t of the
        Chernoff bound is about the slope of log delta.
        """
        wanted = log(delta) + min(0.0, log(looseness * max(1.0, chernoff_t * epsilon)))
        here = self.log_moment(t) - t * epsilon
        others = (
            (u, self.log_moment(u) - u * epsilon)
            for u in (t * factor for factor in CHERNOFF_FACTORS)
        )
        period = max(-wanted / t, min((moment - wanted) / (u - t) for u, moment in others))
        normal = sum(
            phase.steps / phase.noise_multiplier**2
            for phase in self.phases
            if phase.sample_rate == 1.0
        )
        added = max(
            0.0, 2.0 * looseness * max(epsilon, delta / chernoff_t) / (1.0 + chernoff_t) - normal
        )
        if not isfinite(period):
            return inf, {}
        spacing, count = 2.0 * pi / period, 1
        while (
            here
            - 0.5 * (added + normal) * (count * spacing) ** 2
            - log(pi * spacing * (count - 0.5))
            > wanted
        ):
            count = ceil(1.1 * count)
            if count > LARGEST_FOR_CHECKER:
                return inf, {}
        reach, sampled = (
            count * spacing,
            [phase for phase in self.phases if phase.sample_rate < 1.0],
        )
        if any(
            max(20.0 * t, reach) > LARGEST_FOR_CHECKER * phase.noise_multiplier for phase in sampled
        ):
            return inf, {}
        nodes = sum(self.nodes(phase, t, reach) for phase in sampled)
        return (count + 100.0) * max(1.0, nodes), {
            "t": t,
            "spacing": spacing,
            "count": count,
            "added": added,
        }

    def nodes(self, phase: Settings, t: float, reach: float) -> float:
        """About how many nodes the checker needs for a phase, as it counts them."""
        q, v, top = phase.sample_rate, 1.0 / phase.noise_multiplier, 1.0 + t if self.remove else -t
        y = min(19.0, 2.5 / v, 48.0 / v / sqrt(abs(top)))
        grown = 180.0 + 0.5 * y * y + reach * y * v - min(0.0, top) * -log(cos(0.5 * y * v))
        large = (
            min(top * (0.5 * v * v - log(q)), 0.5 * (top * v) ** 2)
            if self.remove
            else top * log1p(-q)
        )
        return (2.0 * sqrt(360.0 + 2.0 * large) + max(0.0, top) * v) * grown / (2.0 * pi * y)

    def first_affordable(
        self, epsilon: float, delta: float, tried: dict[float, float]
    ) -> dict[str, Any]:
        """The first contour that is worth its time; {} if there is none."""
        _, order = renyi.minimise_over_orders(
            lambda order: renyi.log_delta_at(self.log_moment(order - 1.0), order, epsilon)
        )
        chernoff_t = order - 1.0
        for looseness, most in tried.items():
            cost, contour = min(
                (
                    self.contour(f * chernoff_t, chernoff_t, epsilon, delta, looseness)
                    for f in T_FACTORS
                ),
                key=lambda pair: pair[0],
            )
            if cost <= most:
                return contour
        return {}


def _below(x: verify_plain.Interval) -> Number:
    """The lower ends of both parts of a complex interval."""
    return mp.mpc(mp.mpmathify(x.real.a), mp.mpmathify(x.imag.a))


def _root(
    curve: Sequence[tuple[verify_plain.Interval, verify_plain.Interval]], start: float, delta: float
) -> Number:
    """Where Re sum F e^{-z eps} falls to delta, by Newton's method for its log, by halves where
    that goes astray; 0 if it is below from the start, infinity if it stays above."""
    lows = [(_below(s), _below(f)) for s, f in curve]

    def at(epsilon: Number) -> tuple[Number, Number]:
        parts = [f * mp.exp(-z * epsilon) for z, f in lows]
        return mp.fsum(x.real for x in parts), mp.fsum(
            (z * x).real for (z, _), x in zip(lows, parts, strict=True)
        )

    low, high, epsilon, wanted = mp.zero, mp.inf, mp.mpf(start), mp.mpf(repr(delta))
    if at(low)[0] <= wanted:
        return low
    for _ in range(MOST_NEWTON_STEPS):
        value, fall = at(epsilon)
        low, high = (epsilon, high) if value > wanted else (low, epsilon)
        move = mp.log(value / wanted) * value / fall if value > 0 and fall > 0 else mp.zero
        if not low <= epsilon + move <= high:
            move = (low + high) / 2 - epsilon if high < mp.inf else epsilon + wanted
        epsilon += move
        if abs(move) <= LAST_NEWTON_STEP * epsilon:
            return epsilon
    return mp.inf


def certify(phases: Sequence[Settings], delta: float, start: float) -> dict[str, Any] | None:
    """The certificate of plain Gaussian phases (mixing, if any, is not credited), ready for JSON;
    None if there is none.

    `start` is about epsilon. The claim is larger by about three times the part of `LOOSENESS_TRIED`
    that was fast enough.
    """
    shown: list[dict[str, Any]] = [
        {name: phase.to_dict()[name] for name in PLAIN_FIELDS} for phase in phases
    ]
    certificate: dict[str, Any] = {"schema": 2, "phases": shown, "delta": delta, "contours": {}}
    closed, claim = all(phase.sample_rate == 1.0 for phase in phases), mp.zero
    tried = [LOOSENESS_WITHOUT_SAMPLING if closed else LOOSENESS_TRIED]
    for name in ("remove", "add"):
        direction, root = _Direction(phases, name == "remove"), mp.inf
        for loosenesses in tried if direction.remove or closed else [{0.1: 2e7}, *tried]:
            aim = max(start, float(claim))
            contour = direction.first_affordable(aim, delta, loosenesses)
            if contour and root > claim:
                certificate["contours"][name] = contour
                root = _root(verify_plain.one_direction(_read(certificate), name)[1], start, delta)
        claim = max(claim, root)
    if claim == mp.inf:
        return None
    return _filled(
        certificate,
        str(
            Context(30, ROUND_CEILING).multiply(
                CLAIM_FACTOR, Decimal(mp.nstr(claim, ROOT_DIGITS - 10))
            )
        ),
    )


def just_below(certificate: dict[str, Any]) -> str:
    """A decimal less than the claim by its last digits, at which the bound on delta is proven to be
    above delta; or 0."""
    downwards = Context(30, ROUND_FLOOR)
    lower = str(
        downwards.divide(
            downwards.divide(Decimal(certificate["values"]["epsilon"]), CLAIM_FACTOR), CLAIM_FACTOR
        )
    )
    values = _filled(certificate, lower)["values"]
    above = any(
        mp.mpf(values[f"{name}: log delta"][0]) > mp.log(mp.mpf(repr(certificate["delta"])))
        for name in certificate["contours"]
    )
    return lower if above else "0"


def _filled(certificate: dict[str, Any], epsilon: str) -> dict[str, Any]:
    claimed = certificate | {"values": {"epsilon": epsilon}}
    return certificate | {"values": verify_plain.recompute(_read(claimed))}


def _read(certificate: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(certificate), parse_float=Fraction))
