"""Batch size, steps and noise: which there are under a limit on compute, each with the least noise
that meets the target."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from mmaccount.accounting.search import safe_end
from mmaccount.accounting.step_moments import fisher_information
from mmaccount.advice.descent import GOOD_SHARE
from mmaccount.analysis.calibrate import least_noise_multiplier
from mmaccount.records import mixing_laws, validate
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.settings import Settings

# Steps that are tried: the limit in epochs, halved and doubled so many times.
HALVINGS, DOUBLINGS = 2, 6
MIXING_TRIED = (
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
)  # mixing that is tried, in units of the noise without mixing


class Schedule(NamedTuple):
    """Poisson batches of `batch_size` expected, for `steps` steps, with this noise."""

    batch_size: float
    steps: int
    noise_multiplier: float


def shapes(
    dataset_size: int, epochs: float, batch_size: float | None = None, steps: int | None = None
) -> list[tuple[float, int]]:
    """(batch size, steps) to choose from: at most `epochs` passes over the data, as far as a size
    is not given."""
    n = dataset_size
    if batch_size is not None:
        batch_size = validate.real("batch_size", batch_size, f"(0, {n} = dataset_size]", 0.0, n)
        return [
            (
                batch_size,
                validate.count("steps", steps)
                if steps is not None
                else max(1, int(epochs * n / batch_size)),
            )
        ]
    if steps is not None:
        steps = validate.count("steps", steps)
        return [(float(min(n, max(1, round(epochs * n / steps)))), steps)]
    counts = sorted({max(1, round(epochs * 2.0**k)) for k in range(-HALVINGS, DOUBLINGS + 1)})
    batches = {count: min(n, round(epochs * n / count)) for count in counts}
    if not any(batches.values()):
        raise ValueError(
            f"`epochs` must leave at least one record for one step, got {epochs:g} passes over {n} records."
        )
    return [(float(batch), count) for count, batch in batches.items() if batch >= 1]


def priced(
    shape: tuple[float, int],
    *,
    dataset_size: int,
    epsilon: float,
    delta: float,
    besides: Sequence[Settings] = (),
    adaptive: AdaptiveClipping | None = None,
) -> Schedule:
    """The shape with the smallest noise multiplier of plain DP-SGD that meets the target. Raises
    Infeasible."""
    start = Settings(sample_rate=shape[0] / dataset_size, steps=shape[1], noise_multiplier=1.0)
    return Schedule(
        *shape,
        least_noise_multiplier(start, adaptive, epsilon=epsilon, delta=delta, besides=besides),
    )


def middle(costs: Sequence[float]) -> int:
    """Index in the middle of those around the smallest cost that cost at most a twentieth more."""
    low = high = min(range(len(costs)), key=lambda i: costs[i])
    limit = costs[low] / GOOD_SHARE
    while low > 0 and costs[low - 1] <= limit:
        low -= 1
    while high < len(costs) - 1 and costs[high + 1] <= limit:
        high += 1
    return (low + high) // 2


def least_noise(settings: Settings) -> float:
    """The smallest noise multiplier with which this mixing may cost as little as plain noise
    `settings.noise_multiplier`.

    A gradient spread over many coordinates sees Gaussian noise of multiplier z / sqrt(I(L)); an
    attack on it reaches what that costs, so no accountant can do better than where this equals the
    plain one.
    """
    plain = settings.noise_multiplier

    def excess(z: float) -> float:
        run = Settings(
            sample_rate=1.0,
            steps=1,
            noise_multiplier=z,
            mixing=settings.mixing,
            mixing_law=settings.mixing_law,
        )
        return plain - z / sqrt(fisher_information(run))

    low = plain
    while excess(low) <= 0.0:
        low /= 2.0
    return safe_end(excess, plain, low, tolerance=1e-6)


def cheapest_mixing(
    noise_multiplier: float, law: str = mixing_laws.UNIFORM
) -> tuple[float, dict[float, float]]:
    """(best mixing rho, energy at each rho that was tried). Energy z^2 + V rho^2, V the variance of
    the law at width 1 (1/12 for the uniform), is what mixing and noise together do to the loss
    (Theorem 3.1); it is taken at the least noise with which the target could be met at all.

    By Cramer-Rao z / sqrt(I) <= sqrt(z^2 + V rho^2) for every law and rho, so the best is 0: where
    energy is what counts, mixing cannot save any.
    """
    energies = {0.0: noise_multiplier**2}
    for width in MIXING_TRIED:
        rho = width * noise_multiplier
        run = Settings(
            sample_rate=1.0, steps=1, noise_multiplier=noise_multiplier, mixing=rho, mixing_law=law
        )
        energies[rho] = mixing_laws.energy(least_noise(run), rho, law)
    return min(energies, key=lambda rho: energies[rho]), energies
