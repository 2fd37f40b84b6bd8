"""Delta at many epsilons at once, from both sides and in both directions.

One Fourier inversion, or one grid, prices many.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmaccount.accounting import accountant, methods, mixing_bounds, plain_gaussian, renyi
from mmaccount.accounting.pld import compose
from mmaccount.records.bound import TwoSided
from mmaccount.records.settings import Settings

GOOD_RELATIVE_WIDTH = 1e-4  # relative width that is good enough
# Of the search for epsilons to aim at; spent faster where even the one aimed at stays wide.
SEARCH_DEPTH = 5
RENYI_ONLY_BELOW = 1e-100  # delta, up to which Renyi moments bound it alone
TYPICAL_DELTA = 1e-5  # delta at which it is decided whether the answer without mixing may help


@dataclass(frozen=True, slots=True)
class DeltaCurve:
    """Bounds on delta of one pair of laws at each epsilon."""

    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """delta(epsilon) = sup over neighbours D, D' of the hockey-stick divergence at e^epsilon, at
    every epsilon >= 0.

    Attributes:
        epsilons: as given.
        remove: proven upper bounds where the record is in D (the law with the record against the
            one without).
        add: the same where it is in D'.
        attacks: per adversary that exists, bounds on the two curves of its own pair of laws,
            (remove, add).
    """

    epsilons: np.ndarray
    remove: np.ndarray
    add: np.ndarray
    attacks: Mapping[str, tuple[DeltaCurve, DeltaCurve]] = field(default_factory=dict)

    @property
    def upper(self) -> np.ndarray:
        """Upper bounds on delta, whichever of the two data sets holds the record."""
        return np.asarray(np.maximum(self.remove, self.add))

    @property
    def lower(self) -> np.ndarray | None:
        """What the best adversary at each epsilon reaches; None where no attack has been computed."""
        lowers = [curve.lower for pair in self.attacks.values() for curve in pair]
        return np.asarray(np.minimum(np.max(lowers, axis=0), self.upper)) if lowers else None


def _priced(
    near: Callable[[int], Callable[[float], TwoSided]], epsilons: np.ndarray, about: np.ndarray
) -> DeltaCurve:
    """The bounds at all epsilons where delta, roughly `about`, matters; near(i) prices any epsilon,
    but best those near the i-th one."""
    lower, upper = np.zeros(epsilons.size), np.ones(epsilons.size)

    def fill(wanted: list[int], depth: int) -> None:
        if not wanted or depth <= 0:
            return
        middle = wanted[len(wanted) // 2]
        bounds = near(middle)
        for i in wanted:
            delta = bounds(float(epsilons[i]))
            lower[i], upper[i] = max(lower[i], delta.lower), min(upper[i], delta.upper)
        wide = [i for i in wanted if not upper[i] - lower[i] <= GOOD_RELATIVE_WIDTH * upper[i]]
        depth -= 3 if middle in wide else 1
        fill([i for i in wide if i < middle], depth)
        fill([i for i in wide if i > middle], depth)

    fill([i for i in range(epsilons.size) if about[i] > RENYI_ONLY_BELOW], SEARCH_DEPTH)
    return DeltaCurve(
        np.maximum.accumulate(lower[::-1])[::-1], np.minimum.accumulate(upper)
    )  # delta is nonincreasing


def _exact(phases: Sequence[Settings], epsilons: np.ndarray) -> tuple[DeltaCurve, DeltaCurve]:
    """Both directions of plain Gaussian phases."""
    about = renyi.deltas(phases, epsilons)

    def one(remove: bool) -> DeltaCurve:
        def near(i: int) -> Callable[[float], TwoSided]:
            return plain_gaussian.direction(
                phases, float(epsilons[i]), float(about[i]), remove=remove
            )

        return _priced(near, epsilons, about)

    removal = one(True)
    return removal, removal if phases[0].neighbours == "replace-one" else one(
        False
    )  # its directions are mirror images


def _on_grid(
    side: mixing_bounds.OneSidedPld, epsilons: np.ndarray, about: np.ndarray
) -> DeltaCurve:
    """The pair that a side stands for (`side` says on which side of the true one it is)."""
    grids = side.grids(
        side.tilt(float(epsilons[np.sum(about > RENYI_ONLY_BELOW) // 2]))
    )  # one pair for all epsilons

    def near(i: int) -> Callable[[float], TwoSided]:
        loss = compose(grids, side.tilt(float(epsilons[i])))
        return lambda e: TwoSided(loss.delta(e, upper=False), loss.delta(e, upper=True))

    return _priced(near, epsilons, about)


def _attacks(
    phases: Sequence[Settings], epsilons: np.ndarray, about: np.ndarray, tight: bool
) -> dict[str, tuple[DeltaCurve, DeltaCurve]]:
    """Adversaries against Gaussian phases."""
    is_mixed = methods.is_mixed(phases)
    limit = methods.spread_out_limit(phases) if is_mixed else phases
    name = accountant.SPREAD_OUT if is_mixed else accountant.OWN_ATTACK
    curves = {name: _exact(limit, epsilons)}
    if is_mixed and tight:
        for name, (remove, add) in mixing_bounds.attacks(phases):
            curves[name] = _on_grid(remove, epsilons, about), _on_grid(add, epsilons, about)
    return curves


def _uppers(
    phases: Sequence[Settings], epsilons: np.ndarray, about: np.ndarray, tight: bool
) -> list[np.ndarray]:
    """Proven upper bounds on delta, one array a direction (remove, add), for phases with mixing."""
    best = [np.ones(epsilons.size)] * 2
    gaussian = methods.is_gaussian(phases)
    typical = methods.EpsilonAt(TYPICAL_DELTA)
    by_moments = typical.by_moments(phases).upper
    if gaussian and not accountant.mixing_decides(phases, typical, by_moments):
        best = [curve.upper for curve in _exact(methods.without_mixing(phases), epsilons)]
    if tight and gaussian:
        for sides in (mixing_bounds.dominated(phases), mixing_bounds.dominated_tightly(phases)):
            for i, side in enumerate(sides):
                best[i] = np.minimum(best[i], _on_grid(side, epsilons, about).upper)
    return best


def profile(phases: tuple[Settings, ...], epsilons: np.ndarray, *, tight: bool = True) -> Profile:
    """The Profile of a run at ascending epsilons >= 0; bounds, attacks and errors as
    `accountant.delta`.

    Every value is a bound by itself. Without mixing the two bounds are at most GOOD_RELATIVE_WIDTH
    apart where the exact method reaches that; `lower` is 0 where delta is below RENYI_ONLY_BELOW.
    """
    gaussian = methods.is_gaussian(phases)
    moments = renyi.deltas(phases, epsilons)
    attacks = _attacks(phases, epsilons, moments, tight) if gaussian else {}
    own = attacks.get(accountant.OWN_ATTACK)
    uppers = [curve.upper for curve in own] if own else _uppers(phases, epsilons, moments, tight)
    remove, add = (np.minimum(upper, moments) for upper in uppers)
    for name, pair in attacks.items():
        for curve, upper in zip(pair, (remove, add), strict=True):
            for below, above in zip(curve.lower.tolist(), upper.tolist(), strict=True):
                accountant.crossed(below, above, name)
    return Profile(epsilons=epsilons, remove=remove, add=add, attacks=attacks)
