"""`python -m service`: what `facesearch serve` becomes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from indexer.errors import DatabaseUnavailable
from indexer.store import keys
from indexer.store.engine import Database
from service.settings import ServiceSettings, is_loopback

STOP_S = 30
OPEN_TO_ALL = (
    "refusing to listen on {host} without API keys: anybody in the network could read and erase "
    "faces. Make one (facesearch keys create NAME --scope admin), set FACESEARCH_API_KEYS, or "
    "listen on 127.0.0.1"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; returns when the server was stopped."""
    parser = argparse.ArgumentParser(prog="facesearch serve")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int)
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    try:
        settings = ServiceSettings(**given)
    except ValidationError as error:
        for each in error.errors(include_input=False):
            name = ".".join(map(str, each["loc"]))
            print(f"Error: {name}{': ' if name else ''}{each['msg']}", file=sys.stderr)
        return 1
    if not is_loopback(settings.host) and not settings.api_keys and not _has_keys(settings):
        print(f"Error: {OPEN_TO_ALL.format(host=settings.host)}", file=sys.stderr)
        return 1
    # The processes read their settings anew, and share the cores and the memory by their number.
    os.environ["FACESEARCH_WORKERS"] = str(settings.workers)  # noqa: TID251 - set, not read
    uvicorn.run(
        "service.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,
        server_header=False,
        http="service.protocol:Impatient",
        timeout_graceful_shutdown=STOP_S,
    )
    return 0


def _has_keys(settings: ServiceSettings) -> bool:
    """Whether somebody made a key. Without a database nobody is let in anyway, so there it is True."""
    database = Database.open(settings)
    try:
        database.upgrade()
        with database.read() as connection:
            return bool(keys.valid(connection))
    except DatabaseUnavailable as error:
        print(f"Warning: the API keys cannot be read yet: {error}", file=sys.stderr)
        return True
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main())
