"""Parts of the search benchmark, each in a process of its own so that memory can be told.

    python -m benchmarks.stages SCRATCH CASE STAGES RECALL

Prints a line of JSON for every stage that is done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faiss
import numpy as np

from benchmarks import engine, load, pgvector, serving
from benchmarks.machine import MEGABYTE, megabytes, memory, say
from benchmarks.results import Outcome, Row
from benchmarks.timing import CLIENTS, Timed, alternately, many, one
from benchmarks.vectors import NEAREST, Case, Faces, blocks, own_photos, prepare, recall
from indexer.settings import Settings
from service.settings import ServiceSettings

INDEX, FLAT, HTTP, SEARCHER, PGVECTOR = "index", "flat", "http", "searcher", "pgvector"
IN_DATABASE = (HTTP, SEARCHER, PGVECTOR)
STAGES = (INDEX, FLAT, *IN_DATABASE)

OURS = "facesearch, index alone"
OURS_FOUND = "facesearch, Searcher.find"
OURS_HTTP = "facesearch, POST /find"
RAW = "FAISS, the same index"
RAW_FLAT = "FAISS IndexFlatIP"
NUMPY = "numpy product"
SNAPSHOT_WAIT_S = 300.0

Told = Iterator[tuple[str, Outcome]]


@dataclass(frozen=True, slots=True)
class Job:
    """`wanted`: the recall that pgvector has to come up to."""

    scratch: Path
    case: Case
    stages: Collection[str]
    wanted: float


def index(job: Job, faces: Faces) -> Outcome:
    """Ours in memory, beside FAISS with the same index: in turns."""
    case, count = job.case, len(faces.probes)
    before = memory().own
    started = time.perf_counter()
    built = engine.build(faces.unit, ServiceSettings().threads_per_run)
    seconds, grown = time.perf_counter() - started, memory().own - before
    say(f"{case.name}: {built.name} built in {seconds:.1f} s, shortlist {built.shortlist}")
    held = max(grown, built.index.bytes / MEGABYTE)  # memory of before may have been used again
    raw = engine.Raw.of(built, faces.unit).work(faces)
    ours = engine.ours(built, faces)
    timed = alternately({OURS: ours, RAW: raw}, count)
    note = built.name + (f", {built.shortlist} compared exactly" if built.shortlist else "")
    rows = [
        _row(OURS, timed[OURS], faces, together=many(ours, count), build=seconds, memory=held),
        _row(RAW, timed[RAW], faces, together=many(raw, count)),
    ]
    facts = {
        "grown_mb": grown,
        "index_mb": built.index.bytes / MEGABYTE,
        "vectors_mb": case.megabytes,
        "shortlist": float(built.shortlist),
    }
    return Outcome([replace(row, note=note) for row in rows], facts)


def flat(_job: Job, faces: Faces) -> Outcome:
    """What looks at all vectors; numpy with one thread, for several are in each other's way."""
    unit = np.empty(faces.unit.shape, np.float32)
    exhaustive = faiss.IndexFlatIP(faces.unit.shape[1])
    for start, block in blocks(faces.unit):
        unit[start : start + len(block)] = block
        exhaustive.add(block)

    def product(probe: int) -> list[int]:
        cosines = unit @ faces.probes[probe]
        near = np.argpartition(cosines, -NEAREST)[-NEAREST:]
        found: list[int] = near[np.argsort(-cosines[near])].tolist()
        return found

    works = {RAW_FLAT: engine.faiss_work(exhaustive, faces), NUMPY: product}
    rows = []
    for name, work in works.items():
        together = many(work, len(faces.probes))
        timed = one(work, len(faces.probes))
        rows.append(_row(name, timed, faces, together=together, memory=unit.nbytes / MEGABYTE))
    return Outcome(rows)


