"""Every way to bound the epsilon or the delta of a run, each a function of one shape.

    method(phases, question) -> TwoSided, a lower and an upper bound on the answer

A question is `EpsilonAt(delta)` or `DeltaAt(epsilon, about)`; `phases` are Gaussian unless said otherwise,
and one of them at least mixes where the method is about mixing. A method that knows nothing about
one side, or finds no way for these phases, answers with the end of the range on that side.

| method | lower | upper | rests on |
|---|---|---|---|
| `renyi_moments` | | any noise | step_moments.py, renyi.py |
| `plain_gaussian` | phases without mixing | phases without mixing | plain_gaussian.py |
| `mixing_not_credited` | | yes | mixing is post-processing |
| `envelope` | | yes | mixing_envelope.py |
| `tight_pair` | | yes | mixing_tight.py |
| `spread_out` | yes | | local asymptotic normality |
| `concentrated` | yes | | mixing_bounds.attacks |
| `nothing_in_its_place` | yes | | a record without a gradient is admitted |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from sys import float_info

from mmaccount.accounting import mixing_bounds, renyi
from mmaccount.accounting import plain_gaussian as plain
from mmaccount.accounting.step_moments import fisher_information
from mmaccount.records.bound import Bound, TwoSided
from mmaccount.records.settings import NEIGHBOURS, Settings

FISHER_ERROR = 1e-6  # relative, by which the effective noise of the spread-out attack is raised

Phases = Sequence[Settings]


@dataclass(frozen=True, slots=True)
class EpsilonAt:
    """The question: what is epsilon at this delta?"""

    delta: float
    largest: float = inf  # what the answer is at most
    patience: float = 0.02  # relative width from which a narrower answer is worth some seconds

    def by_moments(self, phases: Phases) -> Bound:
        """An upper bound from Renyi moments, whatever the noise."""
        return renyi.epsilon(phases, delta=self.delta)

    def by_inversion(self, phases: Phases) -> TwoSided:
        """Bounds on plain Gaussian phases, exact but for numerical errors."""
        return plain.epsilon(phases, self.delta)

    def by_losses(self, losses: mixing_bounds.OneSidedPld) -> float:
        """A bound from one direction of a composed privacy loss, on the side that it stands for."""
        return losses.epsilon(self.delta)


@dataclass(frozen=True, slots=True)
class DeltaAt:
    """The question: what is delta at this epsilon? Methods are those of `EpsilonAt`."""

    epsilon: float
    about: float  # the rough size of delta, which says what may be neglected
    largest: float = 1.0
    patience: float = 0.5

    def by_moments(self, phases: Phases) -> Bound:
        """An upper bound from Renyi moments, whatever the noise."""
        return renyi.delta(phases, epsilon=self.epsilon)

    def by_inversion(self, phases: Phases) -> TwoSided:
        """Bounds on plain Gaussian phases, exact but for numerical errors."""
        return plain.delta(phases, self.epsilon, self.about)

    def by_losses(self, losses: mixing_bounds.OneSidedPld) -> float:
        """A bound from one direction of a composed privacy loss, on the side that it stands for."""
        return losses.delta(self.epsilon)


Question = EpsilonAt | DeltaAt


# ------------------------------------------------------------------------- what a run consists of


def is_gaussian(phases: Phases) -> bool:
    """Whether all noise is Gaussian."""
    return all(phase.noise == "gaussian" for phase in phases)


def is_mixed(phases: Phases) -> bool:
    """Whether any phase mixes."""
    return any(phase.mixing > 0.0 for phase in phases)


def without_mixing(phases: Phases) -> list[Settings]:
    """Plain DP-SGD with the same noise. Mixing is post-processing: its bounds hold for `phases`."""
    return [replace(phase, mixing=0.0, truncation=1.0) for phase in phases]


def spread_out_limit(phases: Iterable[Settings]) -> list[Settings]:
    """Plain Gaussian phases that cost at most what the worst case over all numbers of weights does.

    The limit of a gradient of l2 norm c that is spread evenly over m -> inf coordinates: there every
    delta(eps) converges to that of noise multiplier z / sqrt(I(L)), with I(L) the Fisher information
    of mixing plus noise (local asymptotic normality). It is below the supremum over m, which a bound
    that knows no number of weights has to stay above; with few weights no gradient may reach it.

    The noise is raised by FISHER_ERROR: I(L) comes as h_2(v)/v^2 >= I(L) at v = 1e-4, off by
    O(v^2) = 1e-8, or from Cramer and Rao, who are below it.
    """
    limits = []
    for phase in phases:
        information = fisher_information(phase)
        noise = inf
        if information > 0.0:
            noise = phase.noise_multiplier / information**0.5 * (1.0 + FISHER_ERROR)
        noise = min(noise, float_info.max)
        limits.append(replace(phase, mixing=0.0, truncation=1.0, noise_multiplier=noise))
    return limits


def sound(lower: float, upper: float, question: Question) -> TwoSided:
    """The two as bounds: NaN, which no comparison holds for, becomes the end of the range."""
    return TwoSided(lower if lower >= 0.0 else 0.0, upper if upper >= 0.0 else question.largest)


# ---------------------------------------------------------------------------------- upper bounds


def renyi_moments(phases: Phases, question: Question) -> TwoSided:
    """Renyi moments, whatever the noise: Theorem 4.1 and Corollary 4.1."""
    return sound(0.0, question.by_moments(phases).upper, question)


def plain_gaussian(phases: Phases, question: Question) -> TwoSided:
    """The privacy loss distribution of phases without mixing, from both sides."""
    return sound(*question.by_inversion(phases), question)


def mixing_not_credited(phases: Phases, question: Question) -> TwoSided:
    """Plain DP-SGD with the same noise: mixing is post-processing."""
    return sound(0.0, plain_gaussian(without_mixing(phases), question).upper, question)


def envelope(phases: Phases, question: Question) -> TwoSided:
    """A pair that dominates a step whatever the gradient: the largest profile at every threshold.

    Also for plain phases whose neighbours differ in several records.
    """
    return _larger(mixing_bounds.dominated(phases), question)


def tight_pair(phases: Phases, question: Question) -> TwoSided:
    """A smaller pair than the envelope that dominates a step beside an auxiliary mechanism."""
    return _larger(mixing_bounds.dominated_tightly(phases), question)


def _larger(directions: Sequence[mixing_bounds.OneSidedPld], question: Question) -> TwoSided:
    uppers = [question.by_losses(losses) for losses in directions]
    if not uppers or any(isnan(upper) for upper in uppers):
        return TwoSided(0.0, question.largest)
    return TwoSided(0.0, max(uppers))


# --------------------------------------------------------------------------------------- attacks


def spread_out(phases: Phases, question: Question) -> TwoSided:
    """An attack whose gradient is spread over ever more coordinates."""
    return TwoSided(plain_gaussian(spread_out_limit(phases), question).lower, question.largest)


def nothing_in_its_place(phases: Phases, question: Question) -> TwoSided:
    """An attack on a replaced record: one without a gradient, which clipping admits, replaces it.

    Outputs move then as where the record is removed. With mixing, in the limit of `spread_out`.
    """
    limits = spread_out_limit(phases) if is_mixed(phases) else phases
    one_sided = [replace(phase, neighbours=NEIGHBOURS[0]) for phase in limits]
    return TwoSided(plain_gaussian(one_sided, question).lower, question.largest)


def concentrated(phases: Phases, question: Question) -> Mapping[str, TwoSided]:
    """Attacks in the fewest coordinates that truncation allows, and in more, by name."""
    attacks = {}
    for name, directions in mixing_bounds.attacks(phases):
        lowers = [sound(question.by_losses(losses), inf, question).lower for losses in directions]
        attacks[name] = TwoSided(max(lowers), question.largest)
    return attacks
