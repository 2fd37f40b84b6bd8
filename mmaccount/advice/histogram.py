"""Norms of private gradients, learnt at a price: a histogram released once with Gaussian noise, and
what follows from it.

Adding or removing a record changes one count by 1, so the l2 sensitivity is 1 and noise N(0, s^2)
on every count is one Gaussian mechanism of noise multiplier s, priced with the training it is for.
All else here is post-processing.
"""

from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mmaccount.advice import array_files
from mmaccount.advice.probe import TAIL_QUANTILE
from mmaccount.records import validate
from mmaccount.records.plan import Release

Array = npt.NDArray[np.float64]
SCHEMA = 1
EDGES = np.exp2(
    np.arange(-80, 81) / 4.0
)  # quarter octaves from 2^-20 to 2^20; what lies outside counts in the end bins
HALF_BIN = 2.0**0.125  # from the middle of a bin to its edge
# standard deviations a count must have to be taken for more than noise: 1 in 20,000 for all bins
# together
VISIBLE_FROM = 5.0
ERROR_BAR = 2.0  # standard deviations of an error bar


@dataclass(frozen=True, slots=True, kw_only=True)
class NormHistogram:
    """Noisy counts of gradient norms between EDGES.

    Attributes:
        counts: one per bin, noise included.
        noise_multiplier: standard deviation of the noise.
        dataset_size: n, public.
        dimension: number of weights d.
        loss: a public value for R_F, for example log(classes) for a model that starts by guessing
            evenly; or None.
        about: where it comes from, one line.
    """

    counts: Array
    noise_multiplier: float
    dataset_size: int
    dimension: int
    loss: float | None = None
    about: str = "histogram of gradient norms"

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", np.asarray(self.counts, dtype=np.float64))
        if self.counts.shape != (len(EDGES) - 1,) or not np.isfinite(self.counts).all():
            raise ValueError(f"`counts` of the histogram must be {len(EDGES) - 1} finite numbers.")
        validate.positive("noise_multiplier", self.noise_multiplier)
        validate.count("dataset_size", self.dataset_size)
        validate.count("dimension", self.dimension)
        if self.loss is not None:
            validate.positive("loss", self.loss)
        if not self._visible.any():
            raise ValueError(
                f"noise {self.noise_multiplier:g} hides all counts of the histogram: use less "
                "noise, or more records."
            )

    @property
    def release(self) -> Release:
        """The histogram as a release that a plan pays for."""
        return Release(what=self.about, noise_multiplier=self.noise_multiplier)

    @property
    def _visible(self) -> npt.NDArray[np.bool_]:
        seen: npt.NDArray[np.bool_] = self.counts >= VISIBLE_FROM * self.noise_multiplier
        return seen

    @property
    def norms(self) -> Array:
        """Middles of the bins that stand out from the noise, ascending."""
        middles: Array = np.sqrt(EDGES[:-1] * EDGES[1:])
        return middles[self._visible]

    @property
    def shares(self) -> Array:
        """Share of the visible records in each bin of `norms`."""
        seen = self.counts[self._visible]
        shares: Array = seen / seen.sum()
        return shares

    @property
    def error(self) -> float:
        """Two standard deviations of a share of records at or above a norm."""
        return float(ERROR_BAR * self.noise_multiplier * len(self.norms) ** 0.5 / self.dataset_size)

    def quantile(self, share: float) -> tuple[float, float, float]:
        """(low, estimate, high): the norm that this share of records stays below, and where noise
        and bins leave it."""
        below, wanted = (
            np.cumsum(self.shares),
            (max(0.0, share - self.error), share, share + self.error),
        )
        low, middle, high = (
            float(self.norms[min(int(np.searchsorted(below, s)), len(below) - 1)]) for s in wanted
        )
        return low / HALF_BIN, middle, high * HALF_BIN

    def tail(self) -> tuple[float, float]:
        """kappa = sup over t from the 90th percentile of t / -log P(norm >= t): estimate, and with
        the error bar.

        Norms stand in for noise norms, which differ from them by at most the norm of the mean
        gradient.
        """
        start, reached = self.quantile(TAIL_QUANTILE), np.cumsum(self.shares[::-1])[::-1]
        points = [
            (float(t), float(p)) for t, p in zip(self.norms, reached, strict=True) if t > start[1]
        ]

        def steepest(first: float, factor: float, error: float) -> float:
            pairs = [(first, 1.0 - TAIL_QUANTILE), *((t * factor, p) for t, p in points)]
            return max(t / -log(p + error) if p + error < 1.0 else inf for t, p in pairs)

        return steepest(start[1], 1.0, 0.0), steepest(start[2], HALF_BIN, self.error)

    def save(self, path: str | Path) -> None:
        """Write a .npz file."""
        array_files.write(path, self, SCHEMA)


def true_counts(norms: npt.ArrayLike) -> Array:
    """Counts of norms between EDGES, before noise: private. NaN counts in the last bin."""
    values = np.nan_to_num(np.asarray(norms, dtype=np.float64), nan=inf, posinf=inf)
    bins = np.clip(np.searchsorted(EDGES, values, side="right") - 1, 0, len(EDGES) - 2)
    return np.bincount(bins, minlength=len(EDGES) - 1).astype(np.float64)


def load(path: str | Path) -> NormHistogram | None:
    """Read a histogram; None if the file is not one (it may be a probe)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray) or "counts" not in file.files:
                return None
            data = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError):
        return None
    return array_files.record(NormHistogram, data, SCHEMA, "histogram")
