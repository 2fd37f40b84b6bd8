"""Random variables given by atoms, in the order of one common uniform variable, run through side by
side."""

import numpy as np

from mmaccount.kernels.logspace import jit


@jit
def walk(
    values: np.ndarray,
    excesses: np.ndarray,
    masses: np.ndarray,
    sizes: np.ndarray,
    first: int,
    most: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of (0, most] on which no variable changes: masses, and two sums over variables of
    values and of excesses.

    Variable k has atoms of masses[k, :sizes[k]], in order, each with a value and an excess;
    variables from number `first` on are summed apart. Shapes of the sums: (2, pieces). A piece is
    the smallest rest of an atom, and every atom is used up before its successor starts, so that
    only the rounding of differences shifts masses between atoms.
    """
    count, length = values.shape[0], np.sum(sizes)
    pieces, value, excess = np.empty(length), np.zeros((2, length)), np.zeros((2, length))
    at, rest = np.zeros(count, dtype=np.int64), masses[:, 0].copy()
    filled, left, ended = 0, most, False
    while left > 0.0 and not ended:
        part = min(left, np.min(rest))
        if part > 0.0:
            pieces[filled] = part
            for k in range(count):
                side = 0 if k < first else 1
                value[side, filled] += values[k, at[k]]
                excess[side, filled] += excesses[k, at[k]]
            filled += 1
        left -= part
        for k in range(count):
            rest[k] -= part
            if rest[k] <= 0.0:
                at[k] += 1
                if at[k] == sizes[k]:
                    ended = True
                    break
                rest[k] = masses[k, at[k]]
    return pieces[:filled], value[:, :filled], excess[:, :filled]
