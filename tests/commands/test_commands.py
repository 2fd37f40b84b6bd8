"""The command line: numbers as the library gives them; bad input is one line and exit status 2,
never a traceback."""

import json
import subprocess
import sys
from pathlib import Path
from math import isfinite

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mmaccount as mm
from mmaccount.commands import main, price
from mmaccount.records.bound import up

RUN = {
    "--dataset-size": "50000",
    "--batch-size": "1500",
    "--steps": "3400",
    "--noise-multiplier": "0.335",
    "--clip-norm": "20",
    "--gap": "0.15",
    "--truncation": "100",
}
COMMANDS = [
    "epsilon",
    "delta",
    "solve",
    "compare",
    "verify",
    "plan",
    "spent",
    "advise",
    "tune-cost",
    "plot",
    "report",
    "audit",
    "reproduce",
]
SHORT = {
    "--sample-rate": "0.03",
    "--mixing": "11.25",
    "--steps": "3400",
    "--noise-multiplier": "0.335",
    "--truncation": "100",
}


def words(options: dict[str, str]) -> list[str]:
    return [word for pair in options.items() for word in pair]


def call(capsys, *argv: str) -> tuple[int, str, str]:
    try:
        status = main.main(list(argv))
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def as_json(capsys, *argv: str) -> dict:
    status, out, err = call(capsys, *argv, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    return json.loads(out)


def refused(capsys, *argv: str) -> str:
    status, out, err = call(capsys, *argv)
    assert (status, out) == (2, ""), (status, out, err)
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("form", [RUN, SHORT])
def test_epsilon_json(capsys, resnet, form):
    data = as_json(capsys, "epsilon", *words(form), "--delta", "1e-5")
    made = mm.compare(resnet, delta=1e-5)
    meaning = data.pop("meaning")
    assert data == {
        "epsilon": made.as_given.upper,
        "lower": made.as_given.lower,
        "attack": made.as_given.attack,
        "delta": 1e-5,
        "order": None,
        "method": made.as_given.method,
        "note": None,
        "settings": resnet.to_dict(),
        "without_mixing": made.without_mixing.upper,
        "equal_noise": {
            "noise_multiplier": made.equal_noise_multiplier,
            "epsilon": made.equal_noise.upper,
        },
        "effective_noise_multiplier": made.effective_noise_multiplier,
    }
    assert set(meaning) == {"advantage", "bayes_success", "true_positive_rate", "gdp_mu"}
    assert meaning["gdp_mu"]["value"] == mm.gdp_mu(made.as_given.upper, 1e-5)
    assert "never a guarantee" in meaning["gdp_mu"]["note"]


def test_meaning_is_what_the_library_says(capsys, plain):
    options = [
        "--sample-rate",
        "0.01",
        "--steps",
        "10000",
        "--noise-multiplier",
        "1",
        "--delta",
        "1e-5",
        "--prior",
        "0.1",
    ]
    meaning = as_json(capsys, "epsilon", *options)["meaning"]
    del meaning["gdp_mu"]
    assert meaning == mm.meaning_of(plain, prior=0.1).to_dict()
    _, out, _ = call(capsys, "epsilon", *options)
    assert "prior 0.1: right with probability <= 0.9064; advantage <= 0.480073" in out
    assert "prior" not in call(capsys, "epsilon", *options[:-2])[1]
    assert "`prior` must be in (0, 1), got 1.0" in refused(capsys, "epsilon", *options[:-1], "1")


def test_a_loose_answer_says_which_side_is_believed_loose(capsys):
    options = {
        "--sample-rate": "0.01",
        "--steps": "100",
        "--noise-multiplier": "1",
        "--mixing": "1000",
        "--delta": "1e-5",
    }
    given = ("epsilon", *words(options))
    assert "both bounds may be loose" in as_json(capsys, *given, "--fast")["note"]
    status, out, _ = call(capsys, *given, "--fast")
    assert status == 0
    assert sum("wide:" in line for line in out.splitlines()) == 1


def test_delta_json(capsys, resnet):
    data = as_json(capsys, "delta", *words(RUN), "--epsilon", "8")
    assert data["delta"] == mm.delta(resnet, epsilon=8).upper
    assert (data["epsilon"], data["settings"]) == (8.0, resnet.to_dict())


@pytest.mark.parametrize("knob", price.SOLVABLE)
def test_solve_json(capsys, knob):
    form = SHORT if knob in ("sample-rate", "mixing") else RUN
    data = as_json(
        capsys,
        "solve",
        "--fast",
        "--for",
        knob,
        "--target-epsilon",
        "7.2",
        "--delta",
        "1e-5",
        *words(form),
    )
    assert data["epsilon"] <= 7.2
    assert (
        data["epsilon"]
        == mm.epsilon(mm.Settings.from_dict(data["settings"]), delta=1e-5, tight=False).upper
    )
    name = knob.replace("-", "_")
    again = form | {f"--{knob}": repr(data[name])}
    assert (
        as_json(capsys, "epsilon", "--fast", *words(again), "--delta", "1e-5")["epsilon"]
        == data["epsilon"]
    )


@pytest.mark.parametrize("knob", price.SOLVABLE)
def test_the_knob_solved_for_need_not_be_given(capsys, knob):
    form = SHORT if knob in ("sample-rate", "mixing") else RUN
    without = {option: value for option, value in form.items() if option != f"--{knob}"}
    data = as_json(
        capsys,
        "solve",
        "--fast",
        "--for",
        knob,
        "--target-epsilon",
        "7.2",
        "--delta",
        "1e-5",
        *words(without),
    )
    assert data["epsilon"] <= 7.2


@pytest.mark.parametrize("knob", price.SOLVABLE)
def test_the_printed_solution_meets_the_target_too(capsys, knob):
    form = SHORT if knob in ("sample-rate", "mixing") else RUN
    _, out, _ = call(
        capsys,
        "solve",
        "--fast",
        "--for",
        knob,
        "--target-epsilon",
        "7.2",
        "--delta",
        "1e-5",
        *words(form),
    )
    name, value = out.splitlines()[0].split(" = ")
    assert name == knob.replace("-", "_")
    assert (
        as_json(
            capsys, "epsilon", "--fast", *words(form | {f"--{knob}": value}), "--delta", "1e-5"
        )["epsilon"]
        <= 7.2
    )


def test_solve_infeasible_is_status_1_with_the_reason(capsys):
    status, out, err = call(
        capsys,
        "solve",
        "--fast",
        "--for",
        "truncation",
        "--target-epsilon",
        "3",
        "--delta",
        "1e-5",
        *words(RUN),
    )
    assert (status, out) == (1, "")
    assert err.startswith(
        "mmaccount: `truncation` alone cannot reach epsilon 3: the best reachable is"
    )
    assert "noise_multiplier =" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), MemoryError("no room for an array")]
)
def test_numbers_too_extreme_to_compute_are_status_1_in_one_line(capsys, monkeypatch, error):
    def compare(*given, **options):
        raise error

    monkeypatch.setattr("mmaccount.analysis.comparison.compare", compare)
    status, out, err = call(capsys, "epsilon", *words(RUN), "--delta", "1e-5")
    assert (status, out, err) == (1, "", f"mmaccount: too extreme to compute here: {error}\n")


