"""Runs the migrations on the connection it is given, or on the database of the settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from indexer.settings import Settings
from indexer.store.engine import Database
from indexer.store.tables import metadata

LOCK = 0x66616365


def run(connection: Connection) -> None:
    """Upgrade inside one transaction; only one process at a time."""
    context.configure(connection=connection, target_metadata=metadata, compare_type=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database.open(Settings())
    with database.engine.connect() as connection:
        run(connection)
        connection.commit()
    database.close()
