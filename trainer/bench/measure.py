"""How fast per-record gradients are here, clipped, truncated and summed: ours, vmap, Opacus, and a
step without privacy.

Inputs are random. Every method is first compared with a float64 loop over the same records, one
after the other, and is refused if it disagrees. Then all take turns, so that what else the machine
does hits them alike, and the smallest time of each counts. On CPU with one thread that is CPU time,
otherwise wall time.
"""

import copy
import json
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import isfinite
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

from mmaccount.records import validate
from mmaccount.records.plan import Phase, Plan
from trainer import checks, clip_kernels, models
from trainer.ahead import by_thread
from trainer.bench import flops
from trainer.gradients.per_record import Fast, Layout, Oracle, best
from trainer.gradients.precision import DTYPE, arithmetic, cast
from trainer.gradients.timing import Clock
from trainer.loop import losses
from trainer.mechanism import (
    PLAIN,
    Execution,
    Gradients,
    Passes,
    Randomness,
    Run,
    clip_truncate_sum,
    coordinate_bound,
    private_step,
)

SHAPE, CLASSES = (3, 32, 32), 10
TRUNCATION = 1e4  # strong enough to cut some coordinates of most models
# Relative, l2. Where the input of a rectifier rounds to the other side of zero, a record's gradient
# is off by about 1e-3: seen once in 64 records of Resnet-20. With bf16 all are off, by 1 to 4 % in
# median.
ERROR_TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bf16": 1e-1}
WARM = 3  # rounds that do not count
REFERENCE = "without privacy"
Step = Callable[[], list[Tensor]]  # one step of a method; what it releases, in pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every method has to do: a model, a batch and a clip norm that about half of the records
    reach."""

    model: nn.Module
    ours: Fast | Oracle
    x: Tensor
    y: Tensor
    precision: str
    passes: Passes = PLAIN
    clip_norm: float = 1.0
    expected: dict[str, Tensor] = field(default_factory=dict)


def task(model: str, rows: int, device: str, precision: str = "float32") -> Task:
    """Random records, and a float64 loop's sums of their gradients: as they are, clipped, clipped
    and truncated."""
    checks.device(device)
    module = checks.perturbed(models.build(model, SHAPE, CLASSES, seed=0)).to(device)
    x, y = torch.randn(rows, *SHAPE), torch.randint(0, CLASSES, (rows,))
    ours = best(module, losses, precision)
    drawn = Task(model=module, ours=ours, x=x.to(device), y=y.to(device), precision=precision)
    clip_norm = median(float(row.norm()) for row in _loop(drawn))
    bound = coordinate_bound(clip_norm, TRUNCATION)
    sums = {
        name: torch.zeros(Layout(module).total, dtype=torch.float64, device=device)
        for name in ("sum", "clipped", "cut")
    }
    for row in _loop(drawn):
        clipped = row * (clip_norm / row.norm()).clamp_max(1.0)
        for name, part in (
            ("sum", row),
            ("clipped", clipped),
            ("cut", clipped.clamp(-bound, bound)),
        ):
            sums[name] += part
    return replace(drawn, clip_norm=clip_norm, expected=sums)


def _loop(given: Task) -> Iterator[Tensor]:
    """Gradients in float64, one record after the other."""
    parameters = {
        name: p.detach().double().requires_grad_() for name, p in given.model.named_parameters()
    }
    for x, y in zip(given.x.double().split(1), given.y.split(1), strict=True):
        loss = losses(functional_call(given.model, parameters, (x,)), y)[0]
        yield torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])


# -------------------------------------------------------------------------------------- the methods


def _without_privacy(given: Task) -> Step:
    model, x = copy.deepcopy(given.model).to(DTYPE[given.precision]), cast(given.x, given.precision)

    def step() -> list[Tensor]:
        model.zero_grad()
        losses(model(x), given.y).sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    return step


def _private(per_record: Fast | Oracle, given: Task) -> Step:
    weights = per_record.layout.flat(given.model)

    def step() -> list[Tensor]:
        return [
            clip_truncate_sum(
                per_record(weights, given.x, given.y)[0], given.clip_norm, TRUNCATION, given.passes
            ).total
        ]

    return step


class _Free:
    def charge(self, step: int) -> None:
        """Random records cost nothing."""


def _whole_step(per_record: Fast | Oracle, given: Task) -> Step:
    """A whole private step with coins, noise and mixing, seeded.

    What the same step makes of no records is taken away, and the sum remains.
    """
    rows, weights = len(given.x), per_record.layout.flat(given.model)
    phase = Phase(
        steps=1,
        noise_multiplier=1.0,
        clip_norm=given.clip_norm,
        learning_rate=1.0,
        truncation=TRUNCATION,
        gap=0.15,
    )
    plan = Plan(dataset_size=rows, sample_rate=1.0, batch_size=rows, phases=(phase,), delta=1e-5)

    def released(gradients: Gradients, records: int) -> Tensor:
        run = Run(plan=plan, ledger=_Free(), randomness=Randomness(0), records=records)
        execution = Execution(passes=given.passes, ahead=by_thread)
        return private_step(
            run, 1, weights, weights, gradients=gradients, execution=execution
        ).weights

    alone = released(lambda at, batch: [], 0)
    return lambda: [
        rows * (alone - released(lambda at, batch: [per_record(at, given.x, given.y)[0]], rows))
    ]


def _opacus(given: Task, *, functorch: bool) -> Step:
    """Opacus' per-record gradients, clipped as its optimizer does; it cannot truncate."""
    from opacus import GradSampleModule

    module = copy.deepcopy(given.model).to(DTYPE[given.precision])
    x = cast(given.x, given.precision)
    model = GradSampleModule(module, loss_reduction="sum", force_functorch=functorch)

    def step() -> list[Tensor]:
        losses(model(x), given.y).sum().backward()
        rows = [parameter.grad_sample.flatten(1) for parameter in model.parameters()]
        factor = (
            given.clip_norm / (torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0) + 1e-6)
        ).clamp_max(1.0)
        released = [factor @ row for row in rows]
        model.zero_grad()
        return released

    return step


