"""The HNSW index of a space's partition: which form, whether it is there, building it live."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from indexer.store import spaces
from indexer.store.engine import Database, ReadConnection, WriteConnection
from indexer.store.spaces import Space

log = logging.getLogger(__name__)

Form = Literal["vector", "halfvec", "bit"]

VECTOR_UP_TO = 256
HALFVEC_UP_TO = 4000
BYTES = {"vector": 4.0, "halfvec": 2.0, "bit": 0.125}
LINK_BYTES = 330
"""Per row: 32 links below and what lies above, in pages that are not full."""
MARGIN = 1.2
LEAST_MEMORY_MB = 64
NO_ROOM = "53"
"""SQLSTATE class of missing memory, shared memory among it."""


def form(dimension: int) -> Form:
    """Which form of a vector is indexed; migration 0002 says the same in SQL."""
    if dimension <= VECTOR_UP_TO:
        return "vector"
    return "halfvec" if dimension <= HALFVEC_UP_TO else "bit"


def order(dimension: int, probe: str) -> str:
    """The expression to order by: to the letter that of the index, or the plan is a scan."""
    d = int(dimension)
    if form(d) == "bit":
        quantized = f"CAST(binary_quantize(CAST({probe} AS vector({d}))) AS bit({d}))"
        return f"CAST(binary_quantize(e.vec) AS bit({d})) <~> {quantized}"
    kind = form(d)
    return f"CAST(e.vec AS {kind}({d})) <=> CAST({probe} AS {kind}({d}))"


def is_built(connection: ReadConnection | WriteConnection | Connection, space: Space) -> bool:
    """Whether the space's index is there and complete."""
    valid = connection.scalar(_VALID, {"name": _name(space)})
    return bool(valid)


def memory_mb(rows: int, dimension: int, most: int) -> int:
    """What building takes; with less the graph is built on disk, many times slower."""
    size = rows * (dimension * BYTES[form(dimension)] + LINK_BYTES) * MARGIN
    return min(max(LEAST_MEMORY_MB, int(size / 2**20) + 1), most)


def build(database: Database, space: Space, most_mb: int) -> bool:
    """Build the index while the table is read and written; False if it is there, or being built."""
    with database.locked(f"facesearch:ann:{space.id}") as taken:
        if not taken:
            return False
        with database.read() as connection:
            if is_built(connection, space):
                return False
            rows = spaces.count(connection, space.id)
            statements = connection.scalar(
                text("SELECT facesearch_index_statements(:space, :dimension)"),
                {"space": space.id, "dimension": space.dimension},
            )
        memory = memory_mb(rows, space.dimension, most_mb)
        try:
            _create(database, statements or (), memory, workers=2)
        except DBAPIError as error:
            if not str(getattr(error.orig, "pgcode", "")).startswith(NO_ROOM):
                raise
            log.info("no shared memory to build the index of space %d in parallel", space.id)
            _create(database, statements or (), memory, workers=0)
    return True


def _create(database: Database, statements: Sequence[str], memory: int, *, workers: int) -> None:
    """What is built concurrently is built in no transaction."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(_MEMORY, {"memory": f"{memory}MB", "workers": str(workers)})
        try:
            for statement in statements:
                connection.execute(text(statement))
        finally:
            connection.invalidate()  # its settings are not for others


def _name(space: Space) -> str:
    return f"embedding_s{int(space.id)}_ann"


_VALID = text(
    "SELECT x.indisvalid AND x.indisready FROM pg_index x WHERE x.indexrelid = to_regclass(:name)"
)
_MEMORY = text(
    "SELECT set_config('maintenance_work_mem', :memory, false),"
    " set_config('max_parallel_maintenance_workers', :workers, false)"
)
