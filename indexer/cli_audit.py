"""`facesearch audit`."""

from __future__ import annotations

from typing import Any

import click

from indexer.cli_base import Failed, as_json, reported, show


@click.group()
def audit() -> None:
    """What was asked of the service, and of the commands."""


@audit.command("list")
@click.option("--gallery", help="Of this one only.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@as_json
@reported
def list_entries(gallery: str | None, limit: int, as_json: bool) -> None:
    """The newest entries."""
    from indexer.store import audit as store

    with _database().read() as connection:
        rows = [
            {
                "id": row.id,
                "at": row.entry.at,
                "key": row.entry.key,
                "action": row.entry.action,
                "gallery": row.entry.gallery,
                "request_id": row.entry.request_id,
                "detail": row.entry.detail,
            }
            for row in store.latest(connection, gallery, limit)
        ]
    show(rows, as_json, rows)


@audit.command("verify")
@click.option("--head", help="The hash that a verification printed before: it must still be there.")
@as_json
@reported
def verify(head: str | None, as_json: bool) -> None:
    """Whether every entry is as it was written; exit code 1 names the first that is not."""
    from indexer import audit as trail
    from indexer.store import audit as store

    database = _database()
    verdict = trail.verify(database)
    if verdict.broken is not None:
        raise Failed(
            f"the audit log was changed: entry {verdict.broken} is not as it was written, or those before it are gone"
        )
    if head is not None:
        with database.read() as connection:
            if head != bytes(32).hex() and not any(
                row.hash.hex() == head for row in store.every(connection)
            ):
                raise Failed("the audit log was cut off: the entry with that hash is gone")
    show({"entries": verdict.rows, "head": verdict.head}, as_json)


def _database() -> Any:  # noqa: ANN401 - imported where it is needed
    from indexer.settings import Settings
    from indexer.store.engine import Database

    database = Database.open(Settings())
    database.upgrade()
    return database
