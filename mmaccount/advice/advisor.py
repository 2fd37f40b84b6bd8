"""A plan from what is known about gradients: clip norm, noise, batch, steps, learning rate and gap,
with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, log10, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmaccount.accounting.accountant import epsilon as price
from mmaccount.advice import reasons, schedule
from mmaccount.advice.clipping_theory import Problem
from mmaccount.advice.descent import Choice, Forecast, choose, forecast
from mmaccount.advice.evidence import Evidence, evidence_from
from mmaccount.advice.histogram import NormHistogram
from mmaccount.advice.probe import Probe
from mmaccount.advice.recommendation import Advice
from mmaccount.advice.schedule import Schedule
from mmaccount.analysis.calibrate import solve
from mmaccount.records import mixing_laws, validate
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.bound import BoundError, Infeasible
from mmaccount.records.plan import Phase, Plan
from mmaccount.records.settings import Settings

EPOCHS = 100.0  # passes over the data that are allowed for, if nothing is said
AUTO = "auto"
# mixing halves every step's way and lets a third of it back: an impulse ends with weight 2/3
RECOVERY = 1.5
COARSE_STRIDE = 8  # every so many clip norms the noise beside a gap is solved for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    dataset_size: int
    epsilon: float
    delta: float
    clip_norm: float | None
    learning_rate: float | None
    mixing_law: str
    quantile: float | None


class _Option(NamedTuple):
    """A schedule with the clip norm that suits it and what is expected of it; `energy` is that of
    noise and mixing, `noise` as in `Advice`."""

    schedule: Schedule
    energy: float
    noise: npt.NDArray[np.float64]
    choice: Choice
    forecast: Forecast

    def cost(self, private: bool) -> float:
        """What is to be small. With a private histogram it must not depend on it: noise of the
        run's mean gradient then."""
        b, t, z = self.schedule
        return z / (b * sqrt(t)) if private else self.forecast.remaining


def _plain(evidence: Evidence, priced: Schedule, target: _Target) -> _Option:
    c, energy = target.clip_norm, priced.noise_multiplier**2
    choice = choose(evidence.curves, priced.batch_size, energy) if c is None else Choice(c, c, c)
    noise = np.full(len(evidence.curves[0].clip_norms), priced.noise_multiplier)
    return _Option(
        priced,
        energy,
        noise,
        choice,
        expected(evidence, priced, choice.clip_norm, energy, target.learning_rate),
    )


def expected(
    evidence: Evidence,
    priced: Schedule,
    clip_norm: float,
    energy: float,
    learning_rate: float | None = None,
) -> Forecast:
    """The forecast of a plan; `energy` is that of noise and mixing, z^2 + V rho^2."""
    return forecast(
        evidence.at(clip_norm),
        batch_size=priced.batch_size,
        energy=energy,
        steps=priced.steps,
        loss=evidence.loss,
        learning_rate=learning_rate,
    )


