"""Runs as events of Google's dp-accounting, and back. Needs the package dp-accounting."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mmaccount.accounting.renyi import as_phases
from mmaccount.records.settings import Settings

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def to_dp_event(settings: Settings | Iterable[Settings]) -> "DpEvent":
    """The DpEvent of a run without mixing, for dp-accounting's accountants.

    Raises:
        ValueError: a phase has mixing, a group of records or a replaced record: there is no event
            for it (dp-accounting has the neighbouring relation in the accountant).
        TypeError: not a Settings or a sequence of them.
    """
    import dp_accounting as dp

    events = []
    for phase in as_phases(settings):
        if phase.mixing > 0.0 or phase.group_size > 1 or phase.neighbours == "replace-one":
            raise ValueError(
                "only runs without mixing, of single records added or removed, are events of dp-accounting."
            )
        noise = {"gaussian": dp.GaussianDpEvent, "laplace": dp.LaplaceDpEvent}[phase.noise](
            phase.noise_multiplier
        )
        step = (
            noise
            if phase.sample_rate == 1.0
            else dp.PoissonSampledDpEvent(phase.sample_rate, noise)
        )
        events.append(step if phase.steps == 1 else dp.SelfComposedDpEvent(step, phase.steps))
    return events[0] if len(events) == 1 else dp.ComposedDpEvent(events)


def from_dp_event(event: "DpEvent") -> list[Settings]:
    """The phases of a DpEvent made of Gaussian or Laplace noise, Poisson sampling and composition.

    Neighbours differ by adding or removing one record. Sampling of a sampled event multiplies the
    rates.

    Raises:
        ValueError: an event of another kind, without noise, or a count that is not a whole number
            from 1.
    """
    return list(_phases(event, 1, 1.0))


def _phases(event: "DpEvent", steps: int, rate: float) -> Iterator[Settings]:
    import dp_accounting as dp

    if isinstance(event, dp.NoOpDpEvent):
        return
    several = isinstance(event, dp.ComposedDpEvent | dp.SelfComposedDpEvent)
    if (
        several
        and rate < 1.0
        and (event.count if isinstance(event, dp.SelfComposedDpEvent) else len(event.events)) > 1
    ):
        raise ValueError("several events that share one sample are not each Poisson sampled.")
    if isinstance(event, dp.ComposedDpEvent):
        for part in event.events:
            yield from _phases(part, steps, rate)
    elif isinstance(event, dp.SelfComposedDpEvent):
        yield from _phases(event.event, steps * event.count, rate)
    elif isinstance(event, dp.PoissonSampledDpEvent):
        yield from _phases(event.event, steps, rate * event.sampling_probability)
    elif isinstance(event, dp.GaussianDpEvent | dp.LaplaceDpEvent):
        noise = "gaussian" if isinstance(event, dp.GaussianDpEvent) else "laplace"
        yield Settings(
            sample_rate=rate, steps=steps, noise_multiplier=event.noise_multiplier, noise=noise
        )
    else:
        raise ValueError(f"{type(event).__name__} is not known here.")
