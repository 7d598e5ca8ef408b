"""Searching a million faces: ours beside raw FAISS, pgvector, numpy and DeepFace, in the same run.

    python -m benchmarks --sizes 10000,100000 --dimensions 128 --kinds real-like --skip deepface

Every stage's figures are kept in the scratch folder as soon as it is done; `--resume` goes on from
there, and `--render` only writes the table anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import deepface_env, report, stages
from benchmarks.machine import ROOT, Machine, say, this_machine
from benchmarks.results import Record, Results, outcome, rows_of
from benchmarks.vectors import KINDS, Case, forget
from service.settings import ServiceSettings, environment

SIZES = (10_000, 100_000, 1_000_000)
DIMENSIONS = (128, 512)
DEEPFACE = "deepface"
DEEPFACE_DIMENSION = 128
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Options:
    cases: tuple[Case, ...]
    stages: tuple[str, ...]
    scratch: Path
    page: Path
    resume: bool
    render: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--dimensions", default=",".join(map(str, DIMENSIONS)))
    parser.add_argument("--kinds", default=",".join(KINDS))
    known = ",".join((*stages.STAGES, DEEPFACE))
    parser.add_argument("--skip", default="", help=f"stages to leave out, of {known}")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "facesearch-benchmarks"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write the tables into")
    parser.add_argument("--resume", action="store_true", help="leave out what this commit has done")
    parser.add_argument("--render", action="store_true", help="only write the tables")


def options(given: argparse.Namespace) -> Options:
    cases = tuple(
        Case(kind, size, dimension)
        for size in sorted(map(int, given.sizes.split(",")))
        for dimension in map(int, given.dimensions.split(","))
        for kind in KINDS
        if kind in given.kinds.split(",")
    )
    left = tuple(s for s in (*stages.STAGES, DEEPFACE) if s not in given.skip.split(","))
    return Options(cases, left, given.scratch, given.page, given.resume, given.render)


def run(asked: Options) -> None:
    """Smallest cases first; the tables are written after each."""
    results = Results(asked.scratch / "results.jsonl")
    if not asked.render:
        machine = this_machine()
        if DEEPFACE in asked.stages:
            _deepface(asked, results, machine)
        for case in asked.cases:
            _measure(asked, results, machine, case)
            report.write(asked.page, results.all())
    report.write(asked.page, results.all())
    print(report.render(results.all()))


def _measure(asked: Options, results: Results, machine: Machine, case: Case) -> None:
    left = [
        name
        for name in asked.stages
        if name != DEEPFACE
        and not (asked.resume and results.of(case, name, machine.commit) is not None)
    ]
    # One process for each of those that count memory, one for all that share the database.
    apart = [[name] for name in left if name not in stages.IN_DATABASE]
    shared = [name for name in left if name in stages.IN_DATABASE]
    for names in (*apart, shared):
        if names:
            _keep(asked, results, machine, (case, names))
    forget(asked.scratch / "vectors", case)


def _keep(
    asked: Options, results: Results, machine: Machine, part: tuple[Case, Sequence[str]]
) -> None:
    """Run stages of a case and keep what they tell."""
    case, names = part
    wanted = next(
        (r.recall or 0.0 for r in rows_of(results.all(), case) if r.engine == stages.OURS), 0.99
    )
    say(f"{case.name}: {', '.join(names)}")
    arguments = [str(asked.scratch), json.dumps(asdict(case)), ",".join(names), str(wanted)]
    for line in _lines(arguments):
        told = json.loads(line)
        results.add(Record(case, told["stage"], machine, outcome(told["outcome"])))


def _lines(arguments: list[str]) -> Iterator[str]:
    """Numpy's threads are only bounded where it is a peer; facesearch runs as it does for users."""
    command = [sys.executable, "-m", "benchmarks.stages", *arguments]
    settings = environment(ServiceSettings())
    if arguments[2] == stages.FLAT:
        settings |= {"OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        say(f"FAILED, and left out: {' '.join(arguments[1:3])}")


def _deepface(asked: Options, results: Results, machine: Machine) -> None:
    """Once for all kinds of vectors: it makes no difference to it. Its Dlib has 128 dimensions."""
    cases = [c for c in asked.cases if c.dimension == DEEPFACE_DIMENSION]
    if asked.resume:
        cases = [c for c in cases if results.of(c, DEEPFACE, machine.commit) is None]
    if cases:
        found = deepface_env.measure(asked.scratch, sorted({case.faces for case in cases}))
        for case in cases:
            results.add(Record(case, DEEPFACE, machine, found[case.faces]))
