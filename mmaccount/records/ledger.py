"""What a training run has released so far. A ledger only grows.

Why it never under-reports:

1. A step is charged before it looks at any data (step 1 of `private_step` in trainer/mechanism.py;
   tests/training/test_mechanism.py::test_the_charge_comes_first_and_a_failed_charge_stops_the_step).
2. `LedgerFile.charge` returns when the step is on disk: the file is written aside, flushed, put in
   place by one rename, and its folder is flushed (files.write; tests/records/test_records.py::
   test_file_is_written_before_charge_returns_and_only_grows). A crash leaves the old file or the new
   one. That a disk keeps what it was told to flush is assumed, not tested.
3. One process writes: another one, or a changed file, stops the run (test_another_process_is_kept_out).
4. A run that is resumed refuses a ledger that holds less than its last checkpoint knows of, and
   charges steps that it does again once more (tests/training/test_training.py::test_many_kills,
   test_a_ledger_that_was_moved_back_is_refused). Steps charged since that checkpoint, whose results
   nobody kept, are not missed if somebody takes them out by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmaccount.records import files, validate
from mmaccount.records.plan import Plan
from mmaccount.records.settings import Settings

SCHEMA = 1
KEYS = {"schema", "plan", "fingerprint", "seeded", "runs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The steps that were charged, as runs of consecutive steps; a step that was redone is in two
    runs and counts twice.

    Args:
        plan: the plan these are steps of.
        runs: (first, last) step numbers, both included, in the order they were charged. No run
            spans two phases.
        seeded: whether the randomness could be repeated. A seeded run is for tests: its guarantee
            is void.
    """

    plan: Plan
    runs: tuple[tuple[int, int], ...] = ()
    seeded: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.seeded, bool):
            raise ValueError(f"`seeded` must be true or false, got {self.seeded!r}.")
        for first, last in self.runs:
            if first > last or self.plan.phase_of(first) != self.plan.phase_of(last):
                raise ValueError(
                    f"`runs` of the ledger must be (first, last) within one phase, got ({first}, "
                    f"{last})."
                )

    @property
    def charged(self) -> int:
        """Number of steps charged, repeated ones counted as often as they were run."""
        return sum(last - first + 1 for first, last in self.runs)

    @property
    def distinct(self) -> int:
        """Number of different steps among them; `charged - distinct` were redone."""
        count, end = 0, 0
        for first, last in sorted(self.runs):
            count += max(0, last - max(first - 1, end))
            end = max(end, last)
        return count

    def with_step(self, step: int) -> "Ledger":
        """The ledger with one step more charged. A step beyond the plan is a ValueError."""
        phase = self.plan.phase_of(step)
        if self.runs:
            first, last = self.runs[-1]
            if step == last + 1 and self.plan.phase_of(last) == phase:
                return replace(self, runs=(*self.runs[:-1], (first, step)))
        return replace(self, runs=(*self.runs, (step, step)))

    def steps_of(self, phase: int) -> int:
        """Number of steps charged in phase number `phase`."""
        return sum(
            last - first + 1 for first, last in self.runs if self.plan.phase_of(first) == phase
        )

    def settings(self) -> list[Settings]:
        """What was charged, and released before, as an accountant takes it; equal to
        `plan.settings()` once every step was charged once. Empty if nothing was."""
        counts = [self.steps_of(index) for index in range(len(self.plan.phases))]
        trained = [self.plan.priced(index, count) for index, count in enumerate(counts) if count]
        return [release.settings(self.plan.neighbours) for release in self.plan.releases] + trained

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON. The plan is in it: a ledger can be
        priced by itself."""
        runs = [list(run) for run in self.runs]
        plan = self.plan.to_dict()
        return {
            "schema": SCHEMA,
            "plan": plan,
            "fingerprint": self.plan.fingerprint,
            "seeded": self.seeded,
            "runs": runs,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ledger":
        """The inverse of `to_dict`; anything that does not fit is a ValueError."""
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"`schema` of the ledger must be {SCHEMA}, got {data.get('schema')!r}."
            )
        if set(data) != KEYS:
            raise ValueError(
                f"the ledger must have the keys {', '.join(sorted(KEYS))}, got "
                f"{', '.join(sorted(data))}."
            )
        if not isinstance(data["plan"], dict) or not isinstance(data["runs"], list):
            raise ValueError("`plan` of the ledger must be an object, `runs` a list.")
        plan = Plan.from_dict(data["plan"])
        if data["fingerprint"] != plan.fingerprint:
            raise ValueError("`fingerprint` of the ledger does not fit the plan inside it.")
        return cls(plan=plan, runs=tuple(_run(run) for run in data["runs"]), seeded=data["seeded"])

    @classmethod
    def load(cls, path: str | Path) -> "Ledger":
        """Read a ledger file."""
        return cls.from_dict(files.read(path, "ledger"))


def _run(run: object) -> tuple[int, int]:
    if not isinstance(run, list) or len(run) != 2:
        raise ValueError(f"`runs` of the ledger must be pairs [first, last], got {run!r}.")
    return validate.count("first", run[0]), validate.count("last", run[1])


class LedgerFile:
    """The one writer of a ledger file; a second one, also in another process, is refused.

    `charge(step)` returns when the step is on disk. Call it before the step looks at any data: a
    crash can then only charge a step whose result nobody saw, never the other way round.

    Args:
        path: the file; it is created if it does not exist. `path` with `.lock` appended is held
            while this is open.
        plan: the plan the ledger belongs to; a ledger of another plan is refused.
        seeded: whether the run's randomness can be repeated; a run cannot change from one to the
            other.
        at_least: number of charged steps that the caller knows of; a ledger with fewer is refused.
    """

    def __init__(
        self, path: str | Path, plan: Plan, *, seeded: bool = False, at_least: int = 0
    ) -> None:
        self.path = Path(path)
        try:
            self._lock = files.lock(f"{self.path}.lock")
        except BlockingIOError as error:
            raise ValueError(f"ledger {path} is in use by another run.") from error
        try:
            self.ledger = self._start(plan, seeded, at_least)
        except ValueError:
            self.close()
            raise

    def _start(self, plan: Plan, seeded: bool, at_least: int) -> Ledger:
        if not self.path.exists():
            ledger = Ledger(plan=plan, seeded=seeded)
            if not at_least:
                files.write(self.path, ledger.to_dict())
        else:
            ledger = Ledger.load(self.path)
        if ledger.plan != plan:
            raise ValueError(
                f"ledger {self.path} belongs to another plan ({ledger.plan.fingerprint[:12]})."
            )
        if ledger.seeded != seeded:
            raise ValueError(
                f"ledger {self.path} has `seeded` {ledger.seeded}: a run cannot change it."
            )
        if ledger.charged < at_least:
            raise ValueError(
                f"ledger {self.path} holds {ledger.charged} steps, but {at_least} were run: it was "
                "moved back."
            )
        return ledger

    def charge(self, step: int) -> None:
        """Put one step on disk. ValueError: it is beyond the plan, the file was changed by somebody
        else, or closed."""
        grown = self.ledger.with_step(step)
        if self._lock < 0:
            raise ValueError(f"ledger {self.path} was closed: another run may be writing it.")
        if not self.path.exists() or Ledger.load(self.path) != self.ledger:
            raise ValueError(
                f"ledger {self.path} was changed or removed while the run was going on."
            )
        files.write(self.path, grown.to_dict())
        self.ledger = grown

    def close(self) -> None:
        """Let another run write."""
        if self._lock >= 0:
            files.unlock(self._lock)
            self._lock = -1
