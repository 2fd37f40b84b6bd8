"""The one place where the trainer asks the accountant. The mechanism never does."""

import mmaccount
from mmaccount import Bound, Ledger, Plan


def spent(ledger: Ledger, delta: float | None = None) -> Bound:
    """Epsilon of everything the ledger charges, at `delta` (default: the plan's)."""
    if not ledger.runs:
        return Bound(upper=0.0, lower=0.0, method="nothing released")
    return mmaccount.epsilon(ledger.settings(), delta=ledger.plan.delta if delta is None else delta)


def within_target(plan: Plan) -> Bound:
    """Epsilon of the whole plan; a plan that misses its own target is refused."""
    bound = mmaccount.epsilon(plan.settings(), delta=plan.delta)
    if plan.target_epsilon is not None and not bound.upper <= plan.target_epsilon:
        raise ValueError(f"the plan costs epsilon {bound.upper:.6g}, above its target {plan.target_epsilon:g}.")
    return bound
