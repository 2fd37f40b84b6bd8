"""Settings: every bad argument is refused by name; JSON carries them unchanged."""

import json
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmaccount import Phase, Settings

GOOD = {
    "sample_rate": 0.1,
    "steps": 10,
    "noise_multiplier": 1.0,
    "mixing": 2.0,
    "truncation": 3.0,
    "noise": "gaussian",
}
TRAINING = {
    "dataset_size": 1000,
    "batch_size": 100,
    "steps": 10,
    "noise_multiplier": 1.0,
    "clip_norm": 2.0,
    "gap": 0.1,
}

ANY = st.builds(
    Settings,
    sample_rate=st.floats(0, 1, exclude_min=True),
    steps=st.integers(1, 10**15),
    noise_multiplier=st.floats(0, exclude_min=True, allow_infinity=False),
    mixing=st.floats(0, allow_infinity=False),
    truncation=st.floats(1, allow_infinity=False),
    noise=st.sampled_from(["gaussian", "laplace"]),
) | st.builds(
    Settings,
    sample_rate=st.just(0.1),
    steps=st.just(1),
    noise_multiplier=st.just(1.0),
    mixing=st.floats(0, 1e9),
    mixing_law=st.just("raised-cosine") | st.floats(1, 10).map(lambda b: f"beta-{b!r}"),
)


@given(run=ANY)
def test_json_round_trip_is_exact(run):
    assert Settings.from_dict(json.loads(json.dumps(run.to_dict(), allow_nan=False))) == run


BAD_NUMBERS = st.sampled_from([nan, inf, -inf, -1, -1e-300, 0, 1e400])
BAD_TYPES = st.sampled_from([None, "1", [1.0], True, 1j, {}, object()])
CAN_BE_ZERO = {"mixing", "gap"}


@given(name=st.sampled_from(sorted(set(GOOD) - {"noise"})), value=BAD_NUMBERS)
def test_a_number_out_of_range_is_named(name, value):
    if value == 0 and name in CAN_BE_ZERO:
        value = -0.5
    with pytest.raises(ValueError, match=rf"`{name}` must be .* got {value!r}".replace("[", r"\[")):
        Settings(**(GOOD | {name: value}))


@given(name=st.sampled_from(sorted(set(GOOD) - {"noise"})), value=BAD_TYPES)
def test_a_wrong_type_is_named(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a number"):
        Settings(**(GOOD | {name: value}))


@given(name=st.sampled_from(sorted(TRAINING)), value=BAD_NUMBERS | BAD_TYPES)
def test_from_training_names_the_argument(name, value):
    if (value == 0 and name in CAN_BE_ZERO) or (value is None and name == "clip_norm"):
        return
    with pytest.raises((ValueError, TypeError), match=f"`{name}` must be"):
        Settings.from_training(**(TRAINING | {name: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 1.7}, r"`sample_rate` must be in \(0, 1\], got 1.7."),
        ({"steps": 1.5}, r"`steps` must be a whole number"),
        ({"truncation": 0.99}, r"`truncation` must be in \[1, inf\)"),
        ({"noise": "cauchy"}, r"`noise` must be one of gaussian, laplace, got 'cauchy'."),
        ({"noise": 3}, r"`noise` must be one of"),
    ],
)
def test_messages(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**(GOOD | changes))


def test_batch_larger_than_data_set():
    with pytest.raises(
        ValueError, match=r"`batch_size` must be in \(0, 1000 = dataset_size\], got 1001"
    ):
        Settings.from_training(**(TRAINING | {"batch_size": 1001}))


def test_gap_needs_a_clip_norm():
    with pytest.raises(ValueError, match="`clip_norm` must be given with a gap"):
        Settings.from_training(**(TRAINING | {"clip_norm": None}))


def test_training_form_gives_the_papers_dimensionless_numbers():
    run = Settings.from_training(
        dataset_size=50_000,
        batch_size=1500,
        steps=3400,
        noise_multiplier=0.335,
        clip_norm=20,
        gap=0.15,
        truncation=100,
    )
    assert run == Settings(
        sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100
    )


def test_values_are_plain_numbers():
    run = Settings(
        **(GOOD | {"steps": 10.0, "sample_rate": np.float32(0.5), "mixing": np.int64(3)})
    )
    assert [type(run.steps), type(run.sample_rate), type(run.mixing)] == [int, float, float]
    with pytest.raises(AttributeError):
        run.steps = 5


@pytest.mark.parametrize("data", [GOOD | {"epochs": 3}, {"steps": 3}, {}])
def test_from_dict_refuses_unknown_and_missing_keys(data):
    with pytest.raises(ValueError, match=r"unknown setting `epochs`|is missing"):
        Settings.from_dict(data)


@pytest.mark.parametrize(
    ("given", "kept"), [("beta-2.0", "beta-2"), ("beta-1", "uniform"), ("beta-2.5", "beta-2.5")]
)
def test_a_mixing_law_has_one_spelling(given, kept):
    assert Settings(**(GOOD | {"mixing_law": given})).mixing_law == kept
    phase = Phase(
        steps=1, noise_multiplier=1, clip_norm=1, learning_rate=1, gap=1, mixing_law=given
    )
    assert phase.mixing_law == kept


def test_a_mixing_law_without_mixing_is_none():
    run = Settings(**(GOOD | {"mixing": 0, "mixing_law": "raised-cosine"}))
    assert run == Settings(**(GOOD | {"mixing": 0}))
    phase = Phase(
        steps=1, noise_multiplier=1, clip_norm=1, learning_rate=1, mixing_law="raised-cosine"
    )
    assert phase.mixing_law == "uniform"


@pytest.mark.parametrize(
    "law",
    ["", "beta", "beta-", "beta-0.99", "beta-nan", "beta-10.1", "cosine", "Uniform", None, 2.0],
)
def test_other_mixing_laws_are_refused(law):
    with pytest.raises(ValueError, match="`mixing_law` must be uniform, raised-cosine or beta-B"):
        Settings(**(GOOD | {"mixing_law": law}))
    with pytest.raises(ValueError, match="`mixing_law` must be uniform, raised-cosine or beta-B"):
        Phase(steps=1, noise_multiplier=1, clip_norm=1, learning_rate=1, gap=1, mixing_law=law)


def test_laplace_noise_takes_the_uniform_only():
    with pytest.raises(ValueError, match="`mixing_law` must be uniform with laplace noise"):
        Settings(**(GOOD | {"mixing_law": "beta-2", "noise": "laplace"}))
