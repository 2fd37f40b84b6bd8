"""What an advisor knows about gradients, whether from a public probe or from a private histogram of
norms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmaccount.advice import descent, histogram, probe
from mmaccount.advice.descent import DescentCurve
from mmaccount.advice.histogram import NormHistogram
from mmaccount.advice.probe import Probe
from mmaccount.records import validate
from mmaccount.records.plan import Release

Array = npt.NDArray[np.float64]
MEDIAN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about the gradients of a model on some records.

    Attributes:
        curves: expected descent against clip norm, at one point or two.
        at: the first of them at any one clip norm.
        clipped: share of records longer than a clip norm.
        cosine: of the mean clipped gradient with the mean gradient, at a clip norm; None where only
            norms are known.
        loss: R_F.
        measured: whether the probe had it (and curvature) or it was estimated.
        kappa, kappa_upper: scale of the tail of gradient noise, and with 95 % confidence.
        truncation: p that leaves 99.9 % of the mean clipped gradient.
        median: median norm.
        records: number of private records it was learnt from.
        releases, assumptions: what a plan made from this must say.
    """

    curves: list[DescentCurve]
    at: Callable[[float], DescentCurve]
    clipped: Callable[[float], float]
    loss: float
    measured: bool
    kappa: float
    kappa_upper: float
    truncation: float
    median: float
    cosine: Callable[[float], float] | None = None
    records: int | None = None
    releases: tuple[Release, ...] = ()
    assumptions: tuple[str, ...] = ()


def evidence_from(
    source: Probe | NormHistogram | str | Path | npt.ArrayLike, loss: float | None
) -> Evidence:
    """What a probe, a histogram, the file of one, or an m x d array of public per-record gradients
    tells; `loss` overrides its R_F."""
    loss = None if loss is None else validate.positive("loss", loss)
    if isinstance(source, str | Path):
        source = histogram.load(source) or probe.load(source)
    if isinstance(source, NormHistogram):
        return _from_histogram(source, loss)
    probed = source if isinstance(source, Probe) else probe.from_gradients(source)
    if not probed.public:
        raise ValueError(
            "the probe is of private records: learn from them by a histogram, which can be paid for."
        )
    tail = probe.tail(probed.noise_norms)
    return Evidence(
        curves=descent.curves(probed),
        at=lambda clip_norm: descent.curve(probed, at=np.array([clip_norm])),
        clipped=lambda clip_norm: float((probed.norms > clip_norm).mean()),
        loss=loss or probed.gap_to_minimum,
        measured=probed.smoothness is not None and (loss or probed.loss) is not None,
        kappa=tail.estimate,
        kappa_upper=tail.upper,
        truncation=probed.truncation,
        median=float(np.median(probed.norms)),
        cosine=probed.cosine,
        assumptions=(
            f"the probe is of public records, so what it told costs nothing: {probed.about}",
        ),
    )


def _from_histogram(source: NormHistogram, loss: float | None) -> Evidence:
    if (loss or source.loss) is None:
        raise ValueError(
            "`loss` must be given with this histogram: a public value for F(start) - inf F."
        )
    norms, kappa = source.norms, source.tail()
    grid = np.geomspace(
        float(source.quantile(MEDIAN)[1]) / descent.MEDIAN_OVER_LOWEST,
        float(norms[-1]),
        descent.CURVE_POINTS,
    )
    at = partial(_curve, source)
    return Evidence(
        curves=[at(grid)],
        at=lambda clip_norm: at(np.array([clip_norm])),
        clipped=lambda clip_norm: float(source.shares[norms > clip_norm].sum()),
        loss=loss or source.loss or 0.0,
        measured=False,
        kappa=kappa[0],
        kappa_upper=kappa[1],
        truncation=1.0,
        median=source.quantile(MEDIAN)[1],
        records=source.dataset_size,
        releases=(source.release,),
    )


def _curve(source: NormHistogram, clip_norms: Array) -> DescentCurve:
    """The curve of norms alone: as if direction did not depend on norm, all gradients pointed one
    way (only the shape in c counts) and curvature were the same in all directions, with the trace
    of a negative log-likelihood."""
    norms, shares = source.norms, source.shares
    lengths = np.minimum(norms, clip_norms[:, None])
    mean, square = lengths @ shares, np.square(lengths) @ shares
    trace = float(np.square(norms) @ shares)
    nothing = np.zeros_like(mean)
    return DescentCurve(
        clip_norms=clip_norms,
        signal=float(norms @ shares) * mean,
        square=nothing,
        spread=square,
        bend_square=nothing,
        bend_spread=trace / source.dimension * square,
        trace=trace,
        beta=trace,
        dimension=source.dimension,
        steepest=nothing,
    )
