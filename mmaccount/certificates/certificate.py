"""Certificates: an epsilon with all that is needed to prove it again, for a checker that trusts
nothing else of ours.

Without mixing an epsilon is proven by Fourier inversion along a line, the contour of integration:
certificates/plain_certificate.py, checked by `verify_plain.py`. With it Renyi moments prove one,
which `verify_renyi.py` checks. Each checker is one file that works alone: they share no code.

A certificate of Renyi moments is {"schema": 1, "phases", "delta", "order", "rules", "values"};
numbers mean the decimals that are written. "values" holds what `verify_renyi.recompute` gets, as
[lower, upper] rounded outward to 30 digits, and "epsilon", a decimal.
"rules" has one entry a phase:
    "binomial"  sum_k C(a, k) (1-q)^(a-k) q^k A_k, A_k = e^{p h_k(s; L)}, for an integer order a;
    A_a for any order if q = 1; a number    the AM-GM bound (step_moments.am_gm), with that beta;
    "plain"     the subsampled Gaussian at any order, mixing not credited.

The checker works with intervals of 54 digits and more (directed rounding, mpmath.iv). Three errors
are not rounding:
(E1) Normal tail. With u = x/sqrt 2 > 0, e^{u^2} erfc(u) = (u/pi) Int e^{-t^2}/(t^2 + u^2) dt. The
    midpoint rule with step pi/a, moved to the lines |Im t| = c, differs from it by the pole, -2
    e^{u^2}/(e^{2au} + 1) if u < c, and by at most (2u/sqrt pi) e^{c^2}/(|c^2 - u^2| (e^{2ac} - 1)).
    With c = a + 1 for u < a and c = a - 1 for u > a this is less than u e^{1-a^2}; terms t > a add
    up to less than u e^{-a^2}. All is analytic in u > -1, so both hold there with |u|.
(E2) Trapezoid rule. If f is analytic for |Im x| < y and Int |f(x + ib)| dx <= G Int f for |b| < y,
    the relative error is at most 2 G/(e^{2 pi y/h} - 1) (Trefethen and Weideman 2014, Theorem 5.1).
    For p R^k, R = p(x-v)/p, p uniform plus Gaussian: G = e^{y^2/2} (1 - y^2/2)^{1-k}, y < sqrt 2,
    since e^{y^2/2} p (1 - y^2/2) <= |p(x + iy)| <= e^{y^2/2} p (given the sum, the uniform has
    variance below 1). For N(0,1) and R = 1 - q + q e^{vx - v^2/2}: |R(x + iy)| <= R(x), and no zero
    while y v < pi, so G = e^{y^2/2}.
(E3) Nodes left out, W beyond the left edge and k v + W beyond the right one. On the left R <= 1. On
    the right, s > 1 beyond the edge, log R <= v (hazard rate at s) <= v (s + 1) as -log p is
    convex, and p <= phi(s)/L, so that p R^k <= e^{kv + (kv)^2/2} phi(s - kv)/L. For N(0,1), R^k <=
    1 + e^{k (vx - v^2/2)}. Nodes at least W inside both edges have |log R| <= 4 P(N > W); they are
    taken together.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor, inf
from pathlib import Path
from typing import Any

from mmaccount.accounting import plain_gaussian, renyi
from mmaccount.accounting.step_moments import am_gm, step_log_moment
from mmaccount.certificates import plain_certificate, verify_plain, verify_renyi
from mmaccount.records import validate
from mmaccount.records.bound import Bound, BoundError
from mmaccount.records.settings import Settings

RENYI_FIELDS = (
    "sample_rate",
    "steps",
    "noise_multiplier",
    "mixing",
    "truncation",
    "noise",
)  # that the checker knows
SAME_TOLERANCE = 1e-9  # relative, up to which a certified bound is the reported one
LARGEST_BINOMIAL_ORDER = 128  # of the rule "binomial"; higher ones take the checker minutes

Rule = str | float


def _plain(phase: Settings) -> Settings:
    return replace(phase, mixing=0.0, truncation=1.0)


def _rule(phase: Settings, order: float) -> tuple[float, Rule]:
    """The smallest log-moment of a step that the checker can prove, and the rule for it."""
    candidates: list[tuple[float, Rule]] = [(step_log_moment(_plain(phase), order), "plain")]
    if phase.mixing > 0.0 and (
        phase.sample_rate == 1.0 or (order == floor(order) and order <= LARGEST_BINOMIAL_ORDER)
    ):
        candidates.append((step_log_moment(phase, order), "binomial"))
    elif phase.mixing > 0.0 and order < 2.0:
        bound, beta = am_gm(phase, order)
        candidates.append((bound, min(beta, 2.0 - 1e-9)))
    return min(candidates, key=lambda pair: pair[0])


def _renyi(phases: Sequence[Settings], delta: float) -> tuple[float, float, list[Rule]]:
    """(epsilon, order, rules) of about the best bound from Renyi moments that the checker can
    prove."""
    orders: set[float] = set()
    for runs in (phases, [_plain(phase) for phase in phases]):
        order = renyi.epsilon(runs, delta=delta).order or 2.0
        orders |= {
            order,
            float(floor(order)),
            floor(order) + 1.0,
            min(order, float(LARGEST_BINOMIAL_ORDER)),
        } - {1.0}

    def at(order: float) -> tuple[float, float, list[Rule]]:
        rules = [_rule(phase, order) for phase in phases]
        moment = sum(phase.steps * bound for phase, (bound, _) in zip(phases, rules, strict=True))
        return renyi.epsilon_at(moment, order, delta), order, [rule for _, rule in rules]

    return min(map(at, orders), key=lambda proof: proof[0])


def certify(settings: Settings | Iterable[Settings], *, delta: float) -> dict[str, Any]:
    """The certificate of the smallest epsilon that can be proven to a checker; ready for JSON.

    Without mixing that is about the reported epsilon: some parts in 10,000 above it, up to 1 % for
    few steps, and more where epsilon is below 0.02. With mixing it is the reported one where that
    comes from Renyi moments, and a larger one where it comes from a privacy loss distribution: no
    checker knows those of mixing. Takes some seconds.

    Raises:
        ValueError, TypeError: as `epsilon`; or Laplace noise, or a setting that the checker does
            not know.
        BoundError: nothing finite can be proven.

    >>> certificate = certify(Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0), delta=1e-5)
    >>> certificate["schema"], certificate["values"]["epsilon"][:5]
    (2, '6.189')
    """
    phases = renyi.as_given(settings)
    delta = validate.probability("delta", delta)
    for phase in phases:
        other = sorted(
            name
            for name, value in phase.to_dict().items()
            if name not in RENYI_FIELDS and value != getattr(_DEFAULT, name)
        )
        if phase.noise != "gaussian" or other:
            raise ValueError(
                f"a certificate is not available with `{other[0] if other else 'noise'}` other than "
                "its default."
            )
    epsilon, order, rules = _renyi(phases, delta)
    plain = [_plain(phase) for phase in phases]
    exact = plain_gaussian.epsilon(plain, delta).upper
    certificate = plain_certificate.certify(plain, delta, exact) if exact < epsilon else None
    if certificate is None or float(certificate["values"]["epsilon"] or inf) > epsilon:
        certificate = _renyi_certificate(phases, delta, order, rules)
    if not float(certificate["values"]["epsilon"] or inf) < inf:
        raise BoundError("no finite epsilon can be certified for these settings.")
    return certificate


def _renyi_certificate(
    phases: Sequence[Settings], delta: float, order: float, rules: list[Rule]
) -> dict[str, Any]:
    shown = [
        {name: value for name, value in phase.to_dict().items() if name in RENYI_FIELDS}
        for phase in phases
    ]
    certificate: dict[str, Any] = {"schema": 1, "phases": shown, "delta": delta}
    certificate |= {"order": int(order) if order == floor(order) else order, "rules": rules}
    return certificate | {
        "values": verify_renyi.recompute(json.loads(json.dumps(certificate), parse_float=Fraction))
    }


_DEFAULT = Settings(sample_rate=1.0, steps=1, noise_multiplier=1.0)


def enclosure(certificate: dict[str, Any]) -> tuple[str, str]:
    """What the bound of a certificate lies between, as decimals: Renyi's formula for epsilon, or
    the root of the bound on delta by Fourier inversion."""
    upper = str(certificate["values"]["epsilon"])
    if certificate["schema"] == 1:
        return max("0", str(certificate["values"]["result"][0]), key=Fraction), upper
    return plain_certificate.just_below(certificate), upper


def method(certificate: dict[str, Any]) -> str:
    """What the bound of a certificate is, in words."""
    if certificate["schema"] == 1:
        return f"Renyi order {certificate['order']:.6g}"
    added = max(contour["added"] for contour in certificate["contours"].values())
    return (
        f"contours, with a Gaussian step of squared mean {added:.2g} added"
        if added > 0.0
        else "contours"
    )


def note(certificate: dict[str, Any], reported: Bound) -> str | None:
    """How the bound of a certificate differs from the reported one, and why; None where they are
    the same."""
    certified = float(certificate["values"]["epsilon"])
    if certified <= reported.upper * (1.0 + SAME_TOLERANCE):
        return None
    above = (
        f"{100.0 * (certified / reported.upper - 1.0):.2g} % above"
        if reported.upper > 0.0
        else "above"
    )
    if certificate["schema"] == 2:
        return f"{above} the first line, which does without the added step"
    return (
        f"{above} the first line: no checker knows its method ({reported.method}); "
        "this is the best of those that one knows"
    )


def check(path: str) -> tuple[int, str]:
    """Status and reason of a certificate file, by the checker of the schema that it says it has.

    Either `verify_renyi.check` or `verify_plain.check`.
    """
    try:
        schema = json.loads(Path(path).read_text())["schema"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        schema = None  # the checker says what is wrong
    return verify_renyi.check(path) if schema == 1 else verify_plain.check(path)
