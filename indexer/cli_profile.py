"""`facesearch profile`."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.cli_base import as_json, reported, show


@click.command("profile")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", help="Recognition model.")
@click.option("--detector", help="Face detector.")
@click.option("--gallery", help="Search the faces in this gallery too, in the database.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@as_json
@reported
def profile(
    paths: tuple[Path, ...],
    model: str | None,
    detector: str | None,
    gallery: str | None,
    rounds: int,
    as_json: bool,
) -> None:
    """Where the time goes: each stage of the images at PATHS, one after the other on one core.

    A running service tells the same of its requests at /metrics, as facesearch_stage_seconds.
    """
    from indexer import commands
    from indexer import profile as profiling

    opened = commands.Tools.without_database if gallery is None else commands.Tools.open
    tools = opened(quiet=as_json)
    recipe = tools.recipe(gallery, model, detector)
    found = profiling.profile(tools, paths, recipe, gallery, rounds)
    if as_json:
        show(found, True)
        return
    show({key: value for key, value in found.items() if key != "stages"}, False)
    show(found["stages"], False, found["stages"])
