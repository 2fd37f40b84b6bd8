"""Ways in for users of opacus and dp-accounting, against the real packages."""

import math
import warnings

import dp_accounting as dp
import pytest
import torch
from dp_accounting.pld import PLDAccountant

import mmaccount as mm
from mmaccount.dp_events import from_dp_event, to_dp_event


def settings(**changes):
    return mm.Settings(**{"sample_rate": 0.02, "steps": 300, "noise_multiplier": 1.1} | changes)


RUNS = [
    [settings()],
    [settings(steps=1)],
    [settings(sample_rate=1.0, noise_multiplier=20.0)],
    [
        settings(),
        settings(noise_multiplier=2.0),
        settings(sample_rate=1.0, steps=2, noise_multiplier=9.0),
    ],
    [settings(noise="laplace", steps=5)],
]


@pytest.mark.parametrize("run", RUNS)
def test_events_there_and_back(run):
    assert from_dp_event(to_dp_event(run)) == run


@pytest.mark.parametrize("run", [RUNS[0], *RUNS[2:4]])
def test_the_other_accountant_gets_the_same_epsilon(run):
    theirs = PLDAccountant().compose(to_dp_event(run)).get_epsilon(1e-5)
    found = mm.epsilon(run, delta=1e-5)
    assert found.lower <= theirs
    assert found.upper == pytest.approx(theirs, rel=1e-3)


def test_nested_events_multiply():
    gaussian = dp.GaussianDpEvent(1.5)
    nested = dp.SelfComposedDpEvent(
        dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, gaussian), 7), 3
    )
    assert from_dp_event(nested) == [mm.Settings(sample_rate=0.1, steps=21, noise_multiplier=1.5)]
    twice = dp.PoissonSampledDpEvent(0.5, dp.PoissonSampledDpEvent(0.1, gaussian))
    assert from_dp_event(twice) == [mm.Settings(sample_rate=0.05, steps=1, noise_multiplier=1.5)]
    assert from_dp_event(dp.NoOpDpEvent()) == []


@pytest.mark.parametrize(
    "event",
    [
        dp.NonPrivateDpEvent(),
        dp.GaussianDpEvent(0.0),
        dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), 0),
        dp.PoissonSampledDpEvent(0.1, dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), 2)),
        dp.PoissonSampledDpEvent(
            0.1, dp.ComposedDpEvent([dp.GaussianDpEvent(1.0), dp.GaussianDpEvent(1.0)])
        ),
        dp.SampledWithoutReplacementDpEvent(100, 10, dp.GaussianDpEvent(1.0)),
    ],
)
def test_events_of_other_kinds_are_refused(event):
    """Two events on one Poisson sample among them: the composed pair would be larger than that of
    two samples."""
    with pytest.raises(ValueError):  # noqa: PT011
        from_dp_event(event)


@pytest.mark.parametrize(
    "changes", [{"mixing": 1.0}, {"group_size": 2}, {"neighbours": "replace-one"}]
)
def test_what_has_no_event_is_refused(changes):
    with pytest.raises(ValueError, match="dp-accounting"):
        to_dp_event(settings(**changes))


@pytest.fixture
def engine():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import PrivacyEngine

        import mmaccount.opacus_accountant  # noqa: F401

        return PrivacyEngine(accountant="mmaccount")


def test_opacus_trains_with_our_accountant(engine):
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 2)
    data = torch.utils.data.TensorDataset(torch.randn(60, 4), torch.randint(0, 2, (60,)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, optimizer, loader = engine.make_private(
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
            data_loader=torch.utils.data.DataLoader(data, batch_size=6),
            noise_multiplier=1.3,
            max_grad_norm=1.0,
        )
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    accountant = engine.accountant
    assert accountant.history == [(1.3, 0.1, len(loader))]
    expected = mm.epsilon(
        mm.Settings(sample_rate=0.1, steps=len(loader), noise_multiplier=1.3), delta=1e-4
    )
    assert engine.get_epsilon(1e-4) == expected.upper
    assert accountant.bound(1e-4) == expected
    again = type(accountant)()
    again.load_state_dict(accountant.state_dict())
    assert len(again) == len(loader)
    assert again.get_epsilon(1e-4) == expected.upper


def test_changes_of_noise_are_phases_and_asking_changes_nothing(engine):
    accountant = type(engine.accountant)()
    assert accountant.get_epsilon(1e-5) == 0.0
    for noise in (1.0, 1.0, 2.0, 1.0):
        accountant.step(noise_multiplier=noise, sample_rate=0.1)
    assert accountant.history == [(1.0, 0.1, 2), (2.0, 0.1, 1), (1.0, 0.1, 1)]
    assert accountant.get_epsilon(1e-5) == accountant.get_epsilon(1e-5) > 0.0
    assert len(accountant) == 4
    accountant.step(noise_multiplier=0.0, sample_rate=0.1)
    assert accountant.get_epsilon(1e-5) == math.inf
