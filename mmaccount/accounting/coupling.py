"""A pair that dominates a step in which several records may take part.

Made from pairs that dominate each of their sums. The step (neighbours.py) has P = sum_i b_i P_i and
Q = P_0 or sum_i b_i Q_i; P_i and Q_i are mixtures of outputs moved by sums of i admitted gradients:
shifts with i times the cap and i times the norm. If a pair with likelihood ratio r_i dominates
every such move against P_0, then with F_i the distribution function of r_i under P_0 and U uniform
on (0, 1),
    E_Q[(P/Q - x)_+] <= E[(sum_i b_i F_i^-1(U) - x sum_i b_i F_i^-1(1 - U))_+].
Proof. For numbers d_k that add up to 0, (sum Y_k)_+ <= sum (Y_k - d_k)_+. Here the Y_k are b_i
dP_i/dP_0 and
-x b_i dQ_i/dP_0; to replace each by its dominating ratio raises E[(Y_k - d_k)_+], as all have mean
1. Then all are nondecreasing in U, and for such (comonotone) variables the smallest right side over
d equals the left one (Dhaene et al. 2002, Insurance: Mathematics and Economics 31, Theorem 7).
For Gaussian noise alone this is the worst pair of neighbours.py. With mixing it is not attained:
shifts in opposite directions are not quite opposite in all outcomes.
"""

from collections.abc import Sequence

import numpy as np

from mmaccount.accounting.pld import Atoms
from mmaccount.kernels.coupling import walk

# Of all outcomes; each half goes past the middle: no rounding may leave one out.
HALF_OR_MORE = 0.5 * (1.0 + 1e-11)
LOG1P_BELOW = 0.5  # sum of excesses, up to which its log1p is more accurate than the log of the sum
Weighted = Sequence[tuple[float, Atoms | None]]


def _table(
    weighted: Sequence[tuple[float, Atoms]], first: int, *, top: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `walk` takes, from the outcomes that favour P (top) or Q; from number `first` on atoms
    run the other way."""
    sizes = np.array([atoms.losses.size + 1 for _, atoms in weighted])
    table = np.zeros((3, sizes.size, int(sizes.max())))
    for k, (weight, atoms) in enumerate(weighted):
        order = np.argsort(atoms.losses)
        losses = atoms.losses[order]
        columns = [
            np.concatenate([[0.0], weight * np.exp(losses)]),
            np.concatenate([[-weight], weight * np.expm1(losses)]),
            np.concatenate([[atoms.absent], atoms.masses[order]]),
        ]
        table[:, k, : sizes[k]] = np.array(columns)[:, :: -1 if top == (k < first) else 1]
    return table[0], table[1], table[2], sizes


def coupled(stay: float, plus: Weighted, minus: Weighted) -> Atoms:
    """The pair of the right side above, from b_0 and (b_i, dominating pair) of P and of Q, i >= 1;
    no `minus`: Q = P_0.

    Where no pair is known (None), all outcomes are granted to the adversary: in P that is infinite
    loss, in Q left out.
    """
    paired = [
        [(weight, pair) for weight, pair in group if pair is not None] for group in (plus, minus)
    ]
    unpaired = [sum(weight for weight, pair in group if pair is None) for group in (plus, minus)]
    first = len(paired[0])
    half_mass = HALF_OR_MORE * max(
        float(np.sum(pair.masses)) + pair.absent for _, pair in paired[0] + paired[1]
    )
    halves = [
        walk(*_table(paired[0] + paired[1], first, top=top), first, half_mass)
        for top in (False, True)
    ]
    masses = np.concatenate([half[0] for half in halves])
    logs = []
    for side, base in enumerate((stay, stay if minus else 1.0)):
        value = base + np.concatenate([half[1][side] for half in halves])
        excess = np.concatenate([half[2][side] for half in halves]) - unpaired[side]
        with np.errstate(divide="ignore"):
            logs.append(
                np.where(
                    np.abs(excess) < LOG1P_BELOW,
                    np.log1p(np.maximum(excess, -LOG1P_BELOW)),
                    np.log(value),
                )
            )
    lost = [
        unpaired[side] + sum(weight * pair.infinite for weight, pair in paired[side])
        for side in (0, 1)
    ]
    log_p, log_q = logs
    only_p, only_q = log_q == -np.inf, log_p == -np.inf
    infinite = lost[0] + float(np.sum((masses * np.exp(log_p))[only_p]))
    absent = lost[1] + float(np.sum((masses * np.exp(log_q))[only_q]))
    both = ~only_p & ~only_q
    return Atoms((log_p - log_q)[both], (masses * np.exp(log_q))[both], infinite, absent)
