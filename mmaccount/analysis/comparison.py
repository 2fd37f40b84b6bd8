"""What mixing buys and what it costs: the same run without it, plain noise of the same energy,
other mixing laws."""

from dataclasses import dataclass, replace
from functools import cache, partial
from math import hypot, sqrt

from mmaccount.accounting import renyi
from mmaccount.accounting.accountant import epsilon
from mmaccount.accounting.step_moments import fisher_information
from mmaccount.records import mixing_laws
from mmaccount.records.bound import Bound
from mmaccount.records.settings import Settings

UNIT_VARIANCE = {
    "gaussian": 1.0,
    "laplace": 2.0,
}  # of the noise at noise_multiplier 1, in units of clip_norm^2
SHOWN_LAWS = (mixing_laws.UNIFORM, mixing_laws.RAISED_COSINE, "beta-2")  # beside the law of the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One run accounted three ways, all by the same accountant at the same delta.

    Attributes:
        as_given: the run itself.
        without_mixing: the same noise, mixing off.
        equal_noise: plain DP-SGD whose noise has the energy of noise and mixing together.
        noise_multiplier: z of the run.
        effective_noise_multiplier: z_eff = z / sqrt(I(L)): plain Gaussian noise that costs as much
            as the run when the gradient is spread over very many coordinates and steps. A
            description, not a bound. None for Laplace noise.
        equal_noise_multiplier: z_eq = sqrt(z^2 + rho^2 v), v the variance of the mixing law at
            width 1 (uniform 1/12; half of it for Laplace noise, whose variance is 2 z^2), the noise
            multiplier of `equal_noise`.
    """

    as_given: Bound
    without_mixing: Bound
    equal_noise: Bound
    noise_multiplier: float
    effective_noise_multiplier: float | None
    equal_noise_multiplier: float


def compare(settings: Settings, *, delta: float, tight: bool = True) -> Comparison:
    """Epsilon of the run, of the same run without mixing, and of plain DP-SGD with the same
    injected noise energy.

    A step of mixing adds variance (clip_norm / batch_size)^2 rho^2 v to every coordinate (uniform:
    v = 1/12), the noise itself (clip_norm / batch_size)^2 z^2. No mixing law beats Gaussian noise
    of equal variance once the gradient may spread over many coordinates (Cramer-Rao). `tight` and
    errors as for `epsilon`.

    >>> run = Settings(sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100)
    >>> ways = compare(run, delta=1e-5)
    >>> f"{ways.as_given.upper:.2f} {ways.without_mixing.upper:.1f} {ways.equal_noise.upper:.2f}"
    '6.77 277.3 2.23'
    """
    settings = renyi.as_one_phase(settings)
    equal, priced = of_equal_energy(settings), cache(partial(epsilon, delta=delta, tight=tight))
    return Comparison(
        as_given=priced(settings),
        without_mixing=priced(replace(settings, mixing=0.0)),
        equal_noise=priced(equal),
        noise_multiplier=settings.noise_multiplier,
        effective_noise_multiplier=effective_noise_multiplier(settings),
        equal_noise_multiplier=equal.noise_multiplier,
    )


def of_equal_energy(settings: Settings) -> Settings:
    """Plain DP-SGD whose noise has the energy of noise and mixing together, z_eq of `Comparison`."""
    mixed = settings.mixing * sqrt(
        mixing_laws.variance(settings.mixing_law) / UNIT_VARIANCE[settings.noise]
    )
    return replace(settings, mixing=0.0, noise_multiplier=hypot(settings.noise_multiplier, mixed))


def effective_noise_multiplier(settings: Settings) -> float | None:
    """z_eff of `Comparison`; None for Laplace noise."""
    return (
        settings.noise_multiplier / fisher_information(settings) ** 0.5
        if settings.noise == "gaussian"
        else None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LawRow:
    """A run with a mixing law: `matched` says what it has in common with the run compared,
    "itself", "support" (the same mixing width) or "variance" (the same energy of mixing noise);
    `settings` is the run, `bound` its epsilon."""

    law: str
    matched: str
    settings: Settings
    bound: Bound


def compare_laws(settings: Settings, *, delta: float) -> list[LawRow]:
    """The run itself, then the same run with the other mixing laws, at equal support and at equal
    variance.

    All by the quick bounds (`epsilon` with `tight=False`), so that the rows can be compared; empty
    without mixing and for Laplace noise. At equal variance no law beats plain Gaussian noise of
    that variance in high dimension.

    >>> run = Settings(sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100)
    >>> [f"{row.law} {row.matched} {row.bound.upper:.2f}" for row in compare_laws(run, delta=1e-5)[:3]]
    ['uniform itself 7.25', 'raised-cosine support 4.76', 'raised-cosine variance 2.72']
    """
    settings = renyi.as_one_phase(settings)
    if settings.mixing == 0.0 or settings.noise != "gaussian":
        return []
    runs = [("itself", settings)]
    for law in SHOWN_LAWS:
        if law != settings.mixing_law:
            wider = (mixing_laws.variance(settings.mixing_law) / mixing_laws.variance(law)) ** 0.5
            runs.append(("support", replace(settings, mixing_law=law)))
            runs.append(
                ("variance", replace(settings, mixing_law=law, mixing=wider * settings.mixing))
            )
    return [
        LawRow(
            law=run.mixing_law,
            matched=matched,
            settings=run,
            bound=epsilon(run, delta=delta, tight=False),
        )
        for matched, run in runs
    ]
