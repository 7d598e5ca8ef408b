"""`facesearch galleries health`."""

from __future__ import annotations

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
