"""Two-sided bounds against 2,000 random runs whose truth is known (tests/reference/make_brackets.py); 100
of them quickly."""

import pytest
from conftest import table

import mmaccount as mm
from mmaccount.accounting import mixing_bounds
from mmaccount.accounting.accountant import upper_epsilon
from mmaccount.accounting.step_moments import step_log_moment

ROWS = table("brackets")
EVERY = 20  # of which one is checked in `make test`, the others in `make slow`
SLACK = 1e-12  # relative, of a delta: between the decimal of the table and the float nearest to it


def settings(row):
    return mm.Settings(
        sample_rate=row["q"],
        steps=row["T"],
        noise_multiplier=row["z"],
        mixing=row["rho"],
        truncation=row["p"],
    )


def check_plain(row):
    """The delta and the epsilon of the table lie inside of what is reported; the bounds on delta
    are narrow."""
    run, epsilon, delta = settings(row), row["epsilon"], float(row["delta"])
    found = mm.delta(run, epsilon=epsilon)
    assert found.lower <= delta * (1 + SLACK)
    assert delta <= found.upper * (1 + SLACK)
    back = mm.epsilon(run, delta=delta)
    assert back.lower <= epsilon * (1 + 1e-10)
    assert epsilon <= back.upper * (1 + 1e-10)


def check_mixed(row):
    """The delta of the table belongs to an attack that exists: below every guarantee, and above
    what that attack claims."""
    run, epsilon, delta = settings(row), row["epsilon"], float(row["delta"])
    assert delta <= mm.delta(run, epsilon=epsilon).upper * (1 + SLACK)
    assert epsilon <= upper_epsilon([run], delta, tight=True) * (1 + 1e-10)
    for name, (remove, _) in mixing_bounds.attacks([run]):
        if "over p" in name:
            assert remove.delta(epsilon) <= delta * (1 + SLACK)


def check_moment(row):
    run, order, log_moment = settings(row), row["epsilon"], float(row["delta"])
    assert 0.0 <= step_log_moment(run, order) / log_moment - 1.0 + SLACK < 1e-9


CHECKS = {"mixed step": check_mixed, "mixed steps": check_mixed, "moment": check_moment}


def check(row):
    CHECKS.get(row["kind"], check_plain)(row)


@pytest.mark.parametrize(
    "row", ROWS[::EVERY], ids=lambda row: f"{row['kind']} {row['q']} {row['z']} {row['T']}"
)
def test_the_truth_lies_inside(row):
    check(row)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, EVERY))
def test_the_truth_lies_inside_every_time(first):
    for row in ROWS[first::EVERY]:
        check(row)
