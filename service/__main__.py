"""`python -m service`: what `facesearch serve` becomes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from service.settings import ServiceSettings

STOP_S = 30


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
    uvicorn.run(
        "service.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
