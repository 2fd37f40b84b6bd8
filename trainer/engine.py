"""A private training run as an object: bring a model, a per-record loss, data and a plan, and call
`step()`.

Argument names are those of Opacus where they mean the same. What Opacus takes from a data loader
(sampling rate, number of steps, batch size) and from `make_private` (noise, clipping) is in the
plan.
"""

import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmaccount.records import files, validate
from mmaccount.records.bound import Bound
from mmaccount.records.ledger import Ledger, LedgerFile
from mmaccount.records.plan import Phase, Plan
from trainer import checks, clip_kernels, pricing, private_log, processes
from trainer.ahead import by_thread
from trainer.augment import Augmentation
from trainer.gradients.per_record import Fast, Layout, Loss, Oracle, chunked, physical_batch_size
from trainer.gradients.precision import DTYPE, arithmetic
from trainer.mechanism import Execution, Randomness, Released, Run, private_step
from trainer.update import Update

MEMORY = {"cpu": 2**27, "cuda": 2**32}  # bytes of per-record gradients held at a time
MOST_ROWS = 4096  # records handled at a time


class PrivateTrainer:
    """One training run, in folder `out`: `ledger.json`, `checkpoint.pt` and, private, `private.jsonl`.

    In every process of a torch.distributed process group, if one is initialised: all make the
    trainer and call its methods alike, each does its share of every step, all hold the same
    weights, and the first one writes the files. When a process dies, `step()` raises
    ConnectionError in the others; let it end them, since some may still wait for them.

    Args:
        module: the model; it is changed in place, to the newest published iterate.
        criterion: function of (outputs, targets) to one loss per record, for example
            CrossEntropyLoss(reduction="none").
        data: (inputs, targets), one row per record. They are moved to `device` once.
        plan: what is carried out.
        out: folder of the run; an earlier run in it must be continued by `resume()`.
        prepare: function of a batch of inputs to what the model takes (for example uint8 to float);
            constants only.
        classes: number of classes, if targets are labels.
        update: momentum, weight decay, averaging.
        augmentation: flips, crops and how many views of each record.
        max_physical_batch_size: most records handled at a time, a matter of memory only; by default
            by size of the model.
        device: "cpu" or "cuda"; with several processes the current CUDA device of each.
        seed: None takes randomness from the operating system. A number makes the run repeatable and
            void as a guarantee; the quickest way of convolutions, which decides how they round, is
            then not looked for.
        checkpoint_every: steps between checkpoints. Steps after the last one are charged again when
            they are redone.
        precision: "float32", "tf32" or "bf16", of forward and backward pass only; see
            `trainer.gradients.precision`.

    Raises:
        ValueError: model, loss, data or folder do not fit; see `trainer.checks`.

    >>> import tempfile, torch
    >>> from mmaccount import Phase, Plan
    >>> phase = Phase(steps=20, noise_multiplier=2.0, clip_norm=1.0, learning_rate=0.5)
    >>> plan = Plan(dataset_size=60, sample_rate=0.5, batch_size=30, phases=(phase,), delta=1e-4)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     trainer = PrivateTrainer(
    ...         module=torch.nn.Linear(4, 3), criterion=torch.nn.CrossEntropyLoss(reduction="none"),
    ...         data=(torch.randn(60, 4), torch.arange(60) % 3), plan=plan, out=out, classes=3)
    ...     while trainer.step_number < plan.steps:
    ...         number = trainer.step()
    ...     trainer.close()
    >>> number, f"{trainer.epsilon().upper:.2f}"
    (20, '4.90')
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        criterion: Loss,
        data: tuple[Tensor, Tensor],
        plan: Plan,
        out: str | Path,
        prepare: Callable[[Tensor], Tensor] = Tensor.float,
        classes: int | None = None,
        update: Update | None = None,
        augmentation: Augmentation | None = None,
        max_physical_batch_size: int | None = None,
        device: str = "cpu",
        seed: int | None = None,
        checkpoint_every: int = 1,
        precision: str = "float32",
    ) -> None:
        self.plan, self.prepare, self.out, self.device = plan, prepare, Path(out), device
        self.update = update or Update()
        self.augmentation = augmentation or Augmentation()
        self.randomness = Randomness(seed)
        # Each step relies on those before it.
        self.precision = validate.choice("precision", precision, tuple(DTYPE))
        self.checkpoint_every = validate.count("checkpoint_every", checkpoint_every)
        if max_physical_batch_size is not None:
            max_physical_batch_size = validate.count(
                "max_physical_batch_size", max_physical_batch_size
            )
        self._check(module, data, classes)
        self._place(module, data)
        self.chunk = self._physical_batch_size(max_physical_batch_size)
        self._compare_processes(data)
        example = self._example(classes)
        self._choose_gradients(criterion, example)
        self._choose_kernels(example)
        self._start()
        self._open_ledger()

    # ------------------------------------------------------------- the steps of the start, in order

    def _check(self, module: nn.Module, data: tuple[Tensor, Tensor], classes: int | None) -> None:
        """Refuse what cannot be trained, before anything is moved, changed or written."""
        checks.device(self.device)
        checks.module(module)
        checks.data(self.plan, *data, classes)
        self.update.allowed(self.plan)
        no_record = data[0][:0]
        self.augmentation(no_record, torch.arange(0), 0)  # refuses a shape that it cannot augment

    def _place(self, module: nn.Module, data: tuple[Tensor, Tensor]) -> None:
        """Move model and data to the device."""
        self.processes = processes.here(self.device)
        self.module = module.to(self.device)
        self.x, self.y = (part.to(self.device) for part in data)
        self.layout = Layout(module)

    def _physical_batch_size(self, most: int | None) -> int:
        """Records handled at a time: at most so many, or as many as memory has room for."""
        if most is None:
            bytes_per_record = 4 * self.layout.total * self.augmentation.views
            room = MEMORY[torch.device(self.device).type] // bytes_per_record
            most = min(MOST_ROWS, room - room % 16) or 1
        share = self.plan.batch_size / self.processes.size
        return physical_batch_size(share, self.plan.sample_rate, most)

    def _compare_processes(self, data: tuple[Tensor, Tensor]) -> None:
        """Refuse a process started otherwise; give every process the first one's weights."""
        identity = self._identity() | {"seed": str(self.randomness.seed)}
        processes.same_everywhere(self.processes, identity, data)
        processes.same_start(self.processes, self.module)

    def _choose_gradients(self, criterion: Loss, example: checks.Example) -> None:
        """Refuse records that are not alone; take the quickest way to gradients that is right in
        every process."""
        with arithmetic("float32"):
            checks.rowwise(self.prepare, self._raw(checks.EXAMPLE_ROWS))
            checks.isolated(self.module, criterion, example)
            self.per_record = checks.per_record(self.module, criterion, example, self.precision)
        if not processes.everywhere(self.processes, lambda: isinstance(self.per_record, Fast)):
            self.per_record = Oracle(self.module, criterion, self.precision)

    def _choose_kernels(self, example: checks.Example) -> None:
        """Take the quickest kernels that agree, and see whether a record has the same bits
        everywhere."""
        rows = self.chunk * self.augmentation.views
        weights = self.layout.flat(self.module)
        self.kernels = {}
        if (
            self.randomness.seed is None
        ):  # seeded runs stay repeatable: the quickest way decides how convolutions round
            self.kernels = self.per_record.tune(*example(rows), self.processes)
        self.passes, self.passes_are = clip_kernels.chosen(self.device, self.processes)

        def same_anywhere() -> bool:
            return checks.same_anywhere(self.per_record, weights, example, rows)

        def some_gradients(x: Tensor, y: Tensor) -> list[Tensor]:
            gradients, _ = self.per_record(weights, x, y)
            return [gradient[: checks.EXAMPLE_ROWS] for gradient in gradients]

        self.exact = processes.everywhere(self.processes, same_anywhere)
        self.exact &= processes.same_bits(self.processes, some_gradients, example(rows))

    def _start(self) -> None:
        """The state before the first step."""
        self.step_number = 0
        self.state = self.update.start(self.layout.flat(self.module))
        if self.plan.adaptive:
            self.state["clip_norm"] = _number(self.plan.phases[0].clip_norm)

    def _open_ledger(self) -> None:
        """Open the ledger, in the first process; the run is ready if it starts here, else it has to
        be resumed.

        A first process that was restarted on another machine may not see what it wrote before.
        """
        self._file: LedgerFile | None = None
        new = processes.everywhere(self.processes, lambda: not self._ledger.exists())

        def starts_here() -> Tensor:
            if not (new or self._ledger.exists()):
                raise ValueError(
                    f"{self.out} holds an earlier run where another process is: "
                    "start the first one there."
                )
            self.out.mkdir(parents=True, exist_ok=True)
            seeded = self.randomness.seed is not None
            self._file = LedgerFile(self._ledger, self.plan, seeded=seeded)
            fresh = not self.ledger.runs and not self._checkpoint.exists()
            if fresh:
                self.save()
            return torch.tensor([float(fresh)])

        self._ready = bool(self.processes.from_first(starts_here, (1,)))

    # -------------------------------------------------------------------------------- what is known

    @property
    def ledger(self) -> Ledger:
        """What has been charged."""
        return Ledger.load(self._ledger) if self._file is None else self._file.ledger

    @property
    def _ledger(self) -> Path:
        return self.out / "ledger.json"

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def epsilon(self, delta: float | None = None) -> Bound:
        """What has been spent so far, at `delta` (default: the plan's)."""
        return pricing.spent(self.ledger, delta)

    def clip_norm(self) -> float:
        """The clip norm of the next step."""
        if self.plan.adaptive:
            return float(self.state["clip_norm"])
        return self._phase(self.step_number + 1).clip_norm

    def _phase(self, number: int) -> Phase:
        return self.plan.phases[self.plan.phase_of(number)]

    def _following(self, number: int, released: Released) -> float:
        """The clip norm after step `number`: what it released, or the next phase's own."""
        last = number == self.plan.steps
        if last or self.plan.phase_of(number + 1) == self.plan.phase_of(number):
            return released.clip_norm
        return self._phase(number + 1).clip_norm

    def ready(self) -> None:
        """Refuse to go on with a run that was left and not resumed."""
        if not self._ready:
            raise ValueError(
                f"{self.out} holds an earlier run: resume it, or choose another folder."
            )

    # --------------------------------------------------------------------------------------- a step

    def step(self) -> int:
        """One private step; returns its number.

        After the plan's last step this raises ValueError and touches no data.
        """
        self.ready()
        number = self.step_number + 1
        clip_norm = self.clip_norm()
        losses = [torch.empty(0)]
        gradients = chunked(
            self.per_record,
            self._batches(number),
            self.chunk,
            self.augmentation.views,
            lambda losses_of_chunk: losses.append(losses_of_chunk.cpu()),
        )
        released = private_step(
            Run(
                plan=self.plan,
                ledger=self._file,
                randomness=self.randomness,
                records=len(self.x),
            ),
            number,
            self.state["weights"],
            self.state["last"],
            gradients=gradients,
            drift=self.update.drift(self.state),
            clip_norm=clip_norm,
            execution=Execution(processes=self.processes, passes=self.passes, ahead=by_thread),
        )
        self._ready = False  # until every process has made the step its own
        loss = self.processes.summed(partial(self._completed, number, released, losses), (2,))
        self._ready = True
        record = partial(self._write, number, released, loss, clip_norm)
        processes.only_first(self.processes, record)
        return number

    def _completed(self, number: int, released: Released, losses: list[Tensor]) -> Tensor:
        """Make a released step this process's own; returns sum and count of its losses."""
        self.state = self.update.after(self.state, self._phase(number), number, released)
        if self.plan.adaptive:
            self.state["clip_norm"] = _number(self._following(number, released))
        self.step_number = number
        self.layout.load(self.module, self.state["weights"])
        return private_log.sum_and_count(torch.cat(losses))

    def _write(self, number: int, released: Released, loss: Tensor, clip_norm: float) -> None:
        if number % self.checkpoint_every == 0 or number == self.plan.steps:
            self.save()
        path = self.out / "private.jsonl"
        private_log.write(path, number, released.norms, loss, clip_norm)

    # -------------------------------------------------------------------------------------- results

    def released(self) -> Tensor:
        """The weights to publish: the last iterate, or the average of iterates if one is kept."""
        return self.state["ema" if self.update.ema else "weights"]

    def save(self) -> None:
        """Write the checkpoint, atomically: published values only, no randomness.

        The first process writes it; in the others this does nothing.
        """
        if self._file is None:
            return
        about = {
            "step": self.step_number,
            "charged": self.ledger.charged,
            "identity": self._identity(),
        }
        state = {name: value.cpu() for name, value in self.state.items()}
        buffer = io.BytesIO()
        torch.save({"about": about, "state": state}, buffer)
        files.write_bytes(self._checkpoint, buffer.getvalue())

    def resume(self) -> int:
        """Continue from the checkpoint; returns its step number.

        A changed plan, model, update or data shape is refused, and so is a ledger that holds less
        than the checkpoint knows of. Steps after it will be redone and charged again. The number of
        processes may be another one.
        """
        checkpoint = self.processes.in_first(self._loaded)
        number = int(
            self.processes.from_first(
                lambda: torch.tensor([checkpoint["about"]["step"]]), (1,), torch.int64
            )
        )

        def shared(name: str, like: Tensor) -> Tensor:
            value = self.processes.from_first(
                lambda: checkpoint["state"][name], tuple(like.shape), like.dtype
            )
            return value.to(like.device)

        self.state = {name: shared(name, value) for name, value in self.state.items()}
        self.step_number = number
        self._ready = True
        self.layout.load(self.module, self.state["weights"])
        return number

    def _loaded(self) -> dict[str, dict]:
        """The checkpoint, if it fits to this run and to the ledger."""
        if not self._checkpoint.exists():
            raise ValueError(f"{self.out} holds no checkpoint: there is nothing to resume.")
        checkpoint = torch.load(self._checkpoint, weights_only=True)
        about = checkpoint["about"]
        for name, value in self._identity().items():
            earlier = about["identity"].get(name)
            if earlier != value:
                raise ValueError(f"{name} of the interrupted run was {earlier}, now it is {value}.")
        if self.ledger.charged < about["charged"]:
            raise ValueError(
                f"ledger holds {self.ledger.charged} steps, "
                f"the checkpoint knows of {about['charged']}: it was moved back."
            )
        return checkpoint

    def close(self) -> None:
        """Release the ledger."""
        if self._file is not None:
            self._file.close()

    # ------------------------------------------------------------------------------- model and data

    def _identity(self) -> dict[str, str]:
        """What must not change between parts of a run, nor between its processes."""
        named = zip(self.layout.names, self.layout.shapes, strict=True)
        layout = str([(name, tuple(shape)) for name, shape in named])
        model = f"{type(self.module).__qualname__} {self.module} {layout}"
        inputs, targets = (f"{tuple(part.shape)} {part.dtype}" for part in (self.x, self.y))
        return {
            "plan": self.plan.fingerprint,
            "model": hashlib.sha256(model.encode()).hexdigest(),
            "update": str(self.update),
            "data shape": f"{inputs}, {targets}",
            "augmentation": str(self.augmentation),
            "precision": self.precision,
        }

    def _raw(self, rows: int) -> Tensor:
        """Random inputs of the shape of the data.

        Every other one is smaller, the first too, so that a largest value is another record's.
        """
        shape = (rows, *self.x.shape[1:])
        x = torch.randn(shape) if self.x.is_floating_point() else torch.randint(0, 16, shape)
        x[::2] = (x[::2] / 2).to(x.dtype)
        return x.to(self.x)

    def _example(self, classes: int | None) -> checks.Example:
        """Random inputs and targets of the shapes of the data; no record is looked at."""

        def example(rows: int) -> tuple[Tensor, Tensor]:
            shape = (rows, *self.y.shape[1:])
            if self.y.is_floating_point():
                y = torch.randn(shape)
            else:
                y = torch.randint(0, 2 if classes is None else classes, shape).to(self.y.dtype)
            return self.prepare(self._raw(rows)), y.to(self.y)

        return example

    def _batches(self, number: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """What gives inputs and targets of given records in step `number`, in random views."""
        key = int(self.randomness.words("augmentation", number)(1)[0])

        def batch(indices: Tensor) -> tuple[Tensor, Tensor]:
            rows = indices.to(self.x.device)
            inputs = self.augmentation(self.x[rows], indices, key)
            targets = self.y[rows].repeat_interleave(self.augmentation.views, 0)
            return self.prepare(inputs), targets

        return batch


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
