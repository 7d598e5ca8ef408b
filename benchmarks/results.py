"""What was measured, one line of JSON for each stage of each case, kept while the rest is running."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine
from benchmarks.timing import Latency
from benchmarks.vectors import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One engine over one case. `memory` in MiB, `build` in seconds; what is None was not measured."""

    engine: str
    alone: Latency | None = None
    together: Latency | None = None
    recall: float | None = None
    own: float | None = None
    build: float | None = None
    memory: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage found: rows of the table, and other figures by name."""

    rows: list[Row] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    case: Case
    stage: str
    machine: Machine
    outcome: Outcome


class Results:
    """Appended to a file; the last record of a case and stage counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, record: Record) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def all(self) -> list[Record]:
        if not self._path.exists():
            return []
        found: dict[tuple[Case, str], Record] = {}
        for line in self._path.read_text().splitlines():
            record = _record(json.loads(line))
            found[record.case, record.stage] = record
        return list(found.values())

    def of(self, case: Case, stage: str, commit: str) -> Record | None:
        """What was measured at that commit."""
        return next(
            (r for r in self.all() if (r.case, r.stage, r.machine.commit) == (case, stage, commit)),
            None,
        )


def outcome(told: dict[str, Any]) -> Outcome:
    return Outcome([_row(row) for row in told["rows"]], told["facts"])


def rows_of(records: Sequence[Record], case: Case) -> list[Row]:
    return [row for record in records if record.case == case for row in record.outcome.rows]


def _record(told: dict[str, Any]) -> Record:
    return Record(
        Case(**told["case"]), told["stage"], Machine(**told["machine"]), outcome(told["outcome"])
    )


def _row(told: dict[str, Any]) -> Row:
    latencies = {
        name: None if told[name] is None else Latency(**told[name])
        for name in ("alone", "together")
    }
    return Row(**{**told, **latencies})
