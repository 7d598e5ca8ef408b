"""pgvector's HNSW index over the same rows, searched at rising `ef_search` until it is as good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg2

from benchmarks.load import GALLERY
from benchmarks.machine import MEGABYTE, say
from benchmarks.results import Row
from benchmarks.timing import CLIENTS, Timed, Work, many, one
from benchmarks.vectors import NEAREST, Case, Faces, own_photos, recall
from indexer.store.engine import Database

EF = (40, 100, 200, 400, 800, 1000)
WORKERS = 2
BYTES_EACH = 400  # of the graph, of each row; from above


@dataclass(frozen=True, slots=True)
class Peer:
    """The table, and the expression that the index is on: halfvec where vectors are long."""

    table: str
    expression: str
    operators: str
    kind: str
    bytes_each: int

    @classmethod
    def of(cls, case: Case, space: int) -> Peer:
        kind, width = ("halfvec", 2) if case.dimension > 256 else ("vector", 4)
        typed = f"{kind}({case.dimension})"
        return cls(
            f"embedding_s{space}",
            f"vec::{typed}",
            f"{kind}_cosine_ops",
            typed,
            case.dimension * width + BYTES_EACH,
        )

    @property
    def query(self) -> str:
        return (
            f"SELECT face_id - 1 FROM {self.table}"  # noqa: S608 - names of our own
            f" ORDER BY ({self.expression}) <=> %s::{self.kind} LIMIT {NEAREST}"
        )


def measure(database: Database, case: Case, faces: Faces, wanted: float) -> list[Row]:
    """The row of the smallest ef with that recall, and all that were tried before."""
    with _connected(database) as connection:
        peer = Peer.of(case, _space(connection))
        seconds = _build(connection, peer, case)
        size = _value(connection, f"SELECT pg_relation_size('{peer.table}_bench')") / MEGABYTE
        version = _value(connection, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        rows = []
        for ef in EF:
            timed = one(_work(connection, peer, faces, ef), len(faces.probes))
            say(f"pgvector ef {ef}: {timed.latency}")
            rows.append(
                _row(f"{version}, ef_search {ef}, {peer.kind}", timed, faces, (seconds, size))
            )
            if (rows[-1].recall or 0) >= round(wanted, 4):
                break
        ef_found = ef
    rows[-1] = _with_many(database, peer, faces, ef_found, rows[-1])
    return rows


def _row(note: str, timed: Timed, faces: Faces, built: tuple[float, float]) -> Row:
    return Row(
        engine="pgvector HNSW",
        alone=timed.latency,
        recall=recall(timed.answers, faces),
        own=own_photos(timed.answers, faces),
        build=built[0],
        memory=built[1],
        note=note,
    )


def _with_many(database: Database, peer: Peer, faces: Faces, ef: int, row: Row) -> Row:
    """Sixteen clients with a connection each."""
    free: list[Work] = []
    with _several(database, CLIENTS) as connections:
        free += [_work(connection, peer, faces, ef) for connection in connections]

        def work(probe: int) -> Any:  # noqa: ANN401
            mine = free.pop()
            try:
                return mine(probe)
            finally:
                free.append(mine)

        together = many(work, len(faces.probes))
    return replace(row, together=together)


def _build(connection: Any, peer: Peer, case: Case) -> float:  # noqa: ANN401 - psycopg2's
    started = time.perf_counter()
    megabytes = max(256, int(1.3 * case.faces * peer.bytes_each) // MEGABYTE)
    with connection.cursor() as cursor:
        cursor.execute(f"SET maintenance_work_mem = '{megabytes}MB'")
        cursor.execute(f"SET max_parallel_maintenance_workers = {WORKERS}")
        cursor.execute(
            f"CREATE INDEX {peer.table}_bench ON {peer.table}"
            f" USING hnsw (({peer.expression}) {peer.operators})"
        )
    return time.perf_counter() - started


def _work(connection: Any, peer: Peer, faces: Faces, ef: int) -> Work:  # noqa: ANN401
    """Probes as text, as its client sends them."""
    texts = ["[" + ",".join(map(repr, probe.tolist())) + "]" for probe in faces.probes]
    with connection.cursor() as cursor:
        cursor.execute(f"SET hnsw.ef_search = {ef}")
        cursor.execute("SET enable_seqscan = off")  # else it compares all rows of a small table
        cursor.execute("EXPLAIN " + peer.query, (texts[0],))
        plan = "\n".join(row[0] for row in cursor.fetchall())
        if f"{peer.table}_bench" not in plan:
            raise RuntimeError("pgvector's index is not used")

    def work(probe: int) -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute(peer.query, (texts[probe],))
            return [row[0] for row in cursor.fetchall()]

    return work


def _space(connection: Any) -> int:  # noqa: ANN401
    return int(_value(connection, f"SELECT active_space_id FROM gallery WHERE name = '{GALLERY}'"))  # noqa: S608


def _value(connection: Any, statement: str) -> Any:  # noqa: ANN401
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


@contextmanager
def _connected(database: Database) -> Iterator[Any]:
    with _several(database, 1) as (connection,):
        yield connection


@contextmanager
def _several(database: Database, count: int) -> Iterator[list[Any]]:
    url = database.engine.url
    opened = [
        psycopg2.connect(
            host=url.query["host"], port=url.query["port"], user=url.username, dbname=url.database
        )
        for _ in range(count)
    ]
    for connection in opened:
        connection.autocommit = True
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()