def test_compare_json_and_text(capsys, resnet):
    data = as_json(capsys, "compare", *words(RUN), "--delta", "1e-5")
    assert (
        data["noise_multiplier"]
        < data["effective_noise_multiplier"]
        < data["equal_noise"]["noise_multiplier"]
    )
    assert data["equal_noise"]["epsilon"] < data["epsilon"] < data["without_mixing"]
    assert [(row["law"], row["matched"]) for row in data["laws"][:3]] == [
        ("uniform", "itself"),
        ("raised-cosine", "support"),
        ("raised-cosine", "variance"),
    ]
    _, out, _ = call(capsys, "compare", *words(RUN), "--delta", "1e-5")
    assert "raised-cosine, same energy            17.97" in out
    assert [line.split()[-1] for line in out.splitlines()[1:4]] == ["6.76862", "277.285", "2.23242"]


def test_reproduce(capsys):
    data = as_json(capsys, "reproduce")
    assert len(data["figures"]) == 11
    assert all(abs(row["paper_way"] / row["paper"] - 1) < 0.02 for row in data["figures"])
    _, out, _ = call(capsys, "reproduce")
    assert "8.000" in out
    assert "not a proven bound" in out


def test_unbounded_is_null_with_a_reason(capsys):
    options = words(SHORT | {"--noise-multiplier": "1e-200"})
    data = as_json(capsys, "epsilon", *options, "--delta", "1e-5")
    assert data["epsilon"] is None
    assert "overflow" in data["reason"]
    assert data["without_mixing"] is None
    assert data["meaning"]["advantage"]["upper"] == 1.0
    assert data["meaning"]["gdp_mu"]["value"] is None
    _, out, _ = call(capsys, "epsilon", *options, "--delta", "1e-5")
    assert "unbounded" in out


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.250185, "7.25019"), (3.0, "3"), (1.0000001, "1.00001"), (2.5e-7, "2.5e-07")],
)
def test_printed_bounds_are_rounded_up(value, text):
    assert up(value) == text
    assert float(up(value)) >= value


