"""Neighbouring relations and groups."""

import pytest

import mmaccount as mm

RUN = {"sample_rate": 0.01, "steps": 1000, "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    "changes",
    [{}, {"mixing": 11.25, "truncation": 100.0}, {"noise": "laplace"}, {"sample_rate": 1.0, "noise_multiplier": 30.0}],
)
def test_zeroing_a_record_out_costs_what_removing_it_costs(changes):
    run = mm.Settings(**(RUN | changes))
    zeroed = mm.Settings(**(RUN | changes), neighbours="zero-out")
    assert mm.epsilon(zeroed, delta=1e-5, tight=False) == mm.epsilon(run, delta=1e-5, tight=False)
    assert mm.delta(zeroed, epsilon=1.0, tight=False) == mm.delta(run, epsilon=1.0, tight=False)


@pytest.mark.parametrize("changes", [{"neighbours": "zero-out"}, {"group_size": 2}])
def test_phases_of_a_run_share_the_relation(changes):
    runs = [mm.Settings(**RUN), mm.Settings(**(RUN | changes))]
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` must be the same in all phases"):
        mm.epsilon(runs, delta=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": "replace"}, "`neighbours` must be one of add-or-remove, replace-one, zero-out, got 'replace'."),
        ({"group_size": 0}, r"`group_size` must be in \[1, 1e\+15\], got 0."),
        ({"group_size": 1.5}, "`group_size` must be a whole number"),
    ],
)
def test_what_is_no_relation_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mm.Settings(**RUN, **changes)


@pytest.mark.parametrize("changes", [{"neighbours": "zero-out"}, {"neighbours": "replace-one"}, {"group_size": 3}])
def test_a_certificate_of_another_relation_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        mm.certify(mm.Settings(**RUN, **changes), delta=1e-5)
