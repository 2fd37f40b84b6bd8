"""Batches that are not Poisson samples: what such a run does cost, and why the Poisson number would
be wrong."""

from dataclasses import replace
from math import ceil, floor

import numpy as np

from mmaccount.accounting import renyi
from mmaccount.accounting.accountant import epsilon
from mmaccount.records import validate
from mmaccount.records.bound import Bound
from mmaccount.records.settings import SAMPLINGS, Settings

LARGEST_BATCH = "one epoch, the largest batch sum, all other records pulling the other way"
WHOLE_NUMBER_TOLERANCE = 1e-9  # of 1 / sample_rate, by which it may miss a whole number
THRESHOLDS = np.linspace(0.0, 1.0, 4001)
PROBABILITY_ERROR = 1e-11  # relative, of a probability
# relative, by which a number is moved to its safe side before it is rounded to six digits
SIX_DIGITS_ERROR = 6e-6


def once_per_epoch(settings: Settings, *, delta: float, tight: bool = True) -> Bound:
    """Epsilon of a run in which every record is in exactly one batch of each epoch, chosen at
    random: shuffled epochs (all batches of one size) or balls in bins (records choose
    independently).

    `upper` holds for both: given all choices, only batches with the record differ, one an epoch, so
    that the run costs at most what ceil(steps / floor(1 / sample_rate)) steps with sample_rate 1
    cost (the hockey-stick divergence is jointly convex); that the choices are secret is not
    credited. Under "add-or-remove" the place of a removed record stays empty, as under "zero-out":
    if other records moved up, every later batch would change.

    `lower`, for plain Gaussian noise, is reached against shuffling (Chua et al. 2024, arXiv
    2403.17673): all other gradients are -c, that of the record is c. In an epoch of b batches the
    largest sum exceeds a threshold C with probability
        1 - Phi((C - 2)/z) Phi(C/z)^(b - 1) with the record,   1 - Phi((C - 1)/z) Phi(C/z)^(b - 1)
        without it
    (in units of c, above what the other batches have); e^epsilon is at least (first - delta) /
    second. None with mixing.

    Args, errors: as for `epsilon`; one phase.
    """
    run = renyi.as_one_phase(settings)
    delta = validate.probability("delta", delta)
    epochs = ceil(run.steps / floor(1.0 / run.sample_rate + WHOLE_NUMBER_TOLERANCE))
    bound = epsilon(replace(run, sample_rate=1.0, steps=epochs), delta=delta, tight=tight)
    method = (
        f"each record in one batch of every epoch ({epochs} in all), random order not credited; "
        f"{bound.method}"
    )
    plain = run.noise == "gaussian" and run.mixing == 0.0
    lower = min(_largest_batch(run, delta), bound.upper) if plain else None
    return replace(bound, method=method, lower=lower, attack=LARGEST_BATCH if plain else None)


def _batches(run: Settings) -> int:
    """Batches of an epoch."""
    return ceil(1.0 / run.sample_rate - WHOLE_NUMBER_TOLERANCE)


def _largest_batch(run: Settings, delta: float) -> float:
    """The epsilon that the attack reaches in one epoch; 0 for runs that are shorter."""
    z, batches = run.noise_multiplier, _batches(run)
    if run.steps < batches:
        return 0.0
    threshold = THRESHOLDS * (2.0 + 40.0 * z)
    from scipy.special import log_ndtr  # only now: to load it takes longer than to price a run

    others = (batches - 1) * log_ndtr(threshold / z)
    present, absent = (
        -np.expm1(log_ndtr((threshold - moved) / z) + others) for moved in (2.0, 1.0)
    )
    excess = present * (1.0 - PROBABILITY_ERROR) - delta
    held = (excess > 0.0) & (absent > 0.0)
    return max(
        0.0,
        float(
            np.max(np.log(excess[held] / (absent[held] * (1.0 + PROBABILITY_ERROR))), initial=0.0)
        ),
    )


def refuse_unless_poisson(sampling: str, settings: Settings, *, delta: float) -> None:
    """Raise a ValueError, with the numbers that do hold, unless batches are Poisson samples.

    Args:
        sampling: "poisson", "shuffle" (epochs of shuffled records) or "balls-in-bins" (records pick
            a batch of each epoch).

    >>> run = Settings(sample_rate=1e-3, steps=1000, noise_multiplier=1.0)
    >>> refuse_unless_poisson("shuffle", run, delta=1e-6)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: `sampling` shuffle is not Poisson sampling: ... epsilon <= 4.88658 at delta 1e-06; ...
    """
    if validate.choice("sampling", sampling, SAMPLINGS) == "poisson":
        return
    bound = once_per_epoch(settings, delta=delta)
    text = (
        f"`sampling` {sampling} is not Poisson sampling: with each record in one batch of every "
        "epoch this run has "
        f"epsilon <= {bound.upper * (1.0 + SIX_DIGITS_ERROR):.6g} at delta {delta:g}"
    )
    if sampling == "shuffle" and bound.lower:
        poisson = epsilon(replace(settings, steps=_batches(settings)), delta=delta).upper
        if bound.lower > poisson:
            reached = f"{bound.lower * (1.0 - SIX_DIGITS_ERROR):.6g}"
            text += f"; in one epoch an attack reaches {reached}, "
            text += f"where Poisson sampling has at most {poisson:.6g}"
    raise ValueError(f"{text}.")
