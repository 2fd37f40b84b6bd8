"""Neighbours that differ in several records, or in one record put in place of another: the worst pair.

Poisson sampling takes each of g records into a step's batch with probability q, independently. A
set A of them in the batch moves the sum by the sum of g_i over A with one data set and of g'_i with
the other (0 where that one lacks the record), in units of the noise; clipping gives |g_i|, |g'_i|
<= v = 1/z. What other records do is common to both; given it, outputs are
    P = sum_A w_A N(sum_A g_i, I),   Q = sum_A w_A N(sum_A g'_i, I),   w_A = q^|A| (1-q)^(g-|A|).

Worst case. For every x > 0, E_Q[(P/Q - x)_+] is largest if all g_i are v u and all g'_i are -v u
(or 0, as they were), u a unit vector. So the pair below dominates, also composed (Zhu-Dong-Wang
2022, arXiv 2106.08567, Theorem 10), for every data set, and a data set attains it.
Proof. P and Q over N(0, I) are sums of f_k = w_k e^{U_k - S_kk/2}, U Gaussian with covariance S,
the Gram matrix of the moves of all sets. Let F be the sum of f_k over P less x times that over Q.
Along a path of covariances (Price's theorem; terms with the first derivative of F_+ cancel against
those of S_kk/2),
    d E[F_+] = 1/2 sum_kl dS_kl E[delta(F) F_k F_l],   F_k = f_k for P, -x f_k for Q,
which is not negative if dS_kl >= 0 within P and within Q and <= 0 across. As |g_i|, |g'_i| <= v,
the Gram matrix of the claim bounds every other one, entry by entry with those signs, and the
straight path to it stays positive semidefinite. Sources: for g records added or removed Ganesh
2024, arXiv 2401.10294; for one replaced Lebeda et al. 2024, arXiv 2405.20769, Prop. 13. With the
binomial weights b_i = C(g, i) q^i (1-q)^(g-i):
    added or removed   P = sum_i b_i N(i v, 1) against Q = N(0, 1), or Q against P; all are added,
    or all are removed, replaced           P = sum_i b_i N(i v, 1) against Q = sum_i b_i N(-i v, 1);
    Q against P is the same, by x -> -x.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import comb, exp, log, log1p

import numpy as np

from mmaccount.records.settings import NEIGHBOURS, Settings

NO_WEIGHT = -690.0  # log of a binomial weight that is as good as none


def changes(phase: Settings) -> int:
    """How many records are added or removed, one after the other, between neighbours."""
    return phase.group_size * (2 if phase.neighbours == "replace-one" else 1)


def reduced(phases: Sequence[Settings]) -> tuple[Settings, ...]:
    """A run under one record added or removed that costs the same, or the run as it is.

    If every record is in every batch, changes that follow each other are one change that is as many
    times larger: a larger clip norm, in units of which noise and mixing are smaller.
    """
    count = changes(phases[0])
    if count > 1 and any(phase.sample_rate < 1.0 for phase in phases):
        return tuple(phases)
    single = []
    for phase in phases:
        noise, mixing = phase.noise_multiplier / count, phase.mixing / count
        single.append(
            replace(
                phase, neighbours=NEIGHBOURS[0], group_size=1, noise_multiplier=noise, mixing=mixing
            )
        )
    return tuple(single)


@lru_cache(maxsize=64)
def log_weights(group_size: int, q: float) -> np.ndarray:
    """log b_i for i = 0 .. group_size, q < 1."""
    stay = [(group_size - i) * log1p(-q) for i in range(group_size + 1)]
    logs = [log(comb(group_size, i)) + i * log(q) + stay[i] for i in range(group_size + 1)]
    exact = [
        comb(group_size, i) * q**i * exp(stay[i]) if logs[i] > NO_WEIGHT else 0.0
        for i in range(group_size + 1)
    ]
    return np.array(
        [log(value) if value > 0.0 else guess for value, guess in zip(exact, logs, strict=True)]
    )
