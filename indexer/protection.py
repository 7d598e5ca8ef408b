"""Protecting a gallery that has people already, protecting it anew, or no longer."""

from __future__ import annotations

from typing import Any

from indexer.commands import Tools
from indexer.errors import Conflict
from indexer.reindex import Reindexer
from indexer.runs import started, summary
from indexer.store import galleries, images, spaces
from indexer.store.engine import Database, WriteConnection, vault_of
from indexer.store.galleries import Gallery

FILES = 20
"""Uploads encrypted in one transaction."""


def protect(
    tools: Tools, name: str, *, renew: bool = False, off: bool = False, quiet: bool = True
) -> dict[str, Any]:
    """The summary. Goes on where a run before was interrupted. Raises NotFound, KeyMissing, Conflict, Cancelled."""
    with started(tools.database, "protect", name, quiet) as run:
        with tools.database.write() as connection:
            gallery = galleries.lock(connection, name)
            if gallery.building_space_id is not None:
                raise Conflict(f"gallery {name!r} is being reindexed; protect it afterwards")
            galleries.set_seal(connection, gallery.id, _seal(connection, gallery, renew, off))
        reindexer = Reindexer(tools.database, tools.recognizer, tools.settings, name)
        reindexer.protect(run)
        run.count("uploads", _rewrite_originals(tools.database, gallery.id, closed=not off))
    return summary(name, run) | {"protected": not off}


def _seal(connection: WriteConnection, gallery: Gallery, renew: bool, off: bool) -> bytes | None:
    """The one that the gallery is to have from now on."""
    if off:
        return None
    active = None
    if gallery.active_space_id is not None:
        active = spaces.get(connection, gallery.active_space_id).seal
    begun = gallery.seal is not None and gallery.seal != active
    if begun or (gallery.seal is not None and not renew):
        vault_of(connection).check(gallery.seal)
        return gallery.seal
    return vault_of(connection).new_seal()


def _rewrite_originals(database: Database, gallery_id: int, *, closed: bool) -> int:
    """Encrypt the gallery's uploads anew, or decrypt them; how many there are."""
    count, done = 0, [0]
    while done:
        with database.write() as connection:
            done = images.rewrite_originals(connection, gallery_id, done[-1], FILES, closed=closed)
        count += len(done)
    return count
