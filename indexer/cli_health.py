"""`facesearch galleries health` and `quality`."""

from __future__ import annotations

from typing import Literal

import click

from indexer.cli_base import as_json, reported, show

TITLES = {
    "confusable": "People who may be one person under two names, or are easily confused",
    "unlike": "Photographs unlike the others of their person",
    "near_duplicates": "Photographs that are nearly the same",
    "without_faces": "People without a usable photograph",
}


@click.command("health")
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Findings of each kind."
)
@as_json
@reported
def health(name: str, limit: int, as_json: bool) -> None:
    """Look for mistakes in gallery NAME: one person under two names, mislabelled photographs, doubles.

    From the stored vectors; nothing is changed. docs/health.md says how far to trust it.
    """
    from indexer import commands
    from indexer.health.check import Checker

    tools = commands.Tools.open(quiet=as_json)
    report = Checker(tools.database, tools.recognizer, tools.settings.threads).check(name, limit)
    if as_json:
        show(report, True)
        return
    show({key: value for key, value in report.items() if key not in TITLES}, False)
    for kind, title in TITLES.items():
        found, count = report[kind]["found"], report[kind]["count"]
        of = f", the first {len(found)}" if len(found) < count else ""
        click.echo(f"\n{title}: {count}{of}")
        if found:
            show(found, False, found)


@click.command("quality")
@click.argument("name")
@click.argument("policy", type=click.Choice(["accept", "flag", "reject"]))
@as_json
@reported
def quality(name: str, policy: Literal["accept", "flag", "reject"], as_json: bool) -> None:
    """What gallery NAME does with doubtful photographs: accept them, flag them, or reject them.

    What was rejected under another policy is looked at again by the next `index`. docs/quality.md has the checks.
    """
    from indexer import commands
    from indexer.store import galleries

    tools = commands.Tools.open(quiet=as_json)
    with tools.database.write() as connection:
        held = galleries.lock(connection, name)
        galleries.set_quality(connection, held.id, policy)
    show({"gallery": held.name, "quality": policy}, as_json)
