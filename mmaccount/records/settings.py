"""What an accountant has to know about a run (or a phase of one)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mmaccount.records import mixing_laws, validate

NOISES = ("gaussian", "laplace")
NEIGHBOURS = ("add-or-remove", "replace-one", "zero-out")
SAMPLINGS = ("poisson", "shuffle", "balls-in-bins")  # of batches; Settings are priced for the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`steps` steps of DP-SGD or ModelMix with the same settings, in the dimensionless form.

    Batches are Poisson samples. Which data sets are neighbours is set by `neighbours` and
    `group_size`.

    Args:
        sample_rate: q, probability in (0, 1] that a record joins a step's batch, independently of
            all others.
        steps: T, number of steps, at least 1.
        noise_multiplier: z > 0. The noise on the *sum* of clipped gradients has standard deviation
            z * clip_norm in every coordinate (for Laplace noise: scale z * clip_norm).
        mixing: rho >= 0, width of the support of the mixing noise in units of clip_norm /
            batch_size (one record's largest contribution): (tau / learning_rate) * batch_size /
            clip_norm. 0 is plain DP-SGD.
        mixing_law: "uniform" (the paper's), "raised-cosine" or "beta-B" with B in [1, 10]
            (`mmaccount.records.mixing_laws`); Laplace noise takes the uniform only. Where `mixing`
            is 0 it counts as "uniform".
        truncation: p >= 1. Each coordinate of a clipped gradient is truncated to +- clip_norm /
            sqrt(p); 1 is none.
        noise: "gaussian" (gradients clipped in l2) or "laplace" (clipped in l1).
        neighbours: what may be done to a record. "add-or-remove" it; "zero-out": its gradients
            become 0, which changes a sum of gradients exactly as removing it does, so the numbers
            are the same, with a public number of records; "replace-one": put any other record in
            its place, which may move a sum twice as far.
        group_size: g >= 1, number of records to which that may be done at once (group privacy): up
            to g records are all added, or all removed, or all zeroed out, or all replaced.

    Raises:
        ValueError, TypeError: an argument is outside its range; the message names it.

    Source: Xiao, Wan, Devadas (2022), arXiv 2210.03843, Algorithms 1 and 2.
    """

    sample_rate: float
    steps: int
    noise_multiplier: float
    mixing: float = 0.0
    mixing_law: str = mixing_laws.UNIFORM
    truncation: float = 1.0
    noise: str = "gaussian"
    neighbours: str = NEIGHBOURS[0]
    group_size: int = 1

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "sample_rate": validate.real("sample_rate", self.sample_rate, "(0, 1]", 0.0, 1.0),
            "steps": validate.count("steps", self.steps),
            "noise_multiplier": validate.positive("noise_multiplier", self.noise_multiplier),
            "mixing": validate.nonnegative("mixing", self.mixing),
            "mixing_law": mixing_laws.checked("mixing_law", self.mixing_law),
            "truncation": validate.real(
                "truncation", self.truncation, "[1, inf)", 1.0, float("inf")
            ),
            "noise": validate.choice("noise", self.noise, NOISES),
            "neighbours": validate.choice("neighbours", self.neighbours, NEIGHBOURS),
            "group_size": validate.count("group_size", self.group_size),
        }
        if checked["mixing"] == 0.0:
            checked["mixing_law"] = mixing_laws.UNIFORM
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.noise != "gaussian" and self.mixing_law != mixing_laws.UNIFORM:
            raise ValueError(
                f"`mixing_law` must be uniform with {self.noise} noise, got {self.mixing_law!r}."
            )

    @classmethod
    def from_training(
        cls,
        *,
        dataset_size: int,
        batch_size: float,
        steps: int,
        noise_multiplier: float,
        clip_norm: float | None = None,
        gap: float = 0.0,
        mixing_law: str = mixing_laws.UNIFORM,
        truncation: float = 1.0,
        noise: str = "gaussian",
        neighbours: str = NEIGHBOURS[0],
        group_size: int = 1,
    ) -> "Settings":
        """Settings from the numbers that a training script has.

        Args:
            dataset_size: n, number of records.
            batch_size: B = q n, *expected* batch size, the constant that gradients are divided by;
                at most n.
            clip_norm: c > 0; only needed with a gap.
            gap: tau / learning_rate >= 0, mixing threshold in units of the gradient.
        Other arguments, and errors: as for `Settings`.

        >>> Settings.from_training(dataset_size=50_000, batch_size=1_500, steps=3_400, noise_multiplier=0.335,
        ...                        clip_norm=20.0, gap=0.15, truncation=100).mixing
        11.25
        """
        n = validate.count("dataset_size", dataset_size)
        batch = validate.real("batch_size", batch_size, f"(0, {n} = dataset_size]", 0.0, n)
        mixing = validate.nonnegative("gap", gap)
        if clip_norm is not None:
            mixing *= batch / validate.positive("clip_norm", clip_norm)
        elif mixing > 0.0:
            raise ValueError(
                "`clip_norm` must be given with a gap above 0: the gap is measured against it."
            )
        return cls(
            sample_rate=batch / n,
            steps=steps,
            noise_multiplier=noise_multiplier,
            mixing=mixing,
            mixing_law=mixing_law,
            truncation=truncation,
            noise=noise,
            neighbours=neighbours,
            group_size=group_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Settings":
        """The inverse of `to_dict`; an unknown or missing key is an error."""
        known = {field.name for field in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(
                f"unknown setting `{sorted(unknown)[0]}`; known are {', '.join(sorted(known))}."
            )
        if missing := {"sample_rate", "steps", "noise_multiplier"} - set(data):
            raise ValueError(f"`{sorted(missing)[0]}` is missing.")
        return cls(**data)
