"""`facesearch galleries protect`."""

from __future__ import annotations

import click

from indexer.cli_base import as_json, reported, show


@click.command("protect")
@click.argument("name")
@click.option("--renew", is_flag=True, help="With a new secret, though it is protected already.")
@click.option("--off", is_flag=True, help="Store embeddings as the model gives them again.")
@as_json
@reported
def protect(name: str, renew: bool, off: bool, as_json: bool) -> None:
    """Turn the embeddings of gallery NAME by a secret matrix and encrypt its uploads, while it is searched.

    The key is in the file that FACESEARCH_TEMPLATE_KEY_FILE names. To change it, put a new one before the old one, run
    this with --renew for each gallery, and take the old one out. docs/data-protection.md says what it protects from.
    """
    from indexer import commands, protection

    if renew and off:
        raise click.UsageError("--renew and --off exclude each other")
    tools = commands.Tools.open(quiet=as_json)
    show(protection.protect(tools, name, renew=renew, off=off, quiet=as_json), as_json)
