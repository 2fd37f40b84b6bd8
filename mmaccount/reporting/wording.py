"""A plan in words, and what its guarantee takes for granted."""

from collections.abc import Iterable

from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.mixing_laws import UNIFORM
from mmaccount.records.plan import Phase, Plan

RELATIONS = {
    "add-or-remove": "adding or removing one record",
    "replace-one": "putting another record in the place of one",
    "zero-out": "making the gradients of one record zero",
}
SETTINGS = (
    "steps",
    "noise_multiplier",
    "clip_norm",
    "learning_rate",
    "truncation",
    "gap",
    "mixing_law",
)
CONDITIONS = (
    "Poisson sampling: every record joins every batch by a coin of its own, and the coins stay "
    "secret. Shuffled epochs are not that.",
    "Gradients are taken record by record, clipped before they are summed; the sum is divided by "
    "the expected batch size, never by the realised one.",
    "Noise is added once to each sum, to every parameter that is released; it is fresh, also after "
    "a crash.",
    "All iterates may be published; nothing else that depends on the records is.",
    "Settings and run were not chosen by results on these records (mmaccount tune-cost prices such "
    "a choice).",
)
MIXING = (
    "Every released parameter is mixed in every step, the first one too.",
    "Mixing coefficients are fresh and secret: who can predict them sees plain DP-SGD.",
    "Gradients are taken at a published iterate, not at the mixed point; momentum uses published "
    "iterates only.",
)
ADAPTIVE = (
    "Counts of short gradients are released with noise of their own, added once, and divided by "
    "the expected batch size; the clip norm depends on nothing else."
)


def words(plan: Plan) -> list[str]:
    """What happens, a paragraph for the data and one for each phase."""
    paragraphs = [_data(plan)]
    count = len(plan.phases)
    for i, phase in enumerate(plan.phases, 1):
        name = f"Phase {i} of {count}: " if count > 1 else ""
        paragraphs.append(name + _phase(phase, plan))
    return paragraphs


def _data(plan: Plan) -> str:
    return (
        f"{plan.dataset_size:,} records. In each of {plan.steps:,} steps every record takes part "
        f"with probability {plan.sample_rate:.6g}, {plan.batch_size:,.6g} of them on average. "
        f"Neighbouring data sets differ by {RELATIONS[plan.neighbours]}."
    )


def _phase(phase: Phase, plan: Plan) -> str:
    noise = phase.noise_multiplier * phase.clip_norm
    text = (
        f"{phase.steps:,} steps. The gradient of a record is clipped to l2 norm "
        f"{phase.clip_norm:.6g}"
    )
    if phase.truncation > 1.0:
        text += f", then each coordinate is cut at {phase.clip_norm / phase.truncation**0.5:.6g}"
    text += (
        f"; the sum gets Gaussian noise of standard deviation {noise:.6g} in every coordinate, is "
        f"divided by {plan.batch_size:.6g} and goes into a step of learning rate "
        f"{phase.learning_rate:.6g}."
    )
    if phase.adaptive is not None:
        text += _adaptive(phase.adaptive, phase, plan)
    return text + _mixing(phase)


def _mixing(phase: Phase) -> str:
    if not phase.gap:
        return " There is no mixing: this is plain DP-SGD."
    law = "" if phase.mixing_law == UNIFORM else f", by the {phase.mixing_law} law"
    return (
        " Before that, each coordinate is drawn at random between its last two values, first "
        f"pushed apart to at least {phase.gap * phase.learning_rate:.6g} (gap times learning "
        f"rate){law}: ModelMix."
    )


def _adaptive(clipping: AdaptiveClipping, phase: Phase, plan: Plan) -> str:
    quantile = f"{clipping.quantile:.6g}"
    return (
        " That clip norm c is the first step's. Each step counts the gradients of at most c, adds "
        f"Gaussian noise of standard deviation {clipping.noise:.6g} records and divides by "
        f"{plan.batch_size:.6g}; then c, and all that goes by it, falls by the factor "
        f"exp({clipping.rate:.6g} (share - {quantile})), which follows the {quantile} quantile of "
        "the norms. Sum and count together cost what noise multiplier "
        f"{phase.priced_noise_multiplier:.6g} does."
    )


def settings_rows(plan: Plan) -> list[list[str]]:
    """A row for each setting, with a column for each phase."""

    def row(name: str, values: Iterable[float | str]) -> list[str]:
        return [name, *(_shown(value) for value in values)]

    phases = plan.phases
    rows = [row(name, (getattr(phase, name) for phase in phases)) for name in SETTINGS]
    mixings = (plan.priced(i, phase.steps).mixing for i, phase in enumerate(phases))
    rows.append(row("mixing = gap * batch_size / clip_norm", mixings))
    if plan.adaptive:
        for name in ("quantile", "rate", "noise"):
            values = (getattr(phase.adaptive, name, "-") for phase in phases)
            rows.append(row(f"adaptive {name}", values))
        priced = (phase.priced_noise_multiplier for phase in phases)
        rows.append(row("noise_multiplier that is priced", priced))
    return rows


def conditions(plan: Plan) -> list[str]:
    """What is assumed: what the plan itself says first, then what its algorithm must do."""
    assumed = [*plan.assumptions, *CONDITIONS]
    if any(phase.gap for phase in plan.phases):
        assumed += MIXING
    if plan.adaptive:
        assumed.append(ADAPTIVE)
    return assumed


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"
