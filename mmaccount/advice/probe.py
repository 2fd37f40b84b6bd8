"""What per-record gradients at one point tell: norms, noise, tail, direction, curvature; and the
file they are kept in.

A probe of m records keeps their Gram matrix K = <g_i, g_j>, not the gradients: every statistic of
clipped gradients, at any clip norm, is a form in K. What is learnt from private records is a
release and must be paid for: a probe is for public ones, `mmaccount.advice.histogram` for private
ones.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from mmaccount.advice import array_files
from mmaccount.records import validate

Array = npt.NDArray[np.float64]
SCHEMA = 1
TRUNCATIONS = tuple(float(2.0 ** (i / 2.0)) for i in range(41))  # p that are tried, 1 ... 2^20
TAIL_QUANTILE = 0.9  # of the noise norms, from which kappa is measured
KEPT_SHARE = 0.999  # share of the clipped mean that truncation must leave
# nats; a guess among 2 to 100 classes has 0.7 to 4.6, and learning rates go with its root
UNKNOWN_LOSS = 1.0
# noise over gradient norm below which records count as all equal; float32 gradients are off by less
EQUAL_BELOW = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Per-record gradients of m records at one point, up to rotation.

    Attributes:
        gram: K[i, j] = <g_i, g_j>, [m, m].
        dimension: number of weights d.
        kept: share <m_p, m_1> / |m_1|^2 of the mean unit gradient m_1 that truncating at p =
            TRUNCATIONS leaves. Gradients shorter than the clip norm lose less.
        loss: mean loss, or None if it was not recorded. Taken as R_F = F - inf F, so inf F = 0 is
            assumed.
        curvature: trace of the Hessian from gradient differences, or None.
        smoothness: largest gradient difference over distance that was seen, a lower estimate of
            beta; or None.
        later: Gram matrix at a second point further on in training, or None.
        public: whether the records are public. The claim is the user's, and goes into the plan as
            an assumption.
        about: where it comes from, one line.
    """

    gram: Array
    dimension: int
    kept: Array
    loss: float | None = None
    curvature: float | None = None
    smoothness: float | None = None
    later: Array | None = None
    public: bool = True
    about: str = "array of per-record gradients"

    def __post_init__(self) -> None:
        for name in ("gram", "kept", "later"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.asarray(value, dtype=np.float64))
        _gram("gram", self.gram, len(self.gram))
        if self.later is not None:
            _gram("later", self.later, len(self.gram))
        if self.kept.shape != (len(TRUNCATIONS),) or not np.isfinite(self.kept).all():
            raise ValueError(f"`kept` of the probe must be {len(TRUNCATIONS)} finite numbers.")
        validate.count("dimension", self.dimension)
        for name in ("loss", "curvature", "smoothness"):
            if (value := getattr(self, name)) is not None:
                validate.positive(name, value)

    @property
    def size(self) -> int:
        """Number of records m."""
        return len(self.gram)

    @property
    def norms(self) -> Array:
        """The gradient norms |g_i|."""
        norms: Array = np.sqrt(np.maximum(np.diagonal(self.gram), 0.0))
        return norms

    @property
    def noise_norms(self) -> Array:
        """Norms |g_i - mean| of the gradient noise, times sqrt(m / (m - 1)): the mean contains g_i."""
        rows = self.gram.mean(1)
        squares = np.diagonal(self.gram) - 2.0 * rows + rows.mean()
        norms: Array = np.sqrt(np.maximum(squares, 0.0) * self.size / (self.size - 1.0))
        return norms

    @property
    def fisher(self) -> float:
        """Mean of |g_i|^2, for a negative log-likelihood an estimate of the trace of the Hessian."""
        return float(np.diagonal(self.gram).mean())

    @property
    def beta(self) -> float:
        """Smoothness: as recorded, or the largest eigenvalue of the mean of g g', which for a
        negative log-likelihood (loss in nats) estimates the Hessian (Gauss-Newton)."""
        return self.smoothness or float(np.linalg.eigvalsh(self.gram)[-1]) / self.size

    @property
    def gap_to_minimum(self) -> float:
        """R_F: the recorded loss; else 1 nat, or |mean gradient|^2 / (2 beta) where smoothness says
        that it is more."""
        return self.loss or max(UNKNOWN_LOSS, float(self.gram.mean()) / (2.0 * self.beta))

    @property
    def truncation(self) -> float:
        """The largest p that leaves 99.9 % of the clipped mean at every p up to it; at least 1."""
        enough = np.cumprod(self.kept >= KEPT_SHARE).astype(bool)
        return float(np.asarray(TRUNCATIONS)[enough].max(initial=1.0))

    def cosine(self, clip_norm: float) -> float:
        """Cosine of the mean clipped gradient and the mean gradient."""
        factors = np.minimum(1.0, clip_norm / np.maximum(self.norms, 1e-300))
        along, both = float(factors @ self.gram.mean(1)), float(factors @ self.gram @ factors)
        lengths = float(self.gram.mean()) * both
        return along / sqrt(lengths) if lengths > 0.0 else 0.0

    def save(self, path: str | Path) -> None:
        """Write a .npz file."""
        array_files.write(path, self, SCHEMA)


