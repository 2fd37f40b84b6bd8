"""Settings far outside of what anyone trains with: a finite and sound answer or one with a reason,
and never a warning."""

from itertools import product
from math import isfinite

import pytest

import mmaccount as mm

GRID = list(
    product(
        [1e-9, 0.01, 1.0],
        [0.05, 1.0, 1e4],
        [1, 10**7],
        [1e-12, 1.0, 1e9],
        [1.0, 1e7],
        [1e-300, 1e-5, 0.5],
    )
)
QUICK = [  # of 324, which take minutes
    (0.01, 0.05, 1, 1.0, 1e7, 1e-5),
    (0.01, 1e4, 10**7, 1.0, 1e7, 1e-5),
    (1.0, 0.05, 1, 1.0, 1e7, 1e-300),
    (1.0, 0.05, 1, 1e-12, 1.0, 0.5),
    (1.0, 0.05, 10**7, 1.0, 1e7, 0.5),
    (1.0, 1.0, 10**7, 1e9, 1e7, 1e-300),
    (1.0, 1e4, 1, 1e-12, 1e7, 1e-5),
    (1.0, 1e4, 1, 1e9, 1.0, 0.5),
    (0.01, 1e4, 1, 1e9, 1e7, 1e-5),
    (1e-9, 0.05, 10**7, 1.0, 1e7, 1e-300),
]


@pytest.mark.parametrize(
    ("q", "z", "steps", "rho", "p", "delta"),
    [row if row in QUICK else pytest.param(*row, marks=pytest.mark.slow) for row in GRID],
)
def test_mixing_is_sound_at_any_settings(q, z, steps, rho, p, delta):
    run = mm.Settings(sample_rate=q, steps=steps, noise_multiplier=z, mixing=rho, truncation=p)
    bound = mm.epsilon(run, delta=delta)
    assert 0.0 <= bound.lower <= bound.upper
    if not isfinite(bound.upper):
        assert bound.reason
        return
    there = mm.delta(run, epsilon=bound.upper)
    assert 0.0 <= there.lower <= there.upper <= 1.0
    assert there.lower <= delta * (1 + 1e-9)