def advise(
    probe: Probe | NormHistogram | str | Path | npt.ArrayLike,
    *,
    dataset_size: int,
    epsilon: float,
    delta: float,
    epochs: float = EPOCHS,
    gap: float | str = AUTO,
    batch_size: float | None = None,
    steps: int | None = None,
    clip_norm: float | None = None,
    learning_rate: float | None = None,
    loss: float | None = None,
    mixing_law: str = mixing_laws.UNIFORM,
    adaptive_clipping: float | None = None,
) -> Advice:
    """A plan that meets (epsilon, delta) and is expected to train best, with the reasons for every
    number in it.

    Clip norm: where the measured decrease of a step is largest. Batch, steps: within `epochs`,
    where the bound on what remains of the gradient is smallest, each with the least noise that
    meets the target by the certified accountant. Learning rate: the smaller of the longest step
    that does not overshoot and the horizon's. In a flat optimum the middle is taken.

    Args:
        probe: of public records, a `Probe` or an m x d array of per-record gradients; or a
            `NormHistogram` of private ones, which is paid for from the same target; or the file of
            any of these. Batch, steps and noise do not depend on a histogram (only clip norm and
            learning rate do), so that the price composes as if all had been fixed beforehand.
        dataset_size: n. epsilon, delta: the target.
        epochs: limit on compute: batch_size * steps <= epochs * dataset_size.
        gap: tau / learning_rate; "auto" takes what costs least by Theorem 3.1 of arXiv 2210.03843.
        batch_size, steps, clip_norm, learning_rate: fixed by the user.
        loss: R_F = F(start) - inf F, if the probe does not know it.
        mixing_law: of a gap, as in `Settings`.
        adaptive_clipping: the quantile of gradient norms that the clip norm follows from where it
            is advised, paid for from the same target; 0.5 is usual. Not with a gap.

    Raises:
        Infeasible: no noise meets the target.
        ValueError, TypeError: an argument is out of range, or the probe is useless; one line.
    """
    target = _Target(
        dataset_size=validate.count("dataset_size", dataset_size),
        epsilon=validate.positive("epsilon", epsilon),
        delta=validate.probability("delta", delta),
        clip_norm=None
        if clip_norm is None
        else validate.real("clip_norm", clip_norm, "[1e-9, 1e9]", 1e-9, 1e9),
        learning_rate=None
        if learning_rate is None
        else validate.positive("learning_rate", learning_rate),
        mixing_law=mixing_laws.checked("mixing_law", mixing_law),
        quantile=None
        if adaptive_clipping is None
        else validate.probability("adaptive_clipping", adaptive_clipping),
    )
    shapes = schedule.shapes(
        target.dataset_size, validate.positive("epochs", epochs), batch_size, steps
    )
    wanted = None if gap == AUTO else validate.nonnegative("gap", gap)
    if wanted and target.quantile is not None:
        raise ValueError(f"`gap` must be 0 or {AUTO} with adaptive clipping, got {gap!r}.")
    evidence = evidence_from(probe, loss)
    private = bool(evidence.releases)
    if evidence.records not in (None, target.dataset_size):
        raise ValueError(
            f"`dataset_size` must be {evidence.records}, the records of the histogram, got "
            f"{dataset_size!r}."
        )
    if private and wanted and clip_norm is None:
        raise ValueError(
            "`clip_norm` must be given with a gap and a private histogram: with a gap it changes "
            "the guarantee."
        )
    besides = [release.settings() for release in evidence.releases]
    options = [_plain(evidence, one, target) for one in _schedules(shapes, target, besides)]
    plain = options[schedule.middle([option.cost(private) for option in options])]
    best_rho, energies = schedule.cheapest_mixing(
        plain.schedule.noise_multiplier, target.mixing_law
    )
    if wanted is None:
        wanted = best_rho * plain.choice.clip_norm / plain.schedule.batch_size
    best = plain if wanted == 0.0 else _mixed(evidence, plain, wanted, target, besides)
    plan = _plan(evidence, best, wanted, target)
    bound = price(plan.settings(), delta=plan.delta)
    if not bound.upper <= target.epsilon:
        raise BoundError(
            f"the plan costs {bound.upper!r}, above the target {target.epsilon!r} it was solved "
            "for."
        )
    problem = Problem(
        evidence.curves[0].beta,
        evidence.loss,
        evidence.curves[0].dimension,
        target.dataset_size,
        target.epsilon,
        target.delta,
    )
    rivals = [(option.schedule, option.cost(private)) for option in options]
    explanation = reasons.Explanation(plan, bound, evidence, best.choice, best.forecast, problem)
    return Advice(
        plan=plan,
        bound=bound,
        reasons=explanation.reasons(rivals, epochs, plain.schedule.noise_multiplier),
        rejected=explanation.rejected(
            rivals, energies, plain.schedule.noise_multiplier, gap == AUTO
        ),
        forecast=best.forecast,
        choice=best.choice,
        evidence=evidence,
        noise=best.noise,
    )


