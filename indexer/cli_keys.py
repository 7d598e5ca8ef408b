"""`facesearch keys`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from indexer.cli_base import as_json, reported, show

if TYPE_CHECKING:
    from indexer.store.keys import Key

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType[timedelta]):
    """A number with its unit: 30m, 12h, 90d."""

    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - as click gives it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        found = re.fullmatch(r"(\d{1,5})([mhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration: 30m, 12h, 90d", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.group()
def keys() -> None:
    """API keys of the service: made, listed, rotated, revoked."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "enrol", "admin"]),
    required=True,
    help="read: search; enrol: and change people; admin: and galleries and jobs.",
)
@click.option("--gallery", "galleries", multiple=True, help="Only this one; may be repeated.")
@click.option("--expires", type=Duration(), help="As in 12h or 90d; never by default.")
@as_json
@reported
def create(
    name: str,
    scope: Any,  # noqa: ANN401 - one of its choices
    galleries: tuple[str, ...],
    expires: timedelta | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and show it, once."""
    from indexer import keys as made

    token, key = made.create(_database(), name, scope, galleries or None, expires)
    _show(token, key, as_json)


@keys.command("list")
@as_json
@reported
def list_keys(as_json: bool) -> None:
    """All keys, without their secrets."""
    from indexer.store import keys as store

    with _database().read() as connection:
        rows = [_row(key) for key in store.every(connection)]
    show(rows, as_json, rows)


@keys.command("rotate")
@click.argument("prefix")
@click.option(
    "--keep", type=Duration(), default="1h", show_default=True, help="How long the old one lasts."
)
@as_json
@reported
def rotate(prefix: str, keep: timedelta, as_json: bool) -> None:
    """Make a new key with the rights of the one with that PREFIX, which then ends."""
    from indexer import keys as made

    token, key = made.rotate(_database(), prefix, keep)
    _show(token, key, as_json)


@keys.command("revoke")
@click.argument("prefix")
@as_json
@reported
def revoke(prefix: str, as_json: bool) -> None:
    """Let nobody in with the key of that PREFIX any more; servers know within seconds."""
    from indexer import keys as made

    show(_row(made.revoke(_database(), prefix)), as_json)


def _database() -> Any:  # noqa: ANN401 - imported where it is needed
    from indexer.settings import Settings
    from indexer.store.engine import Database

    database = Database.open(Settings())
    database.upgrade()
    return database


def _show(token: str, key: Key, as_json: bool) -> None:
    show({"key": token, **_row(key)}, as_json)
    if not as_json:
        click.echo("This is the only time that the key is shown.", err=True)


def _row(key: Key) -> dict[str, Any]:
    return {
        "prefix": key.prefix,
        "name": key.name,
        "scope": key.scope,
        "galleries": "all" if key.galleries is None else list(key.galleries),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
