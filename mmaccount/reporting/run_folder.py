"""What the trainer left behind, read for people.

From the folder of a run are read `ledger.json`, and where they exist `metrics.jsonl`, `report.json`
and `audit.json`; never `private.jsonl`, which the guarantee does not cover.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmaccount.accounting.accountant import epsilon
from mmaccount.records import files, metrics
from mmaccount.records.bound import Bound
from mmaccount.records.ledger import Ledger
from mmaccount.records.plan import Plan

NOTHING_RELEASED = Bound(upper=0.0, lower=0.0, method="nothing released")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a report is made from.

    Attributes:
        name: of the file or folder.
        plan: what was planned.
        ledger: what was charged; None for a plan.
        metrics: rows of metrics.jsonl.
        said: report.json of the trainer.
        audit: audit.json, shown as it is; `lower` in it is a lower bound on epsilon at its `delta`,
            `passed` a verdict, `attacks` a list of rows (what `mmaccount audit --self --json`
            prints will do).
    """

    name: str
    plan: Plan
    ledger: Ledger | None = None
    metrics: tuple[dict[str, float], ...] = ()
    said: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None


def load(path: str | Path) -> Source:
    """Read a plan, a ledger or the folder of a run. What is missing or malformed is a ValueError of
    one line."""
    path = Path(path)
    if not path.is_dir():
        data = files.read(path, "plan")
        if "runs" not in data:
            return Source(name=path.name, plan=Plan.from_dict(data))
        ledger = Ledger.from_dict(data)
        return Source(name=path.name, plan=ledger.plan, ledger=ledger)
    ledger = Ledger.load(path / "ledger.json")
    said = _optional(path / "report.json")
    if said is not None and said.get("plan_fingerprint") != ledger.plan.fingerprint:
        raise ValueError(
            f"{path / 'report.json'} belongs to another plan than the ledger beside it."
        )
    return Source(
        name=path.resolve().name,
        plan=ledger.plan,
        ledger=ledger,
        metrics=tuple(metrics.load(path)),
        said=said,
        audit=_optional(path / "audit.json"),
    )


def _optional(path: Path) -> dict[str, Any] | None:
    return files.read(path, "record") if path.exists() else None


def spent(ledger: Ledger, *, delta: float, tight: bool = True) -> Bound:
    """Epsilon of everything that a ledger charges."""
    charged = ledger.settings()
    return epsilon(charged, delta=delta, tight=tight) if charged else NOTHING_RELEASED
