"""What has to be done now and then, by whichever process comes first."""

from __future__ import annotations

from indexer import retention
from indexer.settings import Settings
from indexer.store import ann, erasures, spaces
from indexer.store.engine import Database
from indexer.store.spaces import Space

KEEP_DAYS = 7
ANN_INDEX_FROM = 20_000
"""Faces from which a space's HNSW index pays."""


def maintain(database: Database, settings: Settings) -> None:
    """Forget old changes, erase what may no longer be kept, build missing indexes. One process at a time."""
    with database.locked("facesearch:maintain") as taken:
        if not taken:
            return
        with database.write() as connection:
            spaces.trim(connection, KEEP_DAYS)
            erasures.trim(connection)
        retention.sweep(database)
        with database.read() as connection:
            known = spaces.all_spaces(connection)
        for space in known:
            build_ann_index(database, space, settings)


def build_ann_index(database: Database, space: Space, settings: Settings) -> None:
    """The partition's HNSW index, once there are so many faces that it pays."""
    with database.read() as connection:
        large = spaces.count(connection, space.id) >= ANN_INDEX_FROM
    if large:
        ann.build(database, space, settings.index_memory_mb)
