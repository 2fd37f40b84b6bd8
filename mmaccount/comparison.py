"""What mixing buys and what it costs: the same run without it, and plain noise of the same energy."""

from dataclasses import dataclass, replace

from mmaccount.accountants.bracket import epsilon
from mmaccount.bound import Bound
from mmaccount.divergences import fisher_information
from mmaccount.settings import Settings

UNIT_VARIANCE = {"gaussian": 1.0, "laplace": 2.0}  # of the noise at noise_multiplier 1, in units of clip_norm^2


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One run accounted three ways, all by the same accountant at the same delta.

    Attributes:
        as_given: the run itself.
        without_mixing: the same noise, mixing off.
        equal_noise: plain DP-SGD whose noise has the energy of noise and mixing together.
        noise_multiplier: z of the run.
        effective_noise_multiplier: z_eff = z / sqrt(I(L)): plain Gaussian noise that costs as much as the run when the
            gradient is spread over very many coordinates and steps. A description, not a bound. None for Laplace noise.
        equal_noise_multiplier: z_eq = sqrt(z^2 + rho^2/12) (Laplace: rho^2/24), the noise multiplier of `equal_noise`.
    """

    as_given: Bound
    without_mixing: Bound
    equal_noise: Bound
    noise_multiplier: float
    effective_noise_multiplier: float | None
    equal_noise_multiplier: float


def compare(settings: Settings, *, delta: float, tight: bool = True) -> Comparison:
    """Epsilon of the run, of the same run without mixing, and of plain DP-SGD with the same injected noise energy.

    A step of mixing adds variance (clip_norm / batch_size)^2 rho^2/12 to every coordinate, the noise itself
    (clip_norm / batch_size)^2 z^2. No mixing law beats Gaussian noise of equal variance once the gradient may spread over
    many coordinates (Cramer-Rao). `tight` and errors as for `epsilon`.

    >>> run = Settings(sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100)
    >>> made = compare(run, delta=1e-5)
    >>> f"{made.as_given.upper:.2f} {made.without_mixing.upper:.1f} {made.equal_noise.upper:.2f}"
    '6.77 277.3 2.23'
    """
    plain = replace(settings, mixing=0.0)
    z = settings.noise_multiplier
    equal = (z * z + settings.mixing**2 / 12.0 / UNIT_VARIANCE[settings.noise]) ** 0.5
    effective = z / fisher_information(settings) ** 0.5 if settings.noise == "gaussian" else None
    return Comparison(
        as_given=epsilon(settings, delta=delta, tight=tight),
        without_mixing=epsilon(plain, delta=delta),
        equal_noise=epsilon(replace(plain, noise_multiplier=equal), delta=delta),
        noise_multiplier=z,
        effective_noise_multiplier=effective,
        equal_noise_multiplier=equal,
    )