def _schedules(
    shapes: Sequence[tuple[float, int]], target: _Target, besides: Sequence[Settings]
) -> list[Schedule]:
    """Shapes that can meet the target, with their noise; with adaptive clipping small batches may
    not. Raises Infeasible."""
    schedules: list[Schedule] = []
    failed: list[Infeasible] = []
    for shape in shapes:
        adaptive = None if target.quantile is None else AdaptiveClipping.usual(shape[0])
        goal = {"epsilon": target.epsilon, "delta": target.delta}
        try:
            schedules.append(
                schedule.priced(
                    shape,
                    dataset_size=target.dataset_size,
                    besides=besides,
                    adaptive=adaptive,
                    **goal,
                )
            )
        except Infeasible as error:
            failed.append(error)
    if not schedules:
        raise failed[0]
    return schedules


def _mixed(
    evidence: Evidence, plain: _Option, gap: float, target: _Target, besides: Sequence[Settings]
) -> _Option:
    """The option with the batches and steps of `plain`, and mixing of this gap.

    Clip norm and noise are chosen again, since the mixing in clip norms depends on both.
    """
    b, t, z = plain.schedule
    variance = mixing_laws.variance(target.mixing_law)

    def noise(c: float, tight: bool) -> float:
        start = Settings(
            sample_rate=b / target.dataset_size, steps=t, noise_multiplier=z, mixing=gap * b / c
        )
        start = replace(start, truncation=evidence.truncation, mixing_law=target.mixing_law)
        goal = {"epsilon": target.epsilon, "delta": target.delta}
        return solve(
            start, "noise_multiplier", besides=besides, tight=tight, **goal
        ).noise_multiplier

    choice, squares = plain.choice, None
    if target.clip_norm is None:
        at, rough = evidence.curves[0].clip_norms, evidence.curves[0].clip_norms[::COARSE_STRIDE]
        squares = np.exp(
            np.interp(np.log(at), np.log(rough), [2.0 * log(noise(float(c), False)) for c in rough])
        )
        choice = choose(evidence.curves, b, squares + variance * (gap * b / at) ** 2)
    c = choice.clip_norm
    priced = Schedule(b, t, noise(c, True))
    energy = priced.noise_multiplier**2 + variance * (gap * b / c) ** 2
    given = target.learning_rate
    outlook = expected(evidence, priced, c, energy, None if given is None else given / RECOVERY)
    noises = (
        np.full(len(plain.noise), priced.noise_multiplier) if squares is None else np.sqrt(squares)
    )
    return _Option(
        priced,
        energy,
        noises,
        choice,
        outlook._replace(learning_rate=given or RECOVERY * outlook.learning_rate),
    )


def _rounded(value: float) -> float:
    """Three digits: more would claim to know."""
    return round(value, 2 - int(np.floor(log10(value))))


def _plan(evidence: Evidence, best: _Option, gap: float, target: _Target) -> Plan:
    b, t, z = best.schedule
    eta = (
        best.forecast.learning_rate
        if target.learning_rate
        else _rounded(best.forecast.learning_rate)
    )
    c = best.choice.clip_norm if target.clip_norm or gap else _rounded(best.choice.clip_norm)
    phase = Phase(
        steps=t,
        noise_multiplier=z,
        clip_norm=c,
        learning_rate=eta,
        gap=gap,
        mixing_law=target.mixing_law,
        truncation=evidence.truncation if gap else 1.0,
        adaptive=None if target.quantile is None else AdaptiveClipping.usual(b, target.quantile),
    )
    return Plan(
        dataset_size=target.dataset_size,
        sample_rate=b / target.dataset_size,
        batch_size=b,
        phases=(phase,),
        delta=target.delta,
        target_epsilon=target.epsilon,
        assumptions=evidence.assumptions,
        releases=evidence.releases,
    )