METHODS: dict[str, tuple[str, Callable[[Task], Step]]] = {  # name: what it sums, how it is made
    REFERENCE: ("sum", _without_privacy),
    "ours": ("cut", lambda given: _private(given.ours, given)),
    "ours, with noise and mixing": ("cut", lambda given: _whole_step(given.ours, given)),
    "vmap(grad)": (
        "cut",
        lambda given: _private(Oracle(given.model, losses, given.precision), given),
    ),
    "opacus, hooks": ("clipped", lambda given: _opacus(given, functorch=False)),
    "opacus, functorch": ("clipped", lambda given: _opacus(given, functorch=True)),
}


# ---------------------------------------------------------------------------------------- measuring


def _error(step: Step, expected: Tensor) -> float | None:
    """Difference from the loop's sum, relative to it; None if that is not finite."""
    measured = torch.cat([part.flatten() for part in step()]).double()
    error = float((measured - expected).norm() / expected.norm())
    return error if isfinite(error) else None


def _peak_bytes(step: Step, device: torch.device) -> int:
    """Most bytes that one call holds at once, beside what was held before."""
    if device.type == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    return _peak(seen)


def _peak(seen: profile) -> int:
    """The largest running sum of what torch's CPU allocator gave and took back."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    moves = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    return max(accumulate((moved for _, moved in moves), initial=0))


def measure(
    *,
    model: str = "resnet20",
    batch_size: int = 64,
    device: str = "cpu",
    precision: str = "float32",
    rounds: int = 10,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> dict[str, object]:
    """Errors, times, rates and memory of all methods on this machine, as one JSON object.

    Args:
        model: linear, cnn, resnet20 or module:function, for records of 3 x 32 x 32 in 10 classes.
        batch_size: records of a step, all handled at once.
        device: "cpu" or "cuda".
        precision: "float32", "tf32" or "bf16", of forward and backward passes.
        rounds: times that every method is called; the smallest counts.
        progress: passes on the numbers of the rounds, and may show them.
    """
    rounds = validate.count("rounds", rounds)
    validate.choice("precision", precision, tuple(DTYPE))
    given = task(model, validate.count("batch_size", batch_size), device, precision)
    clock = Clock(device)
    kernels = given.ours.tune(given.x, given.y)
    reading, read = clip_kernels.chosen(device)
    given = replace(given, passes=reading)
    with warnings.catch_warnings(), arithmetic(precision):
        warnings.simplefilter("ignore")  # those of torch and opacus about each other
        rows, steps = _checked(given)
        taken = _in_turns(steps, clock, progress(range(-WARM, rounds)))
        for name, times in taken.items():
            rows[name] |= {
                "milliseconds": 1e3 * min(times),
                "median_milliseconds": 1e3 * median(times),
            }
            rows[name] |= {
                "records_per_second": batch_size / min(times),
                "peak_bytes": _peak_bytes(steps[name], given.x.device),
            }
    for name in taken if REFERENCE in taken else ():
        rows[name]["ratio"] = min(taken[name]) / min(taken[REFERENCE])
    name = torch.cuda.get_device_name() if clock.cuda else _processor()
    return {
        "model": model,
        "parameters": Layout(given.model).total,
        "batch_size": batch_size,
        "dtype": precision,
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "time": f"{clock.name}, smallest of {rounds} rounds in which all methods took turns",
        "norms_and_sums": read,
        "kernels": {str(shape): chosen for shape, chosen in kernels.items()},
        "counted": _counted(given, name),
        "methods": list(rows.values()),
    }


def _counted(given: Task, device: str) -> dict[str, dict[str, float]]:
    """Operations and bytes of a step without and with privacy, and the least time for them on a
    known device."""
    card, work_of = flops.card(device), {}
    for name, work in flops.steps(
        given.model, losses, SHAPE, len(given.x), given.precision
    ).items():
        work_of[name] = {"operations": work.operations, "bytes": work.bytes}
        if card is not None:
            work_of[name]["floor_milliseconds"] = 1e3 * work.floor(card, given.precision)
    return work_of


def _processor() -> str:
    """The name of the CPU, as far as it is told."""
    told = Path("/proc/cpuinfo")
    lines = (
        [line for line in told.read_text().splitlines() if line.startswith("model name")]
        if told.exists()
        else []
    )
    return (
        lines[0].partition(":")[2].strip() if lines else platform.processor() or platform.machine()
    )


def _checked(given: Task) -> tuple[dict[str, dict[str, object]], dict[str, Step]]:
    """Every method's error, and the steps of those that agree with the loop."""
    rows, steps = {}, {}
    for name, (kind, make) in METHODS.items():
        rows[name] = {"method": name}
        try:
            step = make(given)
            rows[name]["error"] = error = _error(step, given.expected[kind])
        except (
            ImportError,
            RuntimeError,
        ) as reason:  # not installed, not for this model, or out of memory
            rows[name]["absent"] = (str(reason) or type(reason).__name__).splitlines()[0]
            continue
        if error is not None and error <= ERROR_TOLERANCE[given.precision]:
            steps[name] = step
        else:
            rows[name]["absent"] = f"refused: it disagrees with the loop, error {error}"
    return rows, steps


