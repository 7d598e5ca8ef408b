"""A gallery out and in again: nothing lost, the same answers, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from indexer import commands, moving, people, runs
from indexer.commands import Tools
from indexer.errors import Conflict, NotFound
from indexer.moving import Asked
from indexer.search import Query, Searcher
from indexer.store import galleries, spaces
from indexer.store import tables as t
from indexer.store import transfer as store
from recognition.images import ImageLimits, decode
from recognition.pipeline import Selection
from recognition.types import Points
from tests.indexer.conftest import RECIPE

Find = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def find(tools: Tools, photos: dict[str, bytes]) -> Find:
    """What a photograph finds: identity, file, distance, metadata."""
    image = decode(photos["obama3"], ImageLimits())
    probes = tools.recognizer.embeddings(
        tools.recognizer.represent([image], RECIPE, Selection())[0], RECIPE
    )

    def found(gallery: str) -> list[tuple[Any, ...]]:
        searcher = Searcher(tools.database, None)
        query = Query(gallery=gallery, threshold=2.0, group_by="face", k=50)
        matches = searcher.find(searcher.target(gallery), probes, query).matches[0]
        return [(m.identity, m.image, m.distance, m.metadata) for m in matches]

    return found


def rows(tools: Tools, gallery: str) -> list[tuple[Any, ...]]:
    """All that is held of a gallery, without ids."""
    with tools.database.read() as connection:
        held = galleries.get(connection, gallery)
        images = store.photos(connection, store.Scope(held.id), (0, 0), 1000)
        faces = store.faces(connection, [row.id for row in images])
        outcomes = store.outcomes(connection, [row.id for row in images])
        kept = {row.image_id: row.data for row in connection.execute(select(t.original))}
        identities = store.people(connection, store.Scope(held.id), 0, 1000)
    told: list[tuple[Any, ...]] = [tuple(row[1:]) for row in identities]
    for row in images:
        told.append(
            (
                row.identity, bytes(row.sha256), row.size, row.root, row.locator, row.mtime_ns,
                row.width, row.height, row.state, row.reason, row.uploaded, row.created_at,
                kept.get(row.id),
                [(o.state, o.reason) for o in outcomes if o.image_id == row.id],
                [
                    (f.box, str(f.landmarks), f.confidence, f.quality, f.vector.tobytes())
                    for f in faces if f.image_id == row.id
                ],
            )
        )  # fmt: skip
    return told


@pytest.mark.parametrize("name", ["gallery.zip", "gallery"])
def test_a_gallery_comes_back_whole(
    tools: Tools, full: str, tree: Path, tmp_path: Path, find: Find, name: str
) -> None:
    metadata = {"team": "Ä", "age": 7, "deep": {"list": [1, None, "x"]}}
    people.change_identity(
        tools.database, full, "Barack", people.Change(name=None, metadata=metadata, merge=False)
    )
    before, held = find(full), rows(tools, full)
    assert len(before) == 4
    made = moving.export(tools, full, tmp_path / name, quiet=True)
    assert (made["identities"], made["images"], made["originals"]) == (4, 6, 1)
    people.erase_gallery(tools.database, full)
    with pytest.raises(NotFound):
        find(full)
    asked = Asked(tmp_path / name, trees=(tree,))
    done = moving.restore(tools, asked, quiet=True)
    assert done["counts"] == {"identities": 4, "images": 6, "faces": 4}
    assert find(full) == before
    assert rows(tools, full) == held
    again = moving.restore(tools, asked, quiet=True)
    assert (again["counts"], again["version"]) == ({"exists": 6, "faces": 0}, done["version"])
    assert rows(tools, full) == held
    assert runs.dry_run(tools, tree, full, 20)["counts"]["unchanged"] == 5


def test_a_second_import_leaves_changes_alone(tools: Tools, full: str, archive: Path) -> None:
    people.change_identity(
        tools.database, full, "Barack", people.Change(name=None, metadata={"new": 1}, merge=False)
    )
    people.erase_identity(tools.database, full, "Joe Ünïcode")
    done = moving.restore(tools, Asked(archive), quiet=True)
    assert done["counts"]["identities"] == 1
    found = {p["identity"]: p for p in commands.list_identities(tools, full)}
    assert found["Barack"]["metadata"] == {"new": 1}
    assert found["Joe Ünïcode"]["images"] == 2


def test_unknown_landmarks_stay_unknown(tools: Tools, full: str, archive: Path) -> None:
    """mediapipe has no mouth corners: NaN in the database, null in JSON."""
    lines = (archive / "images.jsonl").read_text().splitlines()
    points = [face["landmarks"] for line in lines for face in json.loads(line)["faces"]]
    assert all(each[6:] == [None] * 4 and None not in each[:6] for each in points)
    moving.restore(tools, Asked(archive, gallery=f"{full} b"), quiet=True)
    with tools.database.read() as connection:
        held = galleries.get(connection, f"{full} b")
        ids = [row.id for row in store.photos(connection, store.Scope(held.id), (0, 0), 100)]
        found: list[Points] = [np.array(f.landmarks) for f in store.faces(connection, ids)]
    assert np.isnan(np.array(found)[:, 6:]).all()
    assert np.isfinite(np.array(found)[:, :6]).all()


def test_without_a_tree_files_keep_their_names(
    tools: Tools, full: str, archive: Path, find: Find, tree: Path
) -> None:
    name = f"{full} b"
    done = moving.restore(tools, Asked(archive, gallery=name), quiet=True)
    assert done["counts"]["left out"] == 1, "what could not be read is known of a folder only"
    assert find(name) == find(full)
    with tools.database.read() as connection:
        assert galleries.roots(connection, galleries.get(connection, name).id) == []
    runs.index(tools, tree, RECIPE, runs.Order(name, 20, quiet=True))
    assert find(name) == find(full), "the folder is recognised by its contents"


def test_another_models_space_embeds_anew(
    tools: Tools, full: str, archive: Path, tree: Path
) -> None:
    name = f"{full} b"
    asked = Asked(archive, gallery=name, detector="mtcnn", images=tree)
    done = moving.restore(tools, asked, quiet=True)
    assert (done["vectors"], done["counts"]["faces"]) == ("embedded anew", 4)
    with tools.database.read() as connection:
        active = galleries.get(connection, name).active_space_id
        assert active is not None
        assert spaces.get(connection, active).recipe.detector == "mtcnn"
    again = moving.restore(tools, asked, quiet=True)
    assert again["counts"]["exists"] == 5
    assert again["version"] == done["version"]
    into = moving.restore(tools, Asked(archive, gallery=name), quiet=True)
    assert into["vectors"] == "embedded anew", "the gallery is searched in another space"


def test_photographs_that_are_gone_are_reported(
    tools: Tools, full: str, archive: Path, tree: Path, photos: dict[str, bytes]
) -> None:
    (tree / "Barack" / "1.jpg").unlink()
    (tree / "Barack" / "deep" / "2.jpg").write_bytes(photos["obama3"])
    asked = Asked(archive, gallery=f"{full} b", images=tree, embed=True)
    done = moving.restore(tools, asked, quiet=True)
    assert (done["counts"]["unavailable"], done["counts"]["unreadable"]) == (2, 1)
    assert {error["path"] for error in done["errors"]} == {
        "Barack/1.jpg", "Barack/deep/2.jpg", "x/bad.jpg",
    }  # fmt: skip
    found = {p["identity"]: p["images"] for p in commands.list_identities(tools, f"{full} b")}
    assert found == {"Joe Ünïcode": 2, "nobody": 0}


def test_no_photographs_no_other_space(
    tools: Tools, gallery: str, tree: Path, tmp_path: Path
) -> None:
    runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    moving.export(tools, gallery, tmp_path / "a.zip", quiet=True)
    with pytest.raises(Conflict, match="--images"):
        moving.restore(
            tools, Asked(tmp_path / "a.zip", gallery=f"{gallery} b", detector="mtcnn"), quiet=True
        )


def test_an_empty_gallery(tools: Tools, gallery: str, tmp_path: Path) -> None:
    with tools.database.write() as connection:
        galleries.ensure(connection, gallery)
    moving.export(tools, gallery, tmp_path / "a.zip", quiet=True)
    moving.restore(tools, Asked(tmp_path / "a.zip", gallery=f"{gallery} b"), quiet=True)
    assert commands.list_identities(tools, f"{gallery} b") == []


def test_an_export_replaces_nothing(tools: Tools, full: str, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    target.write_bytes(b"precious")
    with pytest.raises(Conflict, match="exists"):
        moving.export(tools, full, target, quiet=True)
    assert target.read_bytes() == b"precious"
    with pytest.raises(NotFound):
        moving.export(tools, "no such", tmp_path / "b.zip", quiet=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_archive_is_its_owners_alone(tools: Tools, full: str, tmp_path: Path) -> None:
    for name in ("a.zip", "a"):
        moving.export(tools, full, tmp_path / name, quiet=True)
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
