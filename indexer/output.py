"""What people see: tables and lines on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from indexer import report

LONG_LIST = 8
WIDE = 200
"""Characters of a line of a table in a file or a pipe."""


def show(data: object, table: Sequence[Mapping[str, Any]] | None) -> None:
    """A table if there are rows for one, else a line per field."""
    console = _console()
    if table is not None:
        console.print(_table(table) if table else "nothing")
    elif isinstance(data, Mapping):
        for line in _lines(data, 0):
            console.print(line, markup=False, soft_wrap=True)
    else:
        console.print(_text(data), markup=False, soft_wrap=True)


def evaluation(result: Mapping[str, Any]) -> None:
    """Tables, what they rest on, and the block for a model's spec."""
    console = _console()
    console.print(f"{result['source']['name']}: {report.recipe_of(result)}\n", markup=False)
    for title, rows in report.tables(result):
        console.print(title, style="bold", markup=False)
        console.print(_table(rows), "")
    lines = report.notes(result)
    if result.get("no_plots"):
        lines.append(result["no_plots"])
    if result.get("written"):
        lines.append(f"Written: {', '.join(result['written'])}.")
    lines += [f"{one['file']}: {one['reason']}" for one in result.get("failures", ())]
    for line in [*lines, "", "For a model's spec:", "", result["spec"]]:
        console.print(line, markup=False, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(value) for value in row.values()))
    return table


def _lines(data: Mapping[str, Any], depth: int) -> list[str]:
    lines: list[str] = []
    for key, value in data.items():
        name = "  " * depth + key.replace("_", " ")
        if isinstance(value, Mapping) and value:
            lines += [f"{name}:", *_lines(value, depth + 1)]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{name}:")
            for item in value:
                first, *rest = _lines(item, depth + 2) or [""]
                lines += ["  " * (depth + 1) + "- " + first.lstrip(), *rest]
        else:
            lines.append(f"{name}: {_text(value)}")
    return lines


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_text(v) for v in value[:LONG_LIST])
        return f"[{shown}{', …' if len(value) > LONG_LIST else ''}] ({len(value)})"
    return str(value)


def _escaped(value: object) -> str:
    return _text(value).replace("[", "\\[")
