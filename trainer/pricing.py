"""The one place where the trainer asks the accountant. The mechanism never does."""

from functools import lru_cache

import mmaccount
from mmaccount import Bound, Ledger, Plan, Settings
from mmaccount.accounting import renyi
from mmaccount.records.bound import up


@lru_cache(maxsize=8)
def _epsilon(settings: tuple[Settings, ...], delta: float) -> Bound:
    """Kept, since a run asks for the price of its plan at its start, at its end and in its report."""
    return mmaccount.epsilon(list(settings), delta=delta)


def spent(ledger: Ledger, delta: float | None = None) -> Bound:
    """Epsilon of everything the ledger charges, at `delta` (default: the plan's)."""
    if not ledger.settings():
        return Bound(upper=0.0, lower=0.0, method="nothing released")
    return _epsilon(tuple(ledger.settings()), ledger.plan.delta if delta is None else delta)


def progress(ledger: Ledger, planned: Bound) -> float:
    """An upper bound on epsilon so far that is quick enough to show on the way: Renyi moments where
    a phase mixes, and never more than the whole plan costs while no phase has been charged more
    steps than it has."""
    plan = ledger.plan
    if all(phase.gap == 0.0 for phase in plan.phases):
        return spent(ledger).upper
    quick = renyi.epsilon(ledger.settings(), delta=plan.delta).upper if ledger.settings() else 0.0
    inside = all(ledger.steps_of(index) <= phase.steps for index, phase in enumerate(plan.phases))
    return min(quick, planned.upper) if inside else quick


def within_target(plan: Plan) -> Bound:
    """Epsilon of the whole plan; a plan that misses its own target is refused."""
    bound = _epsilon(tuple(plan.settings()), plan.delta)
    if plan.target_epsilon is not None and not bound.upper <= plan.target_epsilon:
        raise ValueError(
            f"the plan costs epsilon {up(bound.upper)}, above its target {plan.target_epsilon:g}."
        )
    return bound
