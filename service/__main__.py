"""`python -m service`: what `facesearch serve` becomes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from service.settings import ServiceSettings, is_loopback

STOP_S = 30
REFUSED = (
    "refusing to listen on {host} without API keys: anybody in the network could read and erase "
    "faces. Set FACESEARCH_API_KEYS, or bind 127.0.0.1"
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
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if not is_loopback(settings.host) and not settings.api_keys:
        print(f"Error: {REFUSED.format(host=settings.host)}", file=sys.stderr)
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