@given(value=st.floats(1e-300, 1e300))
def test_rounding_up_never_understates(value):
    assert value <= float(up(value)) <= value * 1.0001


# ----------------------------------------------------------------------------------- bad arguments

NUMERIC = [
    "--dataset-size",
    "--batch-size",
    "--steps",
    "--noise-multiplier",
    "--clip-norm",
    "--truncation",
    "--delta",
]
BAD = st.sampled_from(
    ["nan", "inf", "-inf", "-1", "0", "1e999", "abc", "", " ", "1,5", "0x10", "--", "None"]
)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
@given(
    option=st.sampled_from(
        [*NUMERIC, "--gap", "--epsilon", "--target-epsilon", "--sample-rate", "--mixing"]
    ),
    bad=BAD,
)
def test_every_bad_argument_is_one_line(capsys, option, bad):
    assume(not (bad == "0" and option in ("--gap", "--mixing", "--epsilon")))
    options = RUN | {"--delta": "1e-5"}
    command = ["epsilon"]
    if option == "--epsilon":
        command, options = ["delta"], dict(RUN)
    elif option == "--target-epsilon":
        command = ["solve", "--for", "steps"]
    elif option in ("--sample-rate", "--mixing"):
        options = SHORT | {"--delta": "1e-5"}
    message = refused(capsys, *command, *words(options | {option: bad}))
    name = option.removeprefix("--")
    assert (
        name in message
        or name.replace("-", "_") in message
        or name.removeprefix("target-") in message
    )


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50
)
@given(rate=st.floats(0.001, 1), batch=st.integers(1, 50_000))
def test_batch_and_rate_that_disagree_are_refused(capsys, rate, batch):
    assume(abs(rate * 50_000 / batch - 1) > 1e-8)
    options = RUN | {"--batch-size": str(batch), "--sample-rate": repr(rate)}
    assert "disagrees with" in refused(capsys, "epsilon", *words(options), "--delta", "1e-5")