def _in_turns(
    steps: dict[str, Step], clock: Clock, rounds: Iterable[int]
) -> dict[str, list[float]]:
    """Seconds of every call, rounds of all methods; those with negative numbers warm up."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in rounds:
        for name, step in steps.items():
            seconds = clock.seconds(step)
            if number >= 0:
                taken[name].append(seconds)
    return taken


def table(measured: dict[str, object]) -> str:
    """The measurement for people."""
    counted = [
        f"counted, {name}: {work['operations'] / 1e9:.2f} GFLOP, {work['bytes'] / 1e9:.3f} GB"
        + (
            f", at least {work['floor_milliseconds']:.2f} ms"
            if "floor_milliseconds" in work
            else ""
        )
        for name, work in measured["counted"].items()
    ]
    lines = [
        f"{measured['model']}, {measured['parameters']:,} parameters, "
        f"batch of {measured['batch_size']}, {measured['dtype']}",
        f"{measured['device']}, {measured['threads']} threads, "
        f"torch {measured['torch']}; {measured['time']}",
        *counted,
        f"norms and sums: {measured['norms_and_sums']}",
        *(
            f"weight gradients of {shape}: {chosen}"
            for shape, chosen in measured["kernels"].items()
        ),
        f"{'':30s}{'ms':>9s}{'records/s':>11s}{'ratio':>7s}{'peak MB':>9s}{'error':>10s}",
    ]
    for row in measured["methods"]:
        if "absent" in row:
            lines.append(f"{row['method']:30s}{row['absent']}")
            continue
        lines.append(
            f"{row['method']:30s}{row['milliseconds']:9.1f}{row['records_per_second']:11.0f}"
            f"{row.get('ratio', float('nan')):7.2f}{row['peak_bytes'] / 1e6:9.0f}{row['error']:10.1e}"
        )
    return "\n".join(lines)
