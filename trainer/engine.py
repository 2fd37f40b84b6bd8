"""A private training run as an object: bring a model, a per-record loss, data and a plan, and call `step()`.

Argument names are those of Opacus where they mean the same. What Opacus takes from a data loader (sampling rate, number of
steps, batch size) and from `make_private` (noise, clipping) is in the plan.
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
MOST = 4096  # records handled at a time


class PrivateTrainer:
    """One run, in folder `out`: `ledger.json`, `checkpoint.pt` and, private, `private.jsonl`.

    In every process of a torch.distributed process group, if one is initialised: all make the trainer and call its methods
    alike, each does its share of every step, all hold the same weights, and the first one writes the files. When a process
    dies, `step()` raises ConnectionError in the others; let it end them, since some may still wait for them.

    Args:
        module: the model; it is changed in place, to the newest published iterate.
        criterion: function of (outputs, targets) to one loss per record, for example CrossEntropyLoss(reduction="none").
        data: (inputs, targets), one row per record. They are moved to `device` once.
        plan: what is carried out.
        out: folder of the run; an earlier run in it must be continued by `resume()`.
        prepare: function of a batch of inputs to what the model takes (for example uint8 to float); constants only.
        classes: number of classes, if targets are labels.
        update: momentum, weight decay, averaging.
        augmentation: flips, crops and how many views of each record.
        max_physical_batch_size: most records handled at a time, a matter of memory only; by default by size of the model.
        device: "cpu" or "cuda"; with several processes the current CUDA device of each.
        seed: None takes randomness from the operating system. A number makes the run repeatable and void as a guarantee; the
            quickest way of convolutions, which decides how they round, is then not looked for.
        checkpoint_every: steps between checkpoints. Steps after the last one are charged again when they are redone.
        precision: "float32", "tf32" or "bf16", of forward and backward pass only; see `trainer.gradients.precision`.

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
        checks.device(device)
        self.processes = processes.here(device)
        checks.module(module)
        checks.data(plan, *data, classes)
        self.plan, self.update, self.augmentation = (
            plan,
            update or Update(),
            augmentation or Augmentation(),
        )
        self.update.allowed(plan)
        self.precision = validate.choice("precision", precision, tuple(DTYPE))
        self.augmentation(
            data[0][:0], torch.arange(0), 0
        )  # no record: only whether the shape will do
        self.module, self.prepare, self.randomness = module.to(device), prepare, Randomness(seed)
        self.x, self.y = (part.to(device) for part in data)
        self.layout, self.checkpoint_every = (
            Layout(module),
            validate.count("checkpoint_every", checkpoint_every),
        )
        room = MEMORY[torch.device(device).type] // (
            4 * self.layout.total * self.augmentation.views
        )
        most = max_physical_batch_size
        most = (
            (min(MOST, room - room % 16) or 1)
            if most is None
            else validate.count("max_physical_batch_size", most)
        )
        self.chunk = physical_batch_size(
            plan.batch_size / self.processes.size, plan.sample_rate, most
        )
        processes.same_everywhere(self.processes, self._identity() | {"seed": str(seed)}, data)
        processes.same_start(self.processes, self.module)
        with arithmetic("float32"):
            example = self._example(classes)
            checks.rowwise(self.prepare, self._raw(checks.ROWS))
            checks.isolated(self.module, criterion, example)
            self.per_record = checks.per_record(self.module, criterion, example, self.precision)
        everywhere = partial(processes.everywhere, self.processes)
        if not everywhere(lambda: isinstance(self.per_record, Fast)):
            self.per_record = Oracle(self.module, criterion, self.precision)
        weights = self.layout.flat(self.module)
        rows = self.chunk * self.augmentation.views
        # Seeded runs stay repeatable: how convolutions round follows from which way was quicker.
        self.kernels = self.per_record.tune(*example(rows), self.processes) if seed is None else {}
        self.passes, self.passes_are = clip_kernels.chosen(device, self.processes)
        self.exact = everywhere(
            lambda: checks.same_anywhere(self.per_record, weights, example, rows)
        )
        self.exact &= processes.same_bits(
            self.processes, partial(self._some_gradients, weights), example(rows)
        )
        self.out, self.step_number = Path(out), 0
        self.state = self.update.start(weights)
        if plan.adaptive:
            self.state["clip_norm"] = torch.tensor(plan.phases[0].clip_norm, dtype=torch.float64)
        self._file: LedgerFile | None = None
        new = everywhere(lambda: not self._ledger.exists())
        self._ready = bool(
            self.processes.from_first(lambda: self._opened(seed is not None, new), (1,))
        )

    def _some_gradients(self, weights: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
        return [one[: checks.ROWS] for one in self.per_record(weights, x, y)[0]]

    def _opened(self, seeded: bool, new: bool) -> Tensor:
        """Open the ledger; 1 if the run starts here. Restarted elsewhere, the first process may not see what it wrote."""
        if not (new or self._ledger.exists()):
            raise ValueError(
                f"{self.out} holds an earlier run where another process is: start the first one there."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        self._file = LedgerFile(self._ledger, self.plan, seeded=seeded)
        fresh = not self.ledger.runs and not self._checkpoint.exists()
        if fresh:
            self.save()
        return torch.tensor([float(fresh)])

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
        return (
            float(self.state["clip_norm"])
            if self.plan.adaptive
            else self._phase(self.step_number + 1).clip_norm
        )

    def _phase(self, number: int) -> Phase:
        return self.plan.phases[self.plan.phase_of(number)]

    def _following(self, number: int, released: Released) -> Tensor:
        """The clip norm after step `number`: what it released, or the next phase's own."""
        stays = number == self.plan.steps or self.plan.phase_of(number + 1) == self.plan.phase_of(
            number
        )
        return torch.tensor(
            released.clip_norm if stays else self._phase(number + 1).clip_norm, dtype=torch.float64
        )

    @property
    def _run(self) -> Run:
        return Run(
            plan=self.plan, ledger=self._file, randomness=self.randomness, records=len(self.x)
        )

    def ready(self) -> None:
        """Refuse to go on with a run that was left and not resumed."""
        if not self._ready:
            raise ValueError(
                f"{self.out} holds an earlier run: resume it, or choose another folder."
            )

    def step(self) -> int:
        """One private step; returns its number. After the plan's last step this raises ValueError and touches no data."""
        self.ready()
        number, losses = self.step_number + 1, [torch.empty(0)]
        phase, clip_norm = self._phase(number), self.clip_norm()
        released = private_step(
            self._run,
            number,
            self.state["weights"],
            self.state["last"],
            gradients=chunked(
                self.per_record,
                self._batches(number),
                self.chunk,
                self.augmentation.views,
                lambda made: losses.append(made.cpu()),
            ),
            drift=self.update.drift(self.state),
            clip_norm=clip_norm,
            execution=Execution(processes=self.processes, passes=self.passes, ahead=by_thread),
        )
        self._ready = False  # until every process has made the step its own

        def completed() -> Tensor:
            self.state = self.update.after(self.state, phase, number, released)
            if self.plan.adaptive:
                self.state["clip_norm"] = self._following(number, released)
            self.step_number = number
            self.layout.load(self.module, self.state["weights"])
            return private_log.sum_and_count(torch.cat(losses))

        loss = self.processes.summed(completed, (2,))
        self._ready = True
        processes.only_first(self.processes, lambda: self._write(number, released, loss, clip_norm))
        return number

    def released(self) -> Tensor:
        """The weights to publish: the last iterate, or the average of iterates if one is kept."""
        return self.state["ema" if self.update.ema else "weights"]

    def save(self) -> None:
        """Write the checkpoint, atomically: published values only, no randomness. Nothing in processes but the first."""
        if self._file is None:
            return
        buffer = io.BytesIO()
        about = {
            "step": self.step_number,
            "charged": self.ledger.charged,
            "identity": self._identity(),
        }
        torch.save(
            {"about": about, "state": {name: value.cpu() for name, value in self.state.items()}},
            buffer,
        )
        files.write_bytes(self._checkpoint, buffer.getvalue())

    def resume(self) -> int:
        """Continue from the checkpoint; returns its step number. A changed plan, model, update or data shape is refused,
        and so is a ledger that holds less than the checkpoint knows of. Steps after it will be redone and charged again.
        The number of processes may be another one."""
        state: dict[str, Tensor] = {}

        def loaded() -> Tensor:
            found = self._loaded()
            state.update(found["state"])
            return torch.tensor([found["about"]["step"]])

        number = int(self.processes.from_first(loaded, (1,), torch.int64))
        self.state = {
            name: self.processes.from_first(
                lambda name=name: state[name], tuple(value.shape), value.dtype
            ).to(value.device)
            for name, value in self.state.items()
        }
        self.step_number, self._ready = number, True
        self.layout.load(self.module, self.state["weights"])
        return self.step_number

    def _loaded(self) -> dict[str, dict]:
        if not self._checkpoint.exists():
            raise ValueError(f"{self.out} holds no checkpoint: there is nothing to resume.")
        found = torch.load(self._checkpoint, weights_only=True)
        about, mine = found["about"], self._identity()
        for name, value in mine.items():
            if (earlier := about["identity"].get(name)) != value:
                raise ValueError(f"{name} of the interrupted run was {earlier}, now it is {value}.")
        if self.ledger.charged < about["charged"]:
            raise ValueError(
                f"ledger holds {self.ledger.charged} steps, the checkpoint knows of {about['charged']}: it was moved back."
            )
        return found

    def close(self) -> None:
        """Release the ledger."""
        if self._file is not None:
            self._file.close()

    def _identity(self) -> dict[str, str]:
        layout = str(
            [
                (name, tuple(shape))
                for name, shape in zip(self.layout.names, self.layout.shapes, strict=True)
            ]
        )
        digest = hashlib.sha256(
            f"{type(self.module).__qualname__} {self.module} {layout}".encode()
        ).hexdigest()
        shape = f"{tuple(self.x.shape)} {self.x.dtype}, {tuple(self.y.shape)} {self.y.dtype}"
        made = {
            "plan": self.plan.fingerprint,
            "model": digest,
            "update": str(self.update),
            "data shape": shape,
        }
        return made | {"augmentation": str(self.augmentation), "precision": self.precision}

    def _raw(self, rows: int) -> Tensor:
        """Random inputs of the shape of the data, every other one smaller, the first too: a largest value is another's."""
        shape, kind = (rows, *self.x.shape[1:]), self.x.dtype
        x = torch.randn(shape) if kind.is_floating_point else torch.randint(0, 16, shape)
        x[::2] = (x[::2] / 2).to(x.dtype)
        return x.to(self.x)

    def _example(self, classes: int | None) -> checks.Example:
        """Random inputs and targets of the shapes of the data; no record is looked at."""

        def example(rows: int) -> tuple[Tensor, Tensor]:
            y_shape = (rows, *self.y.shape[1:])
            high = 2 if classes is None else classes
            y = (
                torch.randint(0, high, y_shape).to(self.y.dtype)
                if not self.y.is_floating_point()
                else torch.randn(y_shape)
            )
            return self.prepare(self._raw(rows)), y.to(self.y)

        return example

    def _batches(self, number: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        key = int(self.randomness.words("augmentation", number)(1)[0])

        def batch(indices: Tensor) -> tuple[Tensor, Tensor]:
            there = indices.to(self.x.device)
            views = self.augmentation(self.x[there], indices, key)
            return self.prepare(views), self.y[there].repeat_interleave(self.augmentation.views, 0)

        return batch

    def _write(self, number: int, released: Released, loss: Tensor, clip_norm: float) -> None:
        if number % self.checkpoint_every == 0 or number == self.plan.steps:
            self.save()
        private_log.write(self.out / "private.jsonl", number, released.norms, loss, clip_norm)