def test_batch_and_rate_that_agree_are_taken(capsys):
    both = words(RUN | SHORT)
    assert as_json(capsys, "epsilon", *both, "--delta", "1e-5")["settings"]["mixing"] == 11.25


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["guess"], "guess"),
        (["epsilon", "--delta", "1e-5"], "`--steps` is missing"),
        (["epsilon", "--steps", "3", "--delta", "1e-5"], "`--noise-multiplier` is missing"),
        (
            ["epsilon", "--steps", "3", "--noise-multiplier", "1", "--delta", "1e-5"],
            "`--sample-rate`, or",
        ),
        (
            [
                "epsilon",
                "--steps",
                "3",
                "--noise-multiplier",
                "1",
                "--delta",
                "1e-5",
                "--batch-size",
                "5",
            ],
            "needs `--dataset-size`",
        ),
        (["epsilon", *words(SHORT)], "--delta"),
        (["epsilon", *words(SHORT), "--delta", "1e-5", "--gap", "3"], "`--gap` needs"),
        (["epsilon", *words(SHORT), "--delta", "1e-5", "--noise", "cauchy"], "cauchy"),
        (["epsilon", *words(SHORT), "--delta", "1e-5", "extra"], "extra"),
        (
            ["epsilon", *words(RUN), "--delta", "1e-5", "--mixing", "3"],
            "`--mixing` 3 disagrees with 11.25",
        ),
        (
            [
                "epsilon",
                "--dataset-size",
                "9",
                "--steps",
                "1",
                "--noise-multiplier",
                "1",
                "--delta",
                "1e-5",
            ],
            "`--batch-size` is missing",
        ),
        (["solve", *words(RUN), "--delta", "1e-5", "--target-epsilon", "3"], "--for"),
        (
            [
                "solve",
                *words(RUN),
                "--delta",
                "1e-5",
                "--target-epsilon",
                "3",
                "--for",
                "clip-norm",
            ],
            "clip-norm",
        ),
        (
            ["solve", *words(RUN), "--delta", "1e-5", "--target-epsilon", "3", "--for", "mixing"],
            "solve for gap",
        ),
        (
            ["solve", *words(SHORT), "--delta", "1e-5", "--target-epsilon", "3", "--for", "gap"],
            "`--dataset-size` is missing",
        ),
    ],
)
def test_messages(capsys, argv, message):
    assert message in refused(capsys, *argv)


def test_mixing_may_stand_beside_the_training_form(capsys):
    without_gap = {
        option: value for option, value in RUN.items() if option not in ("--gap", "--clip-norm")
    }
    data = as_json(capsys, "epsilon", *words(without_gap), "--mixing", "11.25", "--delta", "1e-5")
    assert data["epsilon"] == pytest.approx(6.7689, abs=1e-3)


def test_help_loads_nothing_that_computes():
    """Neither the help of the whole, nor that of a command, nor the refusal of bad input."""
    code = (
        "import sys\n"
        "from contextlib import suppress\n"
        "from mmaccount.commands.main import main\n"
        "for words in sys.argv[1:]:\n"
        "    with suppress(SystemExit):\n"
        "        main(words.split())\n"
        "heavy = 'numba', 'numpy', 'scipy', 'torch', 'matplotlib', 'mpmath'\n"
        "print('loaded:', [name for name in heavy if name in sys.modules])\n"
    )
    calls = ["--help", *(f"{command} --help" for command in COMMANDS), "epsilon --delta x"]
    done = subprocess.run(
        [sys.executable, "-c", code, *calls], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("usage: mmaccount") == 1 + len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("command", ["epsilon", "delta", "solve", "compare", "reproduce"])
def test_the_example_in_the_help_runs(capsys, command):
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    example = " ".join(out[out.index("Example: mmaccount ") + len("Example: mmaccount ") :].split())
    status, out, err = call(capsys, *example.split())
    assert (status, err) == (0, "")
    assert out


def test_laplace_from_the_shell(capsys):
    data = as_json(
        capsys,
        "epsilon",
        *words(SHORT | {"--noise-multiplier": "1"}),
        "--noise",
        "laplace",
        "--delta",
        "1e-5",
    )
    assert isfinite(data["epsilon"])
    assert data["effective_noise_multiplier"] is None


def test_installed_command_and_module_agree():
    argv = ["epsilon", *words(SHORT), "--delta", "1e-5", "--json"]
    command = subprocess.run(
        [Path(sys.executable).with_name("mmaccount"), *argv],
        capture_output=True,
        text=True,
        check=True,
    )
    module = subprocess.run(
        [sys.executable, "-m", "mmaccount", *argv], capture_output=True, text=True, check=True
    )
    assert command.stdout == module.stdout
    assert json.loads(command.stdout)["epsilon"] == pytest.approx(6.7689, abs=1e-3)


def test_bad_input_exit_status_from_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "mmaccount", "epsilon", "--steps", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
