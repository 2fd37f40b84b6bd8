"""All that a privacy review has to read: coins, clip, truncate, sum, noise, mixing, and their
order.

One step (Algorithms 1 and 2 of arXiv 2210.03843, averaged gradients, w_prev = w_{k-1}, w_last =
w_{k-2}) is `private_step`, whose body has these numbers:

1. the step is charged in the ledger, on disk, before any data is looked at;
2. every record joins the batch by its own coin;
3. each record's gradient at the published w_prev is clipped to l2 norm c, then every coordinate is
   cut at c / sqrt(p), and all of these are summed;
4. the sum, plus N(0, (z c)^2) in every coordinate, once, is divided by the plan's constant B;
5. every coordinate of w_prev and w_last is pushed apart to at least tau = gap * learning_rate and
   mixed at random;
6. w_k = mixed - learning_rate * (noisy average + drift); `drift` is computed from published
   iterates only;
7. where clipping is adaptive, a noisy count of the gradients that were at most c long gives the
   next c.

Sums over records, noise and mixing are float64, so that microbatches do not matter. Float32
rounding of norms and clipped gradients is paid for by `SHRINK`, rounding of tau and of the noise by
`WIDEN`. Mixing takes the published float32 iterates, which float64 holds exactly; rounding w_k to
float32 afterwards is post-processing.

Norms and clipped sums are those of `PLAIN`, in torch. Kernels compiled for a CPU
(`trainer/gradients/clip_numba.py`) or a GPU (`trainer/gradients/clip_triton.py`) take their place
if they agree with it at start on random numbers (`trainer/clip_kernels.py`). The end of
`clip_truncate_sum` checks what either says.

Several processes carry out a step together (`Processes`): the first alone charges, draws coins,
noise and mixing coefficients, and hands out the batch and the new weights. Each clips, truncates
and sums its own records of that batch, in float64, and these sums are added. A record always
belongs to the same process, whoever else is in the batch.

Outside the guarantee:

- an observer of time, memory or the number of microbatches, or of the network between several
  processes: the sums that they exchange have no noise yet;
- the resolution of the noise: multiples of about 2^-53, none beyond 8.3 standard deviations (mass
  2^-54). Rounding of all that is released to float32 hides most of the low bits that such attacks
  read, but that is an observation, not a proof;
- gradients of *other* records that round differently because one record more is in the batch: the
  sensitivity is c (of counts 1/2) for gradients that do not (nor their norms: each is added up by
  itself, which on CUDA is certain with the Triton kernels only). `per_record.chunked` keeps the
  shape of every microbatch constant for that reason, and `checks.same_anywhere` tries whether a
  record's gradient has the same bits in every place, `processes.same_bits` whether in every
  process;
- where a record is added or removed before others, so that their numbers change, the views of these
  others: they follow from number and secret key by SplitMix64 (`trainer/augment.py`), which is
  taken for independent draws. Where numbers stay, as with a record replaced or added at the end,
  the sensitivity is c whatever the key is.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from math import exp, nextafter, sqrt
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mmaccount.records.plan import Phase, Plan

RANDOM_BITS = 53  # of a word, that a coin, a uniform or a tail probability takes
NORM_BLOCK = 256  # coordinates whose squares are added in float32
# A sum of 256 squares is off by at most 258 * 2^-24, its root by half of that, each product by two
# roundings.
# Compiled kernels add squares in float64, in any order: n of them are off by at most n * 2^-53,
# which is less than that for n < 2^36.
SHRINK = 1.0 - 2.0**-15
# The smallest clip norm: squares below 2^-149 vanish in float32, which matters only far below this.
SMALLEST_CLIP_NORM = 1e-9
# A gradient from here on counts as not finite: its squares overflow float32, its factor could
# underflow.
LONGEST_GRADIENT = 2.0**63
LARGEST_CLIP_NORM = 1e9  # an adaptive clip norm stays between SMALLEST_CLIP_NORM and this
LARGEST_LOG_CHANGE = 50.0  # and changes by at most e^this in a step
COLUMNS_AT_ONCE = 4096  # coordinates summed over records at a time: fits a cache
WIDEN = 1.0 + 2.0**-50  # a few float64 roundings
Words = Callable[[int], np.ndarray]  # count -> so many fresh random 64-bit words
Draw = Callable[[], Tensor]
# (weights, indices of records) -> chunks; in each one tensor [rows, ...] per parameter
Gradients = Callable[[Tensor, Tensor], Iterable[Sequence[Tensor]]]


class Charges(Protocol):
    """What the mechanism needs of a ledger."""

    def charge(self, step: int) -> None:
        """Return once the step is on disk; raise if it is not in the plan."""


# --------------------------------------------------------------------------------------- randomness


class Randomness:
    """Random 64-bit words: of the operating system's cryptographic generator, or repeatable ones of
    a seed (for tests).

    A seeded stream depends on (seed, purpose, step) alone: the streams of sampling, noise and
    mixing are independent.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def words(self, purpose: str, step: int) -> Words:
        """A function that returns that many fresh words at each call."""
        if self.seed is None:
            return lambda count: np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
        key = blake2b(f"{self.seed}/{purpose}/{step}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        return lambda count: generator.integers(0, 2**64, count, dtype=np.uint64)


def coins(words: Words, size: int, rate: float) -> Tensor:
    """1 for every record that joins the batch, else 0 (uint8), by one independent coin a record.

    Each joins with probability floor(rate 2^53) / 2^53 <= rate.
    """
    threshold = np.uint64(int(Fraction(rate) * 2**RANDOM_BITS))
    joins = (words(size) >> np.uint64(64 - RANDOM_BITS)) < threshold
    return torch.from_numpy(joins.astype(np.uint8))


def normals(words: Words, size: int) -> Tensor:
    """Standard normals in float64 by the inverse distribution function.

    Each takes one word: a sign and a 53-bit lower tail probability.
    """
    drawn = words(size)
    number = (drawn >> np.uint64(64 - RANDOM_BITS)).astype(np.float64)
    tail = (number + 0.5) * 2.0 ** -(RANDOM_BITS + 1)
    sign = 1.0 - 2.0 * (drawn & np.uint64(1)).astype(np.float64)
    return torch.special.ndtri(torch.from_numpy(tail)) * torch.from_numpy(sign)


def uniforms(words: Words, size: int) -> np.ndarray:
    """Uniforms in [0, 1): multiples of 2^-53."""
    return (words(size) >> np.uint64(64 - RANDOM_BITS)).astype(np.float64) * 2.0**-RANDOM_BITS


def peak_one(law: str) -> Callable[[np.ndarray], np.ndarray]:
    """The density of a mixing law on [0, 1], scaled so that its largest value, at 1/2, is 1."""
    if law == "raised-cosine":
        return lambda x: np.sin(np.pi * x) ** 2
    kind, _, b = law.partition("-")
    if kind == "beta" and float(b) >= 1.0:
        return lambda x: (4.0 * x * (1.0 - x)) ** (float(b) - 1.0)
    raise ValueError(
        f"`mixing_law` must be uniform, raised-cosine or beta-b with b >= 1, got {law!r}."
    )


def mixing_coefficients(words: Words, size: int, law: str) -> Tensor:
    """alpha in [0, 1], independent, of the mixing law; by rejection, which is exact."""
    alpha = uniforms(words, size)
    if law != "uniform":
        density = peak_one(law)
        rejected = np.flatnonzero(uniforms(words, size) >= density(alpha))
        while rejected.size:
            alpha[rejected] = uniforms(words, rejected.size)
            rejected = rejected[uniforms(words, rejected.size) >= density(alpha[rejected])]
    return torch.from_numpy(alpha)


def noisy_counts(counts: np.ndarray, noise_multiplier: float, randomness: Randomness) -> np.ndarray:
    """Counts of a histogram, of which a record changes one by 1, plus N(0, noise_multiplier^2)."""
    noise = normals(randomness.words("histogram", 0), len(counts)).numpy()
    return counts + noise_multiplier * WIDEN * noise


# --------------------------------------------------------------------------- one record's influence


def coordinate_bound(clip_norm: float, truncation: float) -> float:
    """c / sqrt(p), rounded down to a float32."""
    exact = clip_norm / sqrt(truncation)
    bound = np.float32(exact)
    return float(bound if float(bound) <= exact else np.nextafter(bound, np.float32(0)))


class Clipped(NamedTuple):
    """The sum of clipped gradients and, private, the norm of every record's gradient before."""

    total: Tensor
    norms: Tensor


def _norms(row: Tensor) -> Tensor:
    """l2 norm of every row, float64: float32 in blocks, relative error at most 130 * 2^-24."""
    whole = row.shape[1] // NORM_BLOCK * NORM_BLOCK
    blocks = row[:, :whole].reshape(len(row), whole // NORM_BLOCK, NORM_BLOCK)
    rest = row[:, whole:]
    norms_of_blocks = torch.linalg.vector_norm(blocks, dim=2)
    norm_of_rest = torch.linalg.vector_norm(rest, dim=1)
    return torch.cat([norms_of_blocks, norm_of_rest[:, None]], dim=1).double().norm(dim=1)


def _clipped_sum(row: Tensor, factor: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Sum over records of row times factor (float32), cut at +-bound, and the l2 norm that every
    record ends with.

    Both are float64.
    """
    strips = row.split(COLUMNS_AT_ONCE, dim=1)
    parts = [_clipped_columns(columns, factor, bound) for columns in strips]
    totals = torch.cat([total for total, _ in parts])
    lengths = torch.stack([lengths for _, lengths in parts]).norm(dim=0)
    return totals, lengths


def _clipped_columns(columns: Tensor, factor: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    cut = (columns * factor[:, None]).clamp_(-bound, bound).double()
    return cut.sum(0), cut.norm(dim=1)


class Passes(NamedTuple):
    """The two times that gradients are read.

    Others than `PLAIN` must give the same: see `trainer.clip_kernels`.
    """

    norms: Callable[[Tensor], Tensor] = _norms
    clipped_sum: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]] = _clipped_sum


PLAIN = Passes()


def clip_truncate_sum(
    gradients: Sequence[Tensor],
    clip_norm: float,
    truncation: float,
    passes: Passes = PLAIN,
) -> Clipped:
    """The sum over records of truncate(clip(gradient)), float64, shape [parameters].

    Guarantee: adding or removing one record changes the sum by at most clip_norm in l2 and by at
    most clip_norm / sqrt(truncation) in every coordinate, whatever the gradients are. A record
    whose gradient is not finite, or longer than LONGEST_GRADIENT, counts as zero.

    Args:
        gradients: one tensor per parameter, each [records, ...].
        clip_norm: c.
        truncation: p.
        passes: how norms and sums are computed.
    """
    if not clip_norm >= SMALLEST_CLIP_NORM:
        raise ValueError(f"`clip_norm` must be at least {SMALLEST_CLIP_NORM:g}, got {clip_norm!r}.")
    rows = [gradient[..., None].flatten(1) for gradient in gradients]
    # One addition after the other: the bits of a record's norm do not depend on how many there are.
    norms = sum(passes.norms(row).square() for row in rows).sqrt()
    finite = norms < LONGEST_GRADIENT
    if not bool(finite.all()):
        rows = [torch.where(finite[:, None], row, 0.0) for row in rows]  # 0 * inf would be NaN
    factor = torch.where(finite, clip_norm * SHRINK / norms.clamp_min(clip_norm), 0.0).float()
    bound = coordinate_bound(clip_norm, truncation)
    parts = [passes.clipped_sum(row, factor, bound) for row in rows]
    total = torch.cat([part for part, _ in parts])
    lengths = torch.stack([lengths for _, lengths in parts]).norm(dim=0)
    if not bool((lengths <= clip_norm).all()):
        raise AssertionError("clipping failed")
    if not bool((total.abs() <= len(norms) * bound * WIDEN).all()):
        raise AssertionError("truncation failed")
    return Clipped(total, norms)


# ------------------------------------------------------------------------------- adaptive clip norm


def short(norms: Tensor, clip_norm: float) -> float:
    """Sum over records of 1[|g_i| <= c] - 1/2.

    Adding or removing a record changes it by 1/2, whatever its gradient is (one that is not finite
    is long).
    """
    return float(((norms <= clip_norm).double() - 0.5).sum())


def next_clip_norm(
    phase: Phase,
    batch_size: float,
    step: int,
    norms: Tensor,
    randomness: Randomness,
) -> Tensor:
    """c exp(-rate (share - quantile)), a float32 between limits, from the noisy share of short
    gradients.

    share = 1/2 + (sum over the batch of (1[|g_i| <= c] - 1/2) + N(0, noise^2)) / B, where B is the
    plan's constant, `batch_size`, as in every division here.
    """
    adaptive, c = phase.adaptive, phase.clip_norm
    noise = adaptive.noise * WIDEN * float(normals(randomness.words("count", step), 1))
    share = 0.5 + (short(norms, c) + noise) / batch_size
    power = -adaptive.rate * (share - adaptive.quantile)
    power = min(max(power, -LARGEST_LOG_CHANGE), LARGEST_LOG_CHANGE)
    following = np.float32(min(max(c * exp(power), SMALLEST_CLIP_NORM), LARGEST_CLIP_NORM))
    return torch.tensor([max(float(following), SMALLEST_CLIP_NORM)], dtype=torch.float64)


# ------------------------------------------------------------------------------------------- mixing


def mix(w_prev: Tensor, w_last: Tensor, threshold: float, alpha: Tensor) -> Tensor:
    """alpha a + (1 - alpha) b in every coordinate, a and b being w_prev and w_last pushed apart.

    They are pushed apart about their midpoint to at least `threshold`. Which of the two is a does
    not matter, since alpha and 1 - alpha have the same law: a coordinate where w_prev = w_last (the
    first step) is mixed like every other.
    """
    width = (w_prev - w_last).abs().clamp_min(threshold)
    if not bool((width >= threshold).all()):
        raise AssertionError("a coordinate is not mixed: are the weights finite?")
    return (w_prev + w_last) / 2.0 + (alpha - 0.5) * width


# --------------------------------------------------------------------------- who carries out a step


class Processes:
    """Who carries out a step: here one process, which is the first; `trainer.processes.Several`
    stands for more.

    What fails in one process fails in all.
    """

    rank, size = 0, 1

    def in_first(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What `make()` gives in the first process; None in the others, which do not call it."""
        return make()

    def from_first(
        self, make: Draw, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """What `make()` gives in the first process, in all of them and to the bit; the others do
        not call it."""
        return make()

    def summed(self, make: Draw, shape: tuple[int, ...]) -> Tensor:
        """The sum over processes of what `make()` gives in each, float64, in all of them."""
        return make()


ONE = Processes()


def when_asked(draw: Draw, size: int) -> Draw:
    """What gives so many numbers that `draw` draws: `draw` itself, which draws them when they are
    needed.

    `trainer.ahead.by_thread` lets a thread draw them meanwhile.
    """
    return draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What changes the speed of a step, not what it does.

    Attributes:
        processes: who carries it out.
        passes: how norms and clipped sums are computed.
        ahead: when noise and mixing coefficients are drawn, which depend on no data.
    """

    processes: Processes = ONE
    passes: Passes = PLAIN
    ahead: Callable[[Draw, int], Draw] = when_asked


ALONE = Execution()


# ----------------------------------------------------------------------------------------- one step


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all steps of a run share.

    Attributes:
        plan: what is carried out.
        ledger: where steps are charged; used by the first process only.
        randomness: where coins, noise and mixing coefficients come from; used by the first process
            only.
        records: number of records in the data.
    """

    plan: Plan
    ledger: Charges | None
    randomness: Randomness
    records: int

    def phase(self, step: int, clip_norm: float | None) -> Phase:
        """The phase of a step, with the clip norm that the step before released where clipping is
        adaptive."""
        phase = self.plan.phases[self.plan.phase_of(step)]
        if phase.adaptive is None or clip_norm is None:
            return phase
        return replace(phase, clip_norm=clip_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a step releases, and, private, the norms of its gradients.

    Attributes:
        weights: the new weights, float64, to be rounded to float32.
        noisy: the noisy average, so rounded, where nothing was mixed; else None, since while mixing
            it must not leave the mechanism.
        clip_norm: that of the phase's next step.
        norms: private; those of the batch's gradients before clipping.
    """

    weights: Tensor
    noisy: Tensor | None
    clip_norm: float
    norms: Tensor


def private_step(
    run: Run,
    step: int,
    w_prev: Tensor,
    w_last: Tensor,
    *,
    gradients: Gradients,
    drift: Tensor | float = 0.0,
    clip_norm: float | None = None,
    execution: Execution = ALONE,
) -> Released:
    """Charge step number `step` (from 1), then carry it out.

    A step that the plan does not have touches no data.

    Args:
        run: plan, ledger, randomness and number of records.
        step: its number.
        w_prev: w_{k-1}, flat, all trainable parameters, published.
        w_last: w_{k-2}, likewise.
        gradients: per-record gradients of given records at given weights, in chunks of any size.
        drift: function of published iterates, added to the average (weight decay, momentum); that
            of the first process.
        clip_norm: where clipping is adaptive, what the step before released; None in the phase's
            first step.
        execution: who carries it out, and how.
    """
    plan, randomness, processes = run.plan, run.randomness, execution.processes
    phase = run.phase(step, clip_norm)
    size = w_prev.numel()

    # 1. The step is charged in the ledger, on disk, before any data is looked at. What is done in
    #    the first process alone is None in the others, which never use it; if it fails there, it
    #    fails in all at the next exchange, before any gradient.
    processes.in_first(lambda: run.ledger.charge(step))

    # 2. Every record joins the batch by its own coin.
    toss = partial(coins, randomness.words("sampling", step), run.records, plan.sample_rate)
    batch = processes.from_first(toss, (run.records,), torch.uint8).nonzero().flatten()

    # Noise and mixing coefficients depend on nothing that follows: they may be drawn from here on.
    draws = processes.in_first(lambda: start_draws(phase, step, size, randomness, execution.ahead))

    # 3. Each record's gradient at w_prev is clipped to l2 norm c, then every coordinate is cut at
    #    c / sqrt(p), and all of these are summed.
    share = partial(own_sum, phase, w_prev, batch, gradients, execution)
    sums = processes.summed(share, (size + len(batch),))
    total, norms = sums[:size], sums[size:]

    # 4. The sum, plus N(0, (z c)^2) in every coordinate, once, is divided by the plan's constant B.
    noisy = processes.in_first(lambda: noisy_average(phase, total, draws.noise(), plan.batch_size))

    # 5. Every coordinate of w_prev and w_last is pushed apart to at least tau = gap * learning_rate
    #    and mixed at random.
    mixed = processes.in_first(lambda: mixed_weights(phase, w_prev, w_last, draws.alpha))

    # 6. w_k = mixed - learning_rate * (noisy average + drift).
    weights = processes.from_first(lambda: mixed - phase.learning_rate * (noisy + drift), (size,))

    # 7. Where clipping is adaptive, a noisy count of the gradients that were at most c long gives
    #    the next c.
    following = phase.clip_norm
    if phase.adaptive is not None:
        count = partial(next_clip_norm, phase, plan.batch_size, step, norms, randomness)
        following = float(processes.from_first(count, (1,)))

    # The noisy average is released too where nothing was mixed: the weights tell it then.
    average = None
    if phase.gap == 0.0:
        average = processes.from_first(lambda: noisy, (size,)).float().double()
    return Released(weights=weights, noisy=average, clip_norm=following, norms=norms)


class Draws(NamedTuple):
    """What gives a step's noise, standard normal, and its mixing coefficients, None where nothing
    is mixed."""

    noise: Draw
    alpha: Draw | None


def start_draws(
    phase: Phase,
    step: int,
    size: int,
    randomness: Randomness,
    ahead: Callable[[Draw, int], Draw],
) -> Draws:
    """The draws of a step, each from words of its own purpose."""
    noise = ahead(partial(normals, randomness.words("noise", step), size), size)
    if phase.gap == 0.0:
        return Draws(noise, None)
    words = randomness.words("mixing", step)
    return Draws(noise, ahead(partial(mixing_coefficients, words, size, phase.mixing_law), size))


def own(batch: Tensor, processes: Processes) -> Tensor:
    """Which records of the batch are this process's: of all records, every `size`-th."""
    return batch % processes.size == processes.rank


def own_sum(
    phase: Phase, weights: Tensor, batch: Tensor, gradients: Gradients, execution: Execution
) -> Tensor:
    """This process's share of step 3, one flat vector, float64.

    First the sum over its records of the batch; then, private, the norm of every record's gradient
    before clipping, 0 for those of other processes.
    """
    mine, size = own(batch, execution.processes), weights.numel()
    share = torch.zeros(size + len(batch), dtype=torch.float64, device=weights.device)
    total, norms = share[:size], share[size:]  # views: what is added below lands in `share`
    norms_by_chunk = [norms[:0]]
    for chunk in gradients(weights, batch[mine]):
        clipped = clip_truncate_sum(chunk, phase.clip_norm, phase.truncation, execution.passes)
        total += clipped.total
        norms_by_chunk.append(clipped.norms)
    norms[mine] = torch.cat(norms_by_chunk)
    return share


def noisy_average(phase: Phase, total: Tensor, noise: Tensor, batch_size: float) -> Tensor:
    """(total + z c noise) / B for standard normal noise."""
    scale = phase.noise_multiplier * phase.clip_norm * WIDEN
    return (total + scale * noise.to(total.device)) / batch_size


def mixed_weights(phase: Phase, w_prev: Tensor, w_last: Tensor, alpha: Draw | None) -> Tensor:
    """w_prev and w_last mixed; w_prev itself in a phase that does not mix. Float64."""
    w_prev, w_last = w_prev.double(), w_last.double()
    if phase.gap == 0.0:
        return w_prev
    threshold = nextafter(phase.gap * phase.learning_rate, float("inf")) * WIDEN
    return mix(w_prev, w_last, threshold, alpha().to(w_prev.device))
