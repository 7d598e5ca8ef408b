"""`facesearch export` and `facesearch import`."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.cli_base import FOLDER, as_json, reported, show

ANYTHING = click.Path(path_type=Path)


@click.command()
@click.argument("gallery")
@click.option("--to", "target", required=True, type=ANYTHING, help="New folder, or NAME.zip.")
@as_json
@reported
def export(gallery: str, target: Path, as_json: bool) -> None:
    """Write GALLERY with all it holds in an open format: JSON, vectors as .npy, kept photographs.

    docs/moving.md describes the files. They hold people's faces: keep them as safe as the database.
    """
    from indexer import commands, moving

    tools = commands.Tools.open(quiet=as_json)
    show(moving.export(tools, gallery, target, quiet=as_json), as_json)


@click.command("export")
@click.argument("name")
@click.option("--gallery", default="default", show_default=True)
@click.option("--to", "target", required=True, type=ANYTHING, help="New folder, or NAME.zip.")
@as_json
@reported
def export_person(name: str, gallery: str, target: Path, as_json: bool) -> None:
    """Write all that is held about the person NAME: for them to see, or to take along.

    As `facesearch export` writes a gallery; held.jsonl has their consent and what the audit log says of them.
    """
    from indexer import commands, moving

    tools = commands.Tools.open(quiet=as_json)
    show(moving.export(tools, gallery, target, quiet=as_json, person=name), as_json)


@click.command("import")
@click.argument("source", type=ANYTHING)
@click.option("--gallery", help="Gallery to import into.  [default: the archive's, or default]")
@click.option(
    "--tree", "trees", type=FOLDER, multiple=True,
    help="Folder of people that an archive's crawled files lie in here; once per folder, in order.",
)  # fmt: skip
@click.option("--images", type=FOLDER, help="Folder with the photographs: embed them anew.")
@click.option("--embed", is_flag=True, help="Embed the source's own photographs anew.")
@click.option("--model", help="Model to embed with.  [default: the gallery's, or the settings']")
@click.option("--detector", help="Detector to embed with.")
@click.option("--made-by", help="What made the vectors, where the source does not say; or which.")
@click.option("--collection", help="Face collection, where CompreFace has several.")
@as_json
@reported
def restore(
    source: Path,
    gallery: str | None,
    trees: tuple[Path, ...],
    images: Path | None,
    embed: bool,
    model: str | None,
    detector: str | None,
    made_by: str | None,
    collection: str | None,
    as_json: bool,
) -> None:
    """Bring people from SOURCE into a gallery; again changes nothing.

    SOURCE is what `export` wrote, a store of DeepFace (ds_model_….pkl or .npz), an .npz file with names and
    embeddings, or CompreFace's database as pg_dump writes it. docs/moving.md has more.
    """
    from indexer import commands, moving

    tools = commands.Tools.open(quiet=as_json)
    asked = moving.Asked(
        source, gallery, trees, images, embed, model, detector, made_by, collection
    )
    show(moving.restore(tools, asked, quiet=as_json), as_json)
