"""What happens around a piece of advice, when one setting is changed and all else stays."""

from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt

from mmaccount.accounting.accountant import upper_epsilon
from mmaccount.advice.advisor import RECOVERY, expected
from mmaccount.advice.recommendation import Advice
from mmaccount.advice.schedule import Schedule
from mmaccount.records import mixing_laws
from mmaccount.records.plan import Plan

KNOB_FACTORS = (0.5, sqrt(0.5), 1.0, sqrt(2.0), 2.0)
PLAN_KNOBS = ("clip_norm", "learning_rate", "noise_multiplier", "steps", "batch_size")
MIXING_KNOBS = ("gap", "truncation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """A plan that differs from the recommended one in one knob: its epsilon, an upper bound (with a
    gap by the quick bounds, also of the recommendation itself), and what is expected of it (None
    where norms are all that is known)."""

    knob: str
    factor: float
    value: float
    epsilon: float
    remaining: float | None
    first: float | None

    def to_dict(self) -> dict[str, str | float | None]:
        """Plain values, ready for JSON; what is unbounded is None."""
        return {
            name: None if isinstance(v, float) and not isfinite(v) else v
            for name, v in asdict(self).items()
        }


def variations(advice: Advice) -> list[Variation]:
    """The recommendation with each knob times 0.5 ... 2, all else as it is; batches do not grow
    beyond the data."""
    rows = []
    for knob in PLAN_KNOBS + MIXING_KNOBS * (advice.plan.phases[0].gap > 0.0):
        for factor in KNOB_FACTORS:
            plan = _changed(advice.plan, knob, factor)
            if plan is not None:
                rows.append(_variation(advice, plan, knob, factor))
    return rows


def _changed(plan: Plan, knob: str, factor: float) -> Plan | None:
    if knob == "batch_size":
        rate = plan.sample_rate * factor
        return (
            replace(plan, sample_rate=rate, batch_size=rate * plan.dataset_size)
            if rate <= 1.0
            else None
        )
    phase = plan.phases[0]
    value = getattr(phase, knob) * factor
    if knob == "truncation" and value < 1.0:
        return None
    value = max(1, round(value)) if knob == "steps" else value
    return replace(plan, phases=(replace(phase, **{knob: value}),))


def _variation(advice: Advice, plan: Plan, knob: str, factor: float) -> Variation:
    phase, rho = plan.phases[0], plan.settings()[-1].mixing
    shape = Schedule(plan.batch_size, phase.steps, phase.noise_multiplier)
    eta = phase.learning_rate / (RECOVERY if rho else 1.0)
    energy = mixing_laws.energy(phase.noise_multiplier, rho, phase.mixing_law)
    forecast = expected(advice.evidence, shape, phase.clip_norm, energy, eta)
    value = plan.batch_size if knob == "batch_size" else getattr(phase, knob)
    return Variation(
        knob=knob,
        factor=factor,
        value=value,
        epsilon=upper_epsilon(plan.settings(), plan.delta),
        remaining=None if plan.releases else forecast.remaining,
        first=None if plan.releases else forecast.first,
    )
