"""A plan in words, and what its guarantee takes for granted."""

from mmaccount.records.mixing_laws import UNIFORM
from mmaccount.records.plan import Phase, Plan

RELATIONS = {
    "add-or-remove": "adding or removing one record",
    "replace-one": "putting another record in the place of one",
    "zero-out": "making the gradients of one record zero",
}
CONDITIONS = (
    "Poisson sampling: every record joins every batch by a coin of its own, and the coins stay secret. Shuffled epochs are "
    "not that.",
    "Gradients are taken record by record, clipped before they are summed; the sum is divided by the expected batch size, "
    "never by the realised one.",
    "Noise is added once to each sum, to every parameter that is released; it is fresh, also after a crash.",
    "All iterates may be published; nothing else that depends on the records is.",
    "Settings and run were not chosen by results on these records (mmaccount tune-cost prices such a choice).",
)
MIXING = (
    "Every released parameter is mixed in every step, the first one too.",
    "Mixing coefficients are fresh and secret: who can predict them sees plain DP-SGD.",
    "Gradients are taken at a published iterate, not at the mixed point; momentum uses published iterates only.",
)
ADAPTIVE = (
    "Counts of short gradients are released with noise of their own, added once, and divided by the expected batch size; "
    "the clip norm depends on nothing else."
)


def words(plan: Plan) -> list[str]:
    """What happens, a paragraph for the data and one for each phase."""
    first = (
        f"{plan.dataset_size:,} records. In each of {plan.steps:,} steps every record takes part with probability "
        f"{plan.sample_rate:.6g}, {plan.batch_size:,.6g} of them on average. Neighbouring data sets differ by "
        f"{RELATIONS[plan.neighbours]}."
    )
    count = len(plan.phases)
    return [
        first,
        *(
            _phase(phase, plan, f"Phase {i} of {count}: " if count > 1 else "")
            for i, phase in enumerate(plan.phases, 1)
        ),
    ]


def _phase(phase: Phase, plan: Plan, name: str) -> str:
    noise = phase.noise_multiplier * phase.clip_norm
    text = f"{name}{phase.steps:,} steps. The gradient of a record is clipped to l2 norm {phase.clip_norm:.6g}"
    if phase.truncation > 1.0:
        text += f", then each coordinate is cut at {phase.clip_norm / phase.truncation**0.5:.6g}"
    text += (
        f"; the sum gets Gaussian noise of standard deviation {noise:.6g} in every coordinate, is divided by "
        f"{plan.batch_size:.6g} and goes into a step of learning rate {phase.learning_rate:.6g}."
    )
    text += _adaptive(phase, plan)
    if not phase.gap:
        return text + " There is no mixing: this is plain DP-SGD."
    law = "" if phase.mixing_law == UNIFORM else f", by the {phase.mixing_law} law"
    return text + (
        f" Before that, each coordinate is drawn at random between its last two values, first pushed apart to at least "
        f"{phase.gap * phase.learning_rate:.6g} (gap times learning rate){law}: ModelMix."
    )


def _adaptive(phase: Phase, plan: Plan) -> str:
    if phase.adaptive is None:
        return ""
    one = phase.adaptive
    return (
        f" That clip norm c is the first step's. Each step counts the gradients of at most c, adds Gaussian noise of "
        f"standard deviation {one.noise:.6g} records and divides by {plan.batch_size:.6g}; then c, and all that goes by "
        f"it, falls by the factor exp({one.rate:.6g} (share - {one.quantile:.6g})), which follows the {one.quantile:.6g} "
        f"quantile of the norms. Sum and count together cost what noise multiplier {phase.priced_noise_multiplier:.6g} does."
    )


def settings_rows(plan: Plan) -> list[list[str]]:
    """Each setting in a row, a column for each phase."""
    names = (
        "steps",
        "noise_multiplier",
        "clip_norm",
        "learning_rate",
        "truncation",
        "gap",
        "mixing_law",
    )
    rows = [[name, *(_shown(getattr(phase, name)) for phase in plan.phases)] for name in names]
    mixing = [_shown(plan.priced(i, phase.steps).mixing) for i, phase in enumerate(plan.phases)]
    rows.append(["mixing = gap * batch_size / clip_norm", *mixing])
    if plan.adaptive:
        for name in ("quantile", "rate", "noise"):
            rows.append(
                [
                    f"adaptive {name}",
                    *(_shown(getattr(phase.adaptive, name, "-")) for phase in plan.phases),
                ]
            )
        rows.append(
            [
                "noise_multiplier that is priced",
                *(_shown(phase.priced_noise_multiplier) for phase in plan.phases),
            ]
        )
    return rows


def conditions(plan: Plan) -> list[str]:
    """What is assumed: what the plan itself says first, then what its algorithm must do."""
    mixed = any(phase.gap for phase in plan.phases)
    return [
        *plan.assumptions,
        *CONDITIONS,
        *(MIXING if mixed else ()),
        *((ADAPTIVE,) if plan.adaptive else ()),
    ]


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"