def _gram(name: str, gram: Array, size: int) -> None:
    """Refuse what cannot be a Gram matrix worth advising on; each reason is one line."""
    if gram.ndim != 2 or gram.shape != (size, size):
        raise ValueError(
            f"`{name}` of the probe must be a square matrix of {size} rows, got shape {gram.shape}."
        )
    if size < 3:
        raise ValueError(
            f"the probe must hold at least 3 records, got {size}: noise cannot be measured on "
            "fewer."
        )
    if not np.isfinite(gram).all():
        raise ValueError(
            "the probe holds gradients that are NaN or infinite: look for a broken record or loss."
        )
    if not float(np.abs(np.diagonal(gram)).max()) > 0.0:
        raise ValueError(
            "all gradients of the probe are zero: nothing can be learnt at this point."
        )
    rows = gram.mean(1)
    noise, signal = float(np.diagonal(gram).mean() - rows.mean()), float(np.diagonal(gram).mean())
    if not noise > EQUAL_BELOW**2 * signal:
        raise ValueError(
            "all records of the probe have the same gradient: there is no noise to choose a clip "
            "norm by."
        )


def gram_matrix(chunks: Sequence[Callable[[], npt.ArrayLike]]) -> Array:
    """<g_i, g_j> of gradients made in chunks [rows, d]; two chunks are held at a time, and made
    again as often as needed."""
    blocks: dict[tuple[int, int], Array] = {}
    for i, one in enumerate(chunks):
        rows = np.asarray(one(), dtype=np.float64)
        for j in range(i, len(chunks)):
            other = rows if j == i else np.asarray(chunks[j](), dtype=np.float64)
            blocks[i, j] = rows @ other.T
            blocks[j, i] = blocks[i, j].T
    return np.block([[blocks[i, j] for j in range(len(chunks))] for i in range(len(chunks))])


def kept_by_truncation(chunks: Iterable[npt.ArrayLike]) -> Array:
    """`Probe.kept` of gradients that come in chunks [rows, d]; zero gradients count for nothing."""
    totals: list[Array] = []
    for chunk in chunks:
        rows = np.asarray(chunk, dtype=np.float64)
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-300)[:, None]
        sums = [np.clip(unit, -(p**-0.5), p**-0.5).sum(0) for p in TRUNCATIONS]
        totals = sums if not totals else [a + b for a, b in zip(totals, sums, strict=True)]
    whole = float(totals[0] @ totals[0])
    return np.array([float(total @ totals[0]) / whole if whole > 0.0 else 0.0 for total in totals])


def from_gradients(gradients: npt.ArrayLike) -> Probe:
    """The probe of an m x d array of per-record gradients of public records.

    Raises:
        ValueError: not a matrix, NaN, fewer than 2 rows, all rows equal or all zero.
    """
    rows = np.asarray(gradients)
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"`probe` must be an m x d array of numbers, a row per record, got {rows.dtype} of "
            f"shape {rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            "the probe holds gradients that are NaN or infinite: look for a broken record or loss."
        )
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # products that are not finite are refused by `Probe`
        gram = gram_matrix([lambda: rows]) if len(rows) else np.zeros((0, 0))
        kept = kept_by_truncation([rows]) if len(rows) else np.zeros(len(TRUNCATIONS))
    return Probe(gram=gram, dimension=rows.shape[1], kept=kept)


def load(path: str | Path) -> Probe:
    """Read a probe: a file that `Probe.save` wrote, or one m x d array of per-record gradients in
    .npy or .npz form."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"cannot read probe {path}: {error.strerror or error}.") from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"probe {path} is not a .npy or .npz file of numbers.") from error
    if isinstance(loaded, np.ndarray):
        return from_gradients(loaded)
    with loaded:
        data = {name: loaded[name] for name in loaded.files}
    if "gram" not in data:
        if len(data) != 1:
            raise ValueError(
                f"probe {path} must hold `gram` or one array, got "
                f"{', '.join(sorted(data)) or 'nothing'}."
            )
        return from_gradients(next(iter(data.values())))
    return array_files.record(Probe, data, SCHEMA, "probe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """kappa = sup over t >= `start` of t / -log P(|noise| >= t): `estimate` on the sample, `upper`
    with its confidence."""

    start: float
    estimate: float
    upper: float
    confidence: float


def tail(noise_norms: npt.ArrayLike, confidence: float = 0.95) -> Tail:
    """kappa of Assumption 2.1 (arXiv 2210.03843) on the tail, from the 90th percentile on; larger
    kappa is a heavier tail.

    `upper` replaces the share k/m of norms that reach t by its Clopper-Pearson upper limit at level
    (1 - confidence) / m: with that confidence P(|noise| >= t) <= exp(-t / upper) for all t from
    `start` up to the largest norm seen. (Norms are quantiles of independent uniforms, and the limit
    for k is a quantile of the (k + 1)-th smallest of them, so the limits hold for all t at once,
    also where norms repeat.) Beyond the largest norm Assumption 2.1 remains an assumption.
    """
    norms = np.sort(np.asarray(noise_norms, dtype=np.float64))[::-1]
    m, level = len(norms), 1.0 - validate.probability("confidence", confidence)
    start = float(np.quantile(norms, TAIL_QUANTILE))
    counts = np.array([int((norms >= t).sum()) for t in norms if t >= start])
    points, shares = norms[: len(counts)], counts / m
    limits = (
        betaincinv(counts + 1.0, m - counts, 1.0 - level / m)
        if counts.max() < m
        else np.ones(len(counts))
    )

    def steepest(tails: Array) -> float:
        return float(np.max(points / -np.log(tails))) if tails.max() < 1.0 else inf

    return Tail(
        start=start, estimate=steepest(shares), upper=steepest(limits), confidence=confidence
    )
