"""The front door: epsilon and delta of a run, from both sides.

`epsilon` and `delta` ask the methods of methods.py that apply to a run, and keep the smallest of
the proven upper bounds and the largest of the attacks:

1. Renyi moments, always.
2. Exact accounting without mixing: the answer where nothing is mixed; with mixing an upper bound.
3. With mixing, or where several records differ: the envelope of all gradients.
4. Attacks: without mixing the exact answer; with it, gradients spread over few and over many weights.
5. Where 3 and 4 are far apart: a tighter pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf

from mmaccount.accounting import methods, renyi
from mmaccount.accounting.methods import DeltaAt, EpsilonAt, Phases, Question, is_gaussian, is_mixed
from mmaccount.accounting.neighbours import changes
from mmaccount.records import validate
from mmaccount.records.bound import Bound, BoundError, TwoSided
from mmaccount.records.settings import Settings

EXACT = "privacy loss distribution, both directions"
NOT_CREDITED = f"{EXACT}, mixing not credited"
ENVELOPE = "privacy loss distribution of the envelope of all shifts, both directions"
TIGHT_PAIR = (
    "privacy loss distribution of the nearly sparse shifts beside an auxiliary mechanism, "
    "both directions"
)
OWN_ATTACK = "likelihood ratio test"
ONE_SIDED = "likelihood ratio test, no gradient in place of the record"
SPREAD_OUT = "gradient spread over ever more coordinates"

# Where Renyi moments without mixing are more than this times those with it, exact accounting
# without mixing is not tried at first.
SKIP_EXACT_FROM_RATIO = 2.0
# Where the exact upper bound is more than this times the lower one, the envelope is tried for
# neighbours that differ in several records.
ENVELOPE_FROM_RATIO = 1.01
NOTE_FROM_RATIO = 1.5  # upper over lower bound, from which a note says which side is believed loose
CROSSING_TOLERANCE = 1e-9  # relative, by which rounding of a search may let bounds cross


def crossed(lower: float, upper: float, what: str) -> None:
    """Raise BoundError if the lower bound, of the attack `what`, is above the upper one."""
    if lower > upper * (1.0 + CROSSING_TOLERANCE):
        raise BoundError(f"the lower bound {lower!r} ({what}) is above the upper bound {upper!r}.")


def mixing_decides(phases: Phases, question: Question, by_moments: float) -> bool:
    """Whether mixing saves so much that accounting without it would be a waste of time.

    `by_moments` is the upper bound on the run from Renyi moments.
    """
    if not is_mixed(phases):
        return False
    plain = methods.renyi_moments(methods.without_mixing(phases), question)
    return plain.upper > SKIP_EXACT_FROM_RATIO * by_moments


def _smaller(best: Bound, upper: float, method: str) -> Bound:
    return Bound(upper=upper, method=method) if upper < best.upper else best


def _is_loose(upper: float, lower: float) -> bool:
    return upper > NOTE_FROM_RATIO * lower and upper > 0.0


def _upper(phases: Phases, question: Question, best: Bound, tight: bool) -> tuple[Bound, TwoSided]:
    """The smallest proven bound, and what exact accounting without mixing says.

    `best` is the bound from Renyi moments. What is exact is (0, inf) where it was not worth its
    time.
    """
    if not is_gaussian(phases):
        return best, TwoSided(0.0, inf)
    mixed = is_mixed(phases)
    exact = TwoSided(0.0, inf)
    if not mixing_decides(phases, question, best.upper):
        exact = methods.plain_gaussian(methods.without_mixing(phases), question)
    if not mixed:
        crossed(exact.lower, min(exact.upper, best.upper), OWN_ATTACK)
    best = _smaller(best, exact.upper, NOT_CREDITED if mixed else EXACT)
    several = changes(phases[0]) > 1 and exact.upper > ENVELOPE_FROM_RATIO * exact.lower
    if tight and (mixed or several):
        upper = methods.envelope(phases, question).upper
        best = _smaller(best, upper, ENVELOPE if mixed else EXACT)
    return best, exact


def _attacks(phases: Phases, question: Question, exact: TwoSided, tight: bool) -> dict[str, float]:
    """Lower bounds by the name of the attack; `exact` as from `_upper`."""
    mixed = is_mixed(phases)
    attacks = {}
    if mixed:
        attacks[SPREAD_OUT] = methods.spread_out(phases, question).lower
    else:
        attacks[OWN_ATTACK] = exact.lower
    if phases[0].neighbours == "replace-one" and (mixed or _is_loose(exact.upper, exact.lower)):
        attacks[ONE_SIDED] = methods.nothing_in_its_place(phases, question).lower
    if mixed and tight:
        concentrated = methods.concentrated(phases, question)
        attacks |= {name: bounds.lower for name, bounds in concentrated.items()}
    return attacks


def _two_sided(phases: Phases, question: Question, best: Bound, tight: bool) -> Bound:
    """The smallest proven bound and the best attack below it; `best` is from Renyi moments."""
    best, exact = _upper(phases, question, best, tight)
    if not is_gaussian(phases):
        return best
    attacks = _attacks(phases, question, exact, tight)
    attack = max(attacks, key=lambda name: attacks[name])
    lower = attacks[attack]
    if tight and best.method == ENVELOPE and best.upper > (1.0 + question.patience) * lower:
        best = _smaller(best, methods.tight_pair(phases, question).upper, TIGHT_PAIR)
    if tight and exact.upper == inf and _is_loose(best.upper, lower):
        plain = methods.without_mixing(phases)
        bound, _ = _upper(plain, question, question.by_moments(plain), tight)
        best = _smaller(best, bound.upper, NOT_CREDITED)
    crossed(lower, best.upper, attack)
    best = replace(best, lower=min(lower, best.upper), attack=attack)
    return replace(best, note=_note(phases, best, tight))


def _note(phases: Phases, bound: Bound, tight: bool) -> str | None:
    """Which side of a loose answer is believed to be far from the truth, and why."""
    if bound.lower is None or bound.upper == inf or not _is_loose(bound.upper, bound.lower):
        return None
    if not tight:
        return "both bounds may be loose: the ones that take seconds are left out."
    if not is_mixed(phases) and bound.order is not None and bound.lower == 0.0:
        return "the lower bound is 0: no attack is computed for so little noise or so many steps."
    if not is_mixed(phases):
        return "the lower bound is believed loose: rounding exceeds what attacks gain."
    if changes(phases[0]) > 1:
        return "both bounds are believed loose: attacks use one of the records alone."
    if bound.method.startswith(EXACT):
        return "the upper bound is believed loose: it does not credit mixing."
    if bound.method in (ENVELOPE, TIGHT_PAIR):
        return "the upper bound is believed loose: it takes another gradient at every threshold."
    return "the upper bound is believed loose: Renyi moments overrate rare large losses."


def upper_epsilon(phases: Phases, delta: float, *, tight: bool = False) -> float:
    """`epsilon(...).upper`, without looking for an attack."""
    phases = renyi.as_phases(phases)
    best = renyi.epsilon(phases, delta=delta)
    return _upper(phases, EpsilonAt(delta), best, tight)[0].upper


def epsilon(
    settings: Settings | Iterable[Settings],
    *,
    delta: float,
    conversion: str | None = None,
    orders: Sequence[float] | None = None,
    tight: bool = True,
) -> Bound:
    """The epsilon of (epsilon, delta)-differential privacy of a run, from both sides.

    The Bound's `upper` is the guarantee. What it comes from:

    - plain Gaussian noise: the privacy loss distribution, both directions; the two bounds usually
      agree to a relative 1e-6;
    - mixing: the smallest of four proven bounds: Renyi moments, a pair that dominates every shift of
      the gradient (mixing_envelope.py), where that is wide a smaller one (mixing_tight.py), and the
      same run without mixing. `lower` is the best of attacks that spread the gradient over the
      fewest coordinates that truncation allows, 4 and 16 times as many, or ever more;
    - Laplace noise: Renyi moments, and no attack.

    Args:
        settings: one phase or several; phases compose in any order.
        delta: in (0, 1).
        conversion: "improved" or "mironov" (looser; the paper's) forces Renyi moments and chooses
            how they are converted.
        orders: Renyi orders to try, all > 1; forces Renyi moments. By default the best real order
            is searched for.
        tight: False leaves out the envelope and the concentrated attacks, which take one to ten
            seconds per geometry.

    Returns:
        Bound. `upper` is +inf with a `reason` when nothing finite is known.

    Raises:
        ValueError, TypeError: an argument is out of range.
        BoundError: a condition of the bound failed numerically (never observed).

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> bound = epsilon(run, delta=1e-5)
    >>> f"{bound.lower:.4f} <= epsilon <= {bound.upper:.4f}"
    '6.1877 <= epsilon <= 6.1877'
    """
    phases = renyi.as_phases(settings)
    delta = validate.probability("delta", delta)
    best = renyi.epsilon(phases, delta=delta, conversion=conversion or "improved", orders=orders)
    if conversion is not None or orders is not None:
        return best
    return _two_sided(phases, EpsilonAt(delta), best, tight)


def delta(
    settings: Settings | Iterable[Settings],
    *,
    epsilon: float,
    conversion: str | None = None,
    orders: Sequence[float] | None = None,
    tight: bool = True,
) -> Bound:
    """The delta of (epsilon, delta)-differential privacy of a run at a given epsilon >= 0.

    From the same methods as `epsilon`, whose other arguments, return value and errors it shares.

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> f"{delta(run, epsilon=8).upper:.3g}"
    '2.03e-08'
    """
    phases = renyi.as_phases(settings)
    epsilon = validate.nonnegative("epsilon", epsilon)
    best = renyi.delta(phases, epsilon=epsilon, conversion=conversion or "improved", orders=orders)
    if conversion is not None or orders is not None:
        return best
    return _two_sided(phases, DeltaAt(epsilon, best.upper), best, tight)