def in_database(job: Job, faces: Faces) -> Told:
    """What needs the database, which is filled once for all of it."""
    with load.home(Settings().weights_folder) as home, load.opened(home) as database:
        facts: dict[str, float] = {}
        if HTTP in job.stages:
            with serving.running(home) as service:
                used = memory(service.process)
                facts |= {"empty_s": service.started, "empty_mb": used.own}
                facts["empty_mapped_mb"] = used.mapped
        seconds = load.fill(database, job.case, faces)
        say(f"{job.case.name}: database filled in {seconds:.1f} s")
        facts["fill_s"] = seconds
        if HTTP in job.stages:
            yield HTTP, http(home, faces, facts)
        if SEARCHER in job.stages:
            yield SEARCHER, in_process(home, faces)
        if PGVECTOR in job.stages:
            yield PGVECTOR, Outcome(pgvector.measure(database, job.case, faces, job.wanted))


def http(home: Path, faces: Faces, facts: dict[str, float]) -> Outcome:
    """The service: started cold, asked, started again from its snapshot."""
    bodies = _bodies(home, faces)
    with serving.running(home) as service:
        facts = facts | {"cold_s": service.started}
        say(f"ready from the database in {service.started:.1f} s")
        timed = serving.alone(service, bodies)
        together = serving.together(service, bodies, CLIENTS)
        used = memory(service.process)
        own, mapped = used.own - facts["empty_mb"], used.mapped - facts["empty_mapped_mb"]
        facts |= {"service_own_mb": own, "service_mapped_mb": mapped}
        row = _row(OURS_HTTP, timed, faces, together=together, memory=own)
        row = replace(row, note=f"and {mapped:.0f} MiB of files that are mapped")
        written = _snapshot(home) if len(faces.unit) >= engine.SNAPSHOT_FROM else None
    with serving.running(home) as service:
        facts["restart_s"] = service.started
        say(f"ready again in {service.started:.1f} s")
    if written is not None:
        facts["snapshot_mb"] = megabytes(written)
    return Outcome([row], facts)


def in_process(home: Path, faces: Faces) -> Outcome:
    with load.opened(home) as database, engine.searcher(database, home) as searching:
        work = engine.found_by(searching, load.GALLERY, faces)
        timed = one(work, len(faces.probes))
        together = many(work, len(faces.probes))
        return Outcome([_row(OURS_FOUND, timed, faces, together=together)])


def _snapshot(home: Path) -> Path | None:
    """Waits for it: the service may write it after it is ready. Small spaces have none."""
    deadline = time.monotonic() + SNAPSHOT_WAIT_S
    while (found := engine.snapshot(home)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _bodies(home: Path, faces: Faces) -> Path:
    """A request for each probe, a line each."""
    asked = {
        "gallery": load.GALLERY,
        "k": NEAREST,
        "group_by": "face",
        "threshold": engine.FURTHEST,
    }
    path = home / "bodies"
    path.write_text("\n".join(json.dumps({"embedding": p.tolist(), **asked}) for p in faces.probes))
    return path


def _row(engine_name: str, timed: Timed, faces: Faces, **more: object) -> Row:
    return Row(
        engine=engine_name,
        alone=timed.latency,
        recall=recall(timed.answers, faces),
        own=own_photos(timed.answers, faces),
        **more,  # type: ignore[arg-type] # fields of Row
    )


def run(job: Job) -> Told:
    say(f"{job.case.name}: making vectors")
    faces = prepare(job.scratch / "vectors", job.case)
    for name, stage in ((INDEX, index), (FLAT, flat)):
        if name in job.stages:
            yield name, stage(job, faces)
    if set(IN_DATABASE) & set(job.stages):
        yield from in_database(job, faces)


def main() -> None:
    scratch, case, names, wanted = sys.argv[1:]
    job = Job(Path(scratch), Case(**json.loads(case)), names.split(","), float(wanted))
    for name, outcome in run(job):
        print(json.dumps({"stage": name, "outcome": asdict(outcome)}), flush=True)


if __name__ == "__main__":
    main()
