"""What all commands share: how errors and results are told. Imports what is needed only when it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., None])

FOLDER = click.Path(file_okay=False, path_type=Path)
IMAGE = click.Path(dir_okay=False, path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Failed(click.ClickException):
    """A clear error on stderr and exit code 1."""


def reported(command: F) -> F:
    """Errors of the project become one line; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - passes on what click gives
        from pydantic import ValidationError

        from indexer.errors import IndexerError
        from recognition.errors import RecognitionError

        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise Failed(
                "interrupted; what was finished is kept, run it again to carry on"
            ) from None
        except (IndexerError, RecognitionError) as error:
            raise Failed(str(error)) from error
        except ValidationError as error:
            raise Failed("; ".join(map(_setting, error.errors()))) from error

    return run  # type: ignore[return-value] # same signature


def _setting(error: Mapping[str, Any]) -> str:
    """What is wrong with a setting."""
    names = [f"FACESEARCH_{str(part).upper()}" for part in error["loc"]]
    return ": ".join([*names, error["msg"]])


def show(data: Any, as_json: bool, table: Sequence[Mapping[str, Any]] | None = None) -> None:  # noqa: ANN401
    """JSON for programs; for people a table of the rows, or lines of a mapping."""
    if as_json:
        click.echo(json.dumps(data, ensure_ascii=False, indent=2, default=str))
        return
    from indexer import output

    output.show(data, table)
