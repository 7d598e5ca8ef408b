"""The search figures as tables for the documentation, between two marks in the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import stages
from benchmarks.results import Record, Row, rows_of
from benchmarks.timing import BUDGET_S, CLIENTS, Latency
from benchmarks.vectors import FACES_EACH, KINDS, NEAREST, PROBES, Case

NEW_PAGE = "# Benchmarks\n\n"
ORDER = (
    stages.OURS,
    stages.RAW,
    stages.RAW_FLAT,
    stages.NUMPY,
    stages.OURS_FOUND,
    stages.OURS_HTTP,
)

ABOUT = f"""\
## Search

`make bench`. Nearest {NEAREST} faces of one probe by cosine, at most {PROBES:,} probes, fewer where they would
have taken more than {BUDGET_S:.0f} s (`calls`). A probe is another photograph of a person in the gallery, and
not in it itself. `recall@{NEAREST}`: share of the exact nearest {NEAREST} that were answered. `own photos`:
share of the person's {FACES_EACH} faces that are among the {NEAREST} answers. `{CLIENTS} clients`: as many
threads, or over HTTP connections from two other processes, that ask again as soon as they are answered, on the
same cores. Memory is what the process grew by (facesearch; at least what the index itself reports; over HTTP
the service, once loaded, more than with nothing in the database), the vectors alone (flat, numpy), or the index
on disk (pgvector).

The vectors are made up (`benchmarks/vectors.py`), {FACES_EACH} faces of each person with a mean cosine of about
0.7 to each other, for lack of a million real ones. `real-like`: the variance between people falls as k^-0.75
over the directions, that within a person as k^-0.35, in axes turned at random. `isotropic`: all directions
alike, where strangers are all equally far and the ranks after the person's own faces are noise: the hard case.

*FAISS, the same index* is the limit: the very codes of facesearch's index with a shortlist of the same length,
compared exactly by `IndexRefine`, in C++ alone, in a loop of bare calls that takes turns with facesearch's.
*Searcher.find* is the whole of a search in process, with the database naming who was found, *POST /find* the
same through the service.

*DeepFace* runs in an environment of its own, with its Dlib model, its detector opencv and one photograph as the
probe, over a folder of small files with a datastore in its own format; the time of the probe alone is taken off.
Its second figure is the longest of the runs. It is measured at 1,000 and 10,000 files; other sizes are
extrapolated by the line through both.
"""


def write(page: Path, records: Sequence[Record]) -> None:
    """Put the tables into the page; whatever else it holds stays."""
    put(page, "search", render(records), NEW_PAGE)


def put(page: Path, name: str, tables: str, new_page: str) -> None:
    """Put the tables between the marks of that name; at the end of the page if it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text() if page.exists() else new_page
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{begin}\n{tables}\n{end}{after}")


def render(records: Sequence[Record]) -> str:
    parts = [ABOUT, _machines(records), _summary(records)]
    for kind in KINDS:
        for dimension in sorted({r.case.dimension for r in records}):
            cases = sorted(
                {r.case for r in records if (r.case.kind, r.case.dimension) == (kind, dimension)},
                key=lambda case: case.faces,
            )
            if cases:
                parts.append(_table(f"### {kind}, {dimension} dimensions", cases, records))
    return "\n\n".join(part.strip() for part in parts)


def _machines(records: Sequence[Record]) -> str:
    found = dict.fromkeys(str(record.machine) for record in records)
    return "\n".join(f"Measured on {machine}." for machine in found)


def _summary(records: Sequence[Record]) -> str:
    """How facesearch compares with the limit, what it needs, how soon it is there."""
    lines = [
        "| faces | dimensions | vectors | p50 ms in process | own photos | recall@10 | times FAISS "
        "| memory / vectors | HTTP more, ms | ready, s: empty | from database | from snapshot |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        line
        for case in sorted({r.case for r in records}, key=lambda c: (c.dimension, c.faces, c.kind))
        if (line := _line(case, records))
    ]
    return "### In short\n\n" + "\n".join(lines) + "\n\n" + SUMMARY_NOTE


SUMMARY_NOTE = """\
*In process* is `Searcher.find`; *times FAISS* is the index alone against FAISS with the same index, the
medians; *memory* is against the vectors as float32; *HTTP more* is the median of `POST /find` less that of
`Searcher.find`, one client; *ready* is the time from the start of the service's process until `/readyz`
answers 200: with nothing in the database, with the faces to be read from it, and with a snapshot, whose
files are in the system's cache."""


def _line(case: Case, records: Sequence[Record]) -> str:
    rows = {row.engine: row for row in rows_of(records, case)}
    facts = {k: v for r in records if r.case == case for k, v in r.outcome.facts.items()}
    ours, raw, found, http = (
        rows.get(name) for name in (stages.OURS, stages.RAW, stages.OURS_FOUND, stages.OURS_HTTP)
    )
    best = found or ours
    if best is None:
        return ""
    cells = [
        f"{case.faces:,}",
        str(case.dimension),
        case.kind,
        _number(_p50(found), 2),
        _number(best.own, 4),
        _number(best.recall, 4),
        _number(_ratio(_p50(ours), _p50(raw)), 2),
        _number(_ratio(ours.memory if ours else None, case.megabytes), 2),
        _number(_less(_p50(http), _p50(found)), 2),
        *(_number(facts.get(name), 1) for name in ("empty_s", "cold_s", "restart_s")),
    ]
    return f"| {' | '.join(cells)} |"


def _table(title: str, cases: Sequence[Case], records: Sequence[Record]) -> str:
    lines = [
        title,
        "",
        "| faces | engine | p50 / p99 ms | calls | 16 clients: p50 / p99 ms | a second "
        "| recall@10 | own photos | build s | memory MiB | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        lines += [_cells(case, row) for row in _ordered(rows_of(records, case))]
    return "\n".join(lines)


def _ordered(rows: Sequence[Row]) -> Iterator[Row]:
    yield from (row for name in ORDER for row in rows if row.engine == name)
    yield from (row for row in rows if row.engine not in ORDER)


def _cells(case: Case, row: Row) -> str:
    cells = [
        f"{case.faces:,}",
        row.engine,
        _latency(row.alone),
        str(row.alone.calls) if row.alone and row.alone.calls else "-",
        _latency(row.together),
        _number(row.together.per_second if row.together else None, 0),
        _number(row.recall, 4),
        _number(row.own, 4),
        _number(row.build, 1),
        _number(row.memory, 0),
        row.note,
    ]
    return f"| {' | '.join(cells)} |"


def _latency(found: Latency | None) -> str:
    return "-" if found is None else f"{_short(found.p50)} / {_short(found.p99)}"


def _short(value: float | None) -> str:
    """Three digits that count."""
    return _number(value, 0 if value is None or value >= 100 else 1 if value >= 10 else 2)


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:,.{places}f}"


def _p50(row: Row | None) -> float | None:
    return None if row is None or row.alone is None else row.alone.p50


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
