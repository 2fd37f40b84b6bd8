"""Upper bounds on epsilon for many runs: a fast path for mixing, which is most of the time, on all
cores."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import log
from os import cpu_count

import numpy as np

from mmaccount.accounting import accountant, neighbours, renyi
from mmaccount.accounting.step_moments import MOMENT_ERROR, ORDER_ERROR, STEP_ERROR, step_shape
from mmaccount.kernels.sweep import best_integer_orders
from mmaccount.records import mixing_laws, validate
from mmaccount.records.settings import Settings

RUNS_PER_CHUNK = 64  # runs between two calls of `progress`
LARGEST_FAST_ORDER = 256  # largest order of the fast path
SURE_SKIP_FROM_RATIO = (
    2.0 * accountant.SKIP_EXACT_FROM_RATIO
)  # Renyi bound without mixing over the one with it, from which the exact one need not be tried
ERRORS = np.array([MOMENT_ERROR, STEP_ERROR, ORDER_ERROR, renyi.CONVERSION_ERROR])

Progress = Callable[[int, int], None]


def _fast(run: Settings) -> bool:
    uniform = (
        run.noise == "gaussian"
        and run.mixing_law == mixing_laws.UNIFORM
        and neighbours.changes(run) == 1
    )
    return uniform and step_shape(run).width > 0.0


def _priced(runs: Sequence[Settings], delta: float, exact: bool) -> list[float]:
    """Upper bounds of one chunk."""
    uppers = {}
    fast = [i for i, run in enumerate(runs) if _fast(run)]
    if fast:
        steps = [(runs[i], step_shape(runs[i])) for i in fast]
        rows = np.array(
            [
                (run.sample_rate, run.steps, step.shift, step.width, step.copies)
                for run, step in steps
            ]
        )
        for i, epsilon, order, plain in zip(
            fast, *best_integer_orders(rows, log(delta), LARGEST_FAST_ORDER, ERRORS), strict=True
        ):
            if exact and not (
                2 < order < LARGEST_FAST_ORDER and plain > SURE_SKIP_FROM_RATIO * epsilon
            ):
                continue
            best = min(float(epsilon), float(plain))  # mixing is post-processing
            uppers[i] = best if order > 2 else min(best, renyi.epsilon(runs[i], delta=delta).upper)
    return [
        uppers[i] if i in uppers else accountant.upper_epsilon([run], delta)
        for i, run in enumerate(runs)
    ]


def sweep(
    runs: Sequence[Settings], *, delta: float, exact: bool = False, progress: Progress | None = None
) -> np.ndarray:
    """Upper bounds on the epsilon of many runs of one phase each, for grids and searches.

    Each is proven. Without mixing, and for other laws than the uniform, other noise and other
    neighbours, it is `epsilon(run, delta=delta, tight=False).upper`, some ms a run. With mixing it
    is the bound from Renyi moments, to 0.1 %; `epsilon` improves on that only where accounting
    exactly for the same run without mixing gives less (little mixing, or a small epsilon). The
    numerical check of the worst shift, which has never failed, is left out.

    Args:
        runs: settings, in any order; the result has the same order.
        delta: in (0, 1).
        exact: try that too, where it may help: within 0.1 % of `epsilon`, at its cost for those
            runs.
        progress: called with (runs done, all runs) now and then, from this thread.

    Raises:
        ValueError, TypeError: an argument is out of range.

    >>> common = {"steps": 3400, "noise_multiplier": 0.335, "mixing": 11.25, "truncation": 100}
    >>> runs = [Settings(sample_rate=q, **common) for q in (0.02, 0.03)]
    >>> [f"{upper:.2f}" for upper in sweep(runs, delta=1e-5)]
    ['4.57', '7.25']
    """
    delta = validate.probability("delta", delta)
    listed = list(runs)
    if listed:
        renyi.as_phases(listed[:1])
    if not all(isinstance(run, Settings) for run in listed):
        raise TypeError("`runs` must be a sequence of Settings.")
    chunks = [listed[i : i + RUNS_PER_CHUNK] for i in range(0, len(listed), RUNS_PER_CHUNK)]
    uppers: list[float] = []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for part in pool.map(lambda chunk: _priced(chunk, delta, exact), chunks):
            uppers += part
            if progress is not None:
                progress(len(uppers), len(listed))
    return np.array(uppers)
