"""A training run before it starts: everything that changes its privacy guarantee, and nothing else."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isclose
from pathlib import Path
from typing import Any, TypeVar

from mmaccount.records import files, mixing_laws, validate
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.settings import NEIGHBOURS, Settings

SCHEMA = 1
T = TypeVar("T", "AdaptiveClipping", "Phase", "Plan", "Release")
OPTIONAL = ("assumptions", "releases")  # left out of files where they are empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """`steps` consecutive steps with the same settings.

    Args:
        steps: number of steps, at least 1.
        noise_multiplier: z > 0; the noise on the sum of clipped gradients is N(0, (z clip_norm)^2)
            in every coordinate.
        clip_norm: c > 0; the l2 norm each record's gradient is clipped to; with `adaptive` that of
            the phase's first step.
        learning_rate: eta > 0, multiplies the averaged gradient. It sets the mixing threshold tau =
            gap * eta.
        truncation: p >= 1; after clipping each coordinate is cut at +- c / sqrt(p).
        gap: tau / eta >= 0; 0 is plain DP-SGD.
        mixing_law: law of the mixing coefficient on [0, 1], as in `Settings`; where gap is 0 it
            counts as "uniform".
        adaptive: how the clip norm follows the gradients, at a price; None keeps it. Only where gap
            is 0: mixing is measured against the clip norm, and its price would change with it.
    """

    steps: int
    noise_multiplier: float
    clip_norm: float
    learning_rate: float
    truncation: float = 1.0
    gap: float = 0.0
    mixing_law: str = mixing_laws.UNIFORM
    adaptive: AdaptiveClipping | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "steps": validate.count("steps", self.steps),
            "noise_multiplier": validate.positive("noise_multiplier", self.noise_multiplier),
            "clip_norm": validate.positive("clip_norm", self.clip_norm),
            "learning_rate": validate.positive("learning_rate", self.learning_rate),
            "truncation": validate.real(
                "truncation", self.truncation, "[1, inf)", 1.0, float("inf")
            ),
            "gap": validate.nonnegative("gap", self.gap),
            "mixing_law": mixing_laws.checked("mixing_law", self.mixing_law),
        }
        if checked["gap"] == 0.0:
            checked["mixing_law"] = mixing_laws.UNIFORM
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if not isinstance(self.adaptive, AdaptiveClipping | None):
            raise ValueError(f"`adaptive` must be AdaptiveClipping or None, got {self.adaptive!r}.")
        if self.adaptive is not None and self.gap > 0.0:
            raise ValueError(
                "`gap` must be 0 with adaptive clipping, which would change the price of mixing, "
                f"got {self.gap!r}."
            )

    @property
    def priced_noise_multiplier(self) -> float:
        """The noise multiplier that a step costs: lower than that of the gradients where the clip
        norm follows them."""
        return (
            self.noise_multiplier
            if self.adaptive is None
            else self.adaptive.joint(self.noise_multiplier)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What was learnt from the private records before training, by Gaussian noise: part of what the
    run costs.

    Args:
        what: one line, for people.
        noise_multiplier: standard deviation of the noise over the l2 change that adding or removing
            a record makes.
        sample_rate: probability in (0, 1] that a record took part.
    """

    what: str
    noise_multiplier: float
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.what, str) or not self.what:
            raise ValueError(f"`what` of a release must be text, got {self.what!r}.")
        self.settings()

    def settings(self, neighbours: str = NEIGHBOURS[0]) -> Settings:
        """The release as an accountant takes it."""
        noise = self.noise_multiplier
        return Settings(
            sample_rate=self.sample_rate, steps=1, noise_multiplier=noise, neighbours=neighbours
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a trainer carries out and an accountant prices: `plan.settings()` is what
    `mmaccount.epsilon` takes.

    Args:
        dataset_size: n, number of records; public.
        sample_rate: q in (0, 1], probability that a record joins a step's batch (Poisson sampling).
        batch_size: B = q n, the constant that sums of gradients are divided by.
        phases: one or more `Phase`, in the order they are run.
        delta: in (0, 1); the epsilon of the plan is stated at it.
        neighbours: the neighbouring relation, as for `Settings`; training is the same under all of
            them. Not "zero-out" with adaptive clipping or `releases`, where a zero gradient counts
            otherwise than one that is not there.
        target_epsilon: the epsilon asked for, if one was; a trainer refuses a plan that costs more.
        assumptions: what the guarantee takes for granted beside the algorithm, one line each.
        releases: what was learnt from the private records before training; priced with it.

    Raises:
        ValueError, TypeError: an argument is outside its range; the message names it.
    """

    dataset_size: int
    sample_rate: float
    batch_size: float
    phases: tuple[Phase, ...]
    delta: float
    neighbours: str = NEIGHBOURS[0]
    target_epsilon: float | None = None
    assumptions: tuple[str, ...] = ()
    releases: tuple[Release, ...] = ()

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "dataset_size": validate.count("dataset_size", self.dataset_size),
            "sample_rate": validate.real("sample_rate", self.sample_rate, "(0, 1]", 0.0, 1.0),
            "batch_size": validate.positive("batch_size", self.batch_size),
            "delta": validate.probability("delta", self.delta),
            "neighbours": validate.choice("neighbours", self.neighbours, NEIGHBOURS),
            "phases": tuple(self.phases),
            "assumptions": tuple(self.assumptions),
            "releases": tuple(self.releases),
        }
        if self.target_epsilon is not None:
            checked["target_epsilon"] = validate.positive("target_epsilon", self.target_epsilon)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        expected = self.sample_rate * self.dataset_size
        if not isclose(self.batch_size, expected, rel_tol=1e-9):
            raise ValueError(
                f"`batch_size` must be sample_rate * dataset_size = {expected:.9g}, got "
                f"{self.batch_size!r}."
            )
        if not self.phases or not all(isinstance(phase, Phase) for phase in self.phases):
            raise ValueError("`phases` must be one or more Phase.")
        if not all(isinstance(line, str) for line in self.assumptions):
            raise ValueError("`assumptions` must be lines of text.")
        if not all(isinstance(release, Release) for release in self.releases):
            raise ValueError("`releases` must be Release.")
        if self.neighbours == "zero-out" and (self.releases or self.adaptive):
            raise ValueError(
                "`neighbours` zero-out is not priced with adaptive clipping or earlier releases: "
                "zero gradients still count."
            )
        self.settings()

    @property
    def steps(self) -> int:
        """Number of steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def adaptive(self) -> bool:
        """Whether a clip norm follows the gradients in some phase."""
        return any(phase.adaptive is not None for phase in self.phases)

    def phase_of(self, step: int) -> int:
        """Index of the phase that step `step` (1, 2, ..., steps) belongs to. A step outside the
        plan is a ValueError."""
        step = validate.count("step", step)
        left = step
        for index, phase in enumerate(self.phases):
            if left <= phase.steps:
                return index
            left -= phase.steps
        raise ValueError(f"`step` must be in [1, {self.steps}], the steps of the plan, got {step}.")

    def settings(self) -> list[Settings]:
        """Earlier releases and all phases, as an accountant takes them."""
        trained = [self.priced(index, phase.steps) for index, phase in enumerate(self.phases)]
        return [release.settings(self.neighbours) for release in self.releases] + trained

    def priced(self, index: int, steps: int) -> Settings:
        """`steps` steps of phase number `index` as an accountant takes them."""
        phase = self.phases[index]
        return Settings(
            sample_rate=self.sample_rate,
            steps=steps,
            noise_multiplier=phase.priced_noise_multiplier,
            mixing=phase.gap * (self.batch_size / phase.clip_norm),
            mixing_law=phase.mixing_law,
            truncation=phase.truncation,
            neighbours=self.neighbours,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        data = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        for phase in data["phases"]:
            if phase["adaptive"] is None:
                del phase["adaptive"]
        return {"schema": SCHEMA} | {
            name: value for name, value in data.items() if value or name not in OPTIONAL
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON: two plans with the same fingerprint are the same plan."""
        return files.fingerprint(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """The inverse of `to_dict`; an unknown or missing key, and another schema version, are
        errors."""
        given = dict(data)
        schema, printed = given.pop("schema", None), given.pop("fingerprint", None)
        if schema != SCHEMA:
            raise ValueError(f"`schema` of the plan must be {SCHEMA}, got {schema!r}.")
        given["phases"] = tuple(_phase(one) for one in _objects(given.get("phases"), "phases"))
        given["releases"] = tuple(
            _build(Release, one, "release")
            for one in _objects(given.get("releases", []), "releases")
        )
        if not isinstance(given.get("assumptions", []), list):
            raise ValueError("`assumptions` of the plan must be a list of lines.")
        plan = _build(cls, given, "plan")
        if printed is not None and printed != plan.fingerprint:
            raise ValueError(
                "`fingerprint` does not fit the plan: it was changed by hand; remove the line if "
                "you mean it."
            )
        return plan

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan file."""
        return cls.from_dict(files.read(path, "plan"))

    def save(self, path: str | Path) -> None:
        """Write a plan file, atomically."""
        files.write(path, self.to_dict() | {"fingerprint": self.fingerprint})


def _build(kind: type[T], data: dict[str, Any], name: str) -> T:
    known = {field.name for field in fields(kind)}
    if unknown := set(data) - known:
        raise ValueError(
            f"unknown key `{sorted(unknown)[0]}` in the {name}; known are "
            f"{', '.join(sorted(known))}."
        )
    try:
        return kind(**data)
    except TypeError as error:
        raise ValueError(f"bad {name}: {error}") from error


def _objects(data: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise ValueError(f"`{name}` of the plan must be a list of objects.")
    return data


def _phase(data: dict[str, Any]) -> Phase:
    if isinstance(data.get("adaptive"), dict):
        data = data | {"adaptive": _build(AdaptiveClipping, data["adaptive"], "adaptive clipping")}
    return _build(Phase, data, "phase")
