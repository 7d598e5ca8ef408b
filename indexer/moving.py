"""What `facesearch export` and `facesearch import` do, as functions that return plain data."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from indexer.commands import Tools
from indexer.errors import Conflict
from indexer.progress import display
from indexer.runs import started, summary
from indexer.store import galleries
from indexer.transfer import archive, compreface, deepface, npz
from indexer.transfer import export as exporting
from indexer.transfer import restore as restoring
from indexer.transfer.errors import BadSource
from indexer.transfer.importer import Importer
from indexer.transfer.restore import Places
from indexer.transfer.source import Source
from recognition.pipeline import Recipe
from recognition.registry import Models

DEFAULT_GALLERY = "default"


@dataclass(frozen=True, slots=True)
class Asked:
    """An import as it was asked for; `facesearch import --help` says what each means."""

    path: Path
    gallery: str | None = None
    trees: tuple[Path, ...] = ()
    images: Path | None = None
    embed: bool = False
    model: str | None = None
    detector: str | None = None
    made_by: str | None = None
    collection: str | None = None


def export(
    tools: Tools, gallery: str, target: Path, *, quiet: bool, person: str | None = None
) -> dict[str, Any]:
    """Of a gallery, or of one person: where it is and what it holds. Raises NotFound, Conflict, CannotExport."""
    with tools.database.read() as connection:
        total = galleries.counts(connection, galleries.get(connection, gallery)).images
    shown, done = display(quiet), 0
    shown.show("exporting", 0, total)

    def step(count: int) -> None:
        nonlocal done
        done += count
        shown.show("exporting", done, total)

    try:
        made = exporting.export(tools.database, gallery, target, step, person)
    finally:
        shown.close()
    return {
        "gallery": gallery,
        "path": str(made.path),
        "identities": made.identities,
        "images": made.images,
        "faces": made.faces,
        "originals": made.originals,
        "bytes": made.bytes,
    }


def restore(tools: Tools, asked: Asked, *, quiet: bool) -> dict[str, Any]:
    """The summary. Raises BadSource before anything is stored; Conflict, Cancelled."""
    with opened(asked, tools.recognizer.models) as source:
        gallery = asked.gallery or source.gallery or DEFAULT_GALLERY
        galleries.clean_name(gallery, "a gallery")
        importer = Importer(tools.database, tools.recognizer, tools.settings, gallery)
        recipe = _recipe(tools, asked, gallery, importer, source)
        with started(tools.database, "import", gallery, quiet) as running:
            take = importer.take if recipe is None else partial(importer.embed, recipe=recipe)
            version = take(source, run=running)
    vectors = "the source's" if recipe is None else "embedded anew"
    space = str(recipe or source.recipe or "none")
    return summary(gallery, running) | {"vectors": vectors, "space": space, "version": version}


def _recipe(
    tools: Tools, asked: Asked, gallery: str, importer: Importer, source: Source
) -> Recipe | None:
    """What the photographs are embedded with; None if the source's vectors are taken. Raises Conflict."""
    named = asked.model is not None or asked.detector is not None
    anew = asked.embed or asked.images is not None
    there = importer.same_space(source)
    if there and not anew and not named:
        return None
    recipe = tools.recipe(gallery, asked.model, asked.detector)
    if there and not anew and recipe == source.recipe:
        return None
    if not source.at_hand:
        raise Conflict(
            f"the embeddings of {asked.path} are of {source.recipe or 'no space'} and cannot be taken into "
            f"gallery {gallery!r} as embeddings of {recipe}; there are no photographs to embed anew: import into "
            "another gallery with --gallery, or name their folder with --images"
        )
    return recipe


@contextmanager
def opened(asked: Asked, models: Models) -> Iterator[Source]:
    """The checked source, by what the file holds. Raises BadSource."""
    path = asked.path
    if not path.exists():
        raise BadSource(f"there is no {path}")
    if path.is_dir() and not archive.is_archive(path):
        raise BadSource(f"{path} is a folder without manifest.json, so not one that `export` wrote")
    if archive.is_archive(path):
        with archive.opened(path) as found:
            yield restoring.source(found, Places(asked.trees, asked.images))
        return
    if asked.trees:
        raise BadSource("--tree is for what `export` wrote")
    yield _foreign(asked, models)


def _foreign(asked: Asked, models: Models) -> Source:
    path = asked.path
    if zipfile.is_zipfile(path):
        arrays = npz.load(path)
        if deepface.is_store(arrays):
            return deepface.from_arrays(path, arrays, asked.made_by, models, asked.images)
        return npz.source(path, arrays, asked.made_by)
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80":
        return deepface.from_pickle(path, asked.made_by, models, asked.images)
    if compreface.is_dump(path):
        choice = compreface.Choice(asked.made_by, asked.collection)
        return compreface.source(path, choice)
    raise BadSource(
        f"{path} is none of what can be imported: an archive of `export`, DeepFace's ds_model_….pkl or .npz, "
        "an .npz with names and embeddings, CompreFace's database as pg_dump --format=plain writes it"
    )
