"""Certificates: an epsilon with all that is needed to prove it again, for `verify.py`, which trusts nothing else of ours.

A certificate is {"schema": 1, "phases", "delta", "order", "rules", "values"}; numbers mean the decimals that are written.
"values" holds what `verify.recompute` gets, as [lower, upper] rounded outward to 30 digits, and "epsilon", a decimal.
"rules" has one entry a phase:
    "binomial"  sum_k C(a, k) (1-q)^(a-k) q^k A_k, A_k = e^{p h_k(s; L)}, for an integer order a; A_a for any order if q = 1;
    a number    the AM-GM bound (divergences.am_gm), with that beta;
    "plain"     the subsampled Gaussian at any order, mixing not credited.
Without an order q = 1 and mixing is not credited: for Gaussian noise with mu^2 = sum T/z^2
    delta(eps) = P(N > eps/mu - mu/2) - e^eps P(N > eps/mu + mu/2)    (Balle and Wang 2018, arXiv 1805.06530, Theorem 8)
falls with eps, and it is at most delta at the epsilon of the certificate.

The checker works with intervals of 54 digits and more (directed rounding, mpmath.iv). Three errors are not rounding:
Normal tail. With u = x/sqrt 2 > 0, e^{u^2} erfc(u) = (u/pi) Int e^{-t^2}/(t^2 + u^2) dt. The midpoint rule with step pi/a,
    moved to the lines |Im t| = c, differs from it by the pole, -2 e^{u^2}/(e^{2au} + 1) if u < c, and by at most
    (2u/sqrt pi) e^{c^2}/(|c^2 - u^2| (e^{2ac} - 1)). With c = a + 1 for u < a and c = a - 1 for u > a this is less than
    u e^{1-a^2}; terms t > a add up to less than u e^{-a^2}. All is analytic in u > -1, so both hold there with |u|.
Trapezoid rule. If f is analytic for |Im x| < y and Int |f(x + ib)| dx <= G Int f for |b| < y, the relative error is at most
    2 G/(e^{2 pi y/h} - 1) (Trefethen and Weideman 2014, Theorem 5.1). For p R^k, R = p(x-v)/p, p uniform plus Gaussian:
    G = e^{y^2/2} (1 - y^2/2)^{1-k}, y < sqrt 2, since e^{y^2/2} p (1 - y^2/2) <= |p(x + iy)| <= e^{y^2/2} p (given the sum,
    the uniform has variance below 1). For N(0,1) and R = 1 - q + q e^{vx - v^2/2}: |R(x + iy)| <= R(x), and no zero while
    y v < pi, so G = e^{y^2/2}.
Nodes left out, W beyond the left edge and k v + W beyond the right one. On the left R <= 1. On the right, s > 1 beyond the
    edge, log R <= v (hazard rate at s) <= v (s + 1) as -log p is convex, and p <= phi(s)/L, so that
    p R^k <= e^{kv + (kv)^2/2} phi(s - kv)/L. For N(0,1), R^k <= 1 + e^{k (vx - v^2/2)}. Nodes at least W inside both edges
    have |log R| <= 4 P(N > W); they are taken together.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from math import floor
from typing import Any

from mpmath import mpf
from mpmath.ctx_mp import MPContext

from mmaccount import _check, verify
from mmaccount.accountants import rdp
from mmaccount.bound import BoundError
from mmaccount.divergences import am_gm, step_log_moment
from mmaccount.settings import Settings

FIELDS = ("sample_rate", "steps", "noise_multiplier", "mixing", "truncation", "noise")  # that the checker knows
MOST_ORDER = 128  # of the rule "binomial"; higher ones take the checker minutes
NARROW = Decimal("1e-25")  # relative width of the enclosure of an epsilon that is solved for
DIGITS = 60  # to which the epsilon of a certificate without order is solved for

Rule = str | float


def _plain(phase: Settings) -> Settings:
    return replace(phase, mixing=0.0, truncation=1.0)


def _rule(phase: Settings, order: float) -> tuple[float, Rule]:
    """The smallest log-moment of a step that the checker can prove, and the rule for it."""
    found: list[tuple[float, Rule]] = [(step_log_moment(_plain(phase), order), "plain")]
    if phase.mixing > 0.0 and (phase.sample_rate == 1.0 or (order == floor(order) and order <= MOST_ORDER)):
        found.append((step_log_moment(phase, order), "binomial"))
    elif phase.mixing > 0.0 and order < 2.0:
        bound, beta = am_gm(phase, order)
        found.append((bound, min(beta, 2.0 - 1e-9)))
    return min(found, key=lambda pair: pair[0])


def _renyi(phases: Sequence[Settings], delta: float) -> tuple[float, float, list[Rule]]:
    """(epsilon, order, rules) of about the best bound from Renyi moments that the checker can prove."""
    orders: set[float] = set()
    for runs in (phases, [_plain(phase) for phase in phases]):
        order = rdp.epsilon(runs, delta=delta).order or 2.0
        orders |= {order, float(floor(order)), floor(order) + 1.0, min(order, float(MOST_ORDER))} - {1.0}

    def at(order: float) -> tuple[float, float, list[Rule]]:
        rules = [_rule(phase, order) for phase in phases]
        moment = sum(phase.steps * bound for phase, (bound, _) in zip(phases, rules, strict=True))
        return rdp.epsilon_at(moment, order, delta), order, [rule for _, rule in rules]

    return min(map(at, orders), key=lambda found: found[0])


def _gaussian(phases: Sequence[Settings], delta: float) -> str:
    """The epsilon of q = 1 without mixing, rounded up to 30 digits."""
    mp = MPContext()
    mp.dps = DIGITS
    mu = mp.sqrt(sum(phase.steps / mp.mpf(repr(phase.noise_multiplier)) ** 2 for phase in phases))

    def log_excess(epsilon: mpf) -> mpf:
        tails = [mp.ncdf(mu / 2 - epsilon / mu), mp.exp(epsilon) * mp.ncdf(-mu / 2 - epsilon / mu)]
        return mp.log(tails[0] - tails[1]) - mp.log(mp.mpf(repr(delta)))

    if log_excess(mp.zero) <= 0:
        return "0"
    high = mu * mu / 2 + mu * mp.sqrt(-2 * mp.log(mp.mpf(repr(delta))))
    root = mp.findroot(log_excess, (mp.zero, high), solver="anderson", tol=mp.mpf(10) ** (4 - 2 * DIGITS), maxsteps=200)
    return str(Context(30, ROUND_CEILING).create_decimal(Decimal(mp.nstr(root, DIGITS - 10))))


def _filled(made: dict[str, Any], epsilon: str) -> dict[str, Any]:
    made = made | {"values": {"epsilon": epsilon}}
    return made | {"values": verify.recompute(json.loads(json.dumps(made), parse_float=Fraction))}


def certify(settings: Settings | Iterable[Settings], *, delta: float) -> dict[str, Any]:
    """The certificate of the smallest epsilon that `verify` can prove; ready for JSON.

    That is the reported epsilon where Renyi moments (or, for q = 1, the closed form) are the best bound, and a larger one
    where a privacy loss distribution is: the checker does not know that method. Takes some seconds with mixing.

    Raises:
        ValueError, TypeError: as `epsilon`; or Laplace noise, or a setting that the checker does not know.
        BoundError: nothing finite can be proven.

    >>> made = certify(Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0), delta=1e-5)
    >>> made["rules"], made["values"]["epsilon"][:8]
    (['plain'], '6.712271')
    """
    phases = rdp.as_given(settings)
    delta = _check.probability("delta", delta)
    for phase in phases:
        other = sorted(
            name for name, value in phase.to_dict().items() if name not in FIELDS and value != getattr(_DEFAULT, name)
        )
        if phase.noise != "gaussian" or other:
            raise ValueError(
                f"a certificate is not available with `{other[0] if other else 'noise'}` other than its default."
            )
    epsilon, order, rules = _renyi(phases, delta)
    shown = [{name: value for name, value in phase.to_dict().items() if name in FIELDS} for phase in phases]
    made: dict[str, Any] = {"schema": 1, "phases": shown, "delta": delta}
    made |= {"order": int(order) if order == floor(order) else order, "rules": rules}
    claim = "0"
    if all(phase.sample_rate == 1.0 for phase in phases) and float(exact := _gaussian(phases, delta)) <= epsilon:
        made |= {"order": None, "rules": ["plain"] * len(phases)}
        claim = exact
    made = _filled(made, claim)
    if made["values"]["epsilon"] is None or not float(made["values"]["epsilon"]) < float("inf"):
        raise BoundError("no finite epsilon can be certified for these settings.")
    return made


_DEFAULT = Settings(sample_rate=1.0, steps=1, noise_multiplier=1.0)


def enclosure(made: dict[str, Any]) -> tuple[str, str]:
    """What the bound of a certificate lies between, as decimals: the formula for epsilon, or the root of delta(epsilon)."""
    upper = str(made["values"]["epsilon"])
    if made["order"] is not None:
        return max("0", str(made["values"]["result"][0]), key=Fraction), upper
    lower = str(Context(30, ROUND_FLOOR).multiply(Decimal(upper), 1 - NARROW))
    reached = Fraction(_filled(made, lower)["values"]["result"][0])
    return (lower if reached > Fraction(repr(made["delta"])) else "0"), upper
