"""Snapshots: what was written is read, and what is damaged is not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.cache.ask import Ask, search
from indexer.cache.base import Base, BaseWriter, Mark
from indexer.cache.disk import Snapshots
from indexer.cache.space import SpaceIndex
from recognition.metrics import normalise
from tests.indexer.cache.conftest import GALLERY, MARK, Faces, made_up

FACES = made_up(people=500, each=4, dimension=32)


def write(snapshots: Snapshots, faces: Faces = FACES, mark: Mark = MARK) -> Base:
    with snapshots.lock(mark.space_id, 1):
        draft = snapshots.draft(mark.space_id, *faces.raw.shape)
        writer = BaseWriter(faces.owners, draft.unit)
        norms = np.linalg.norm(faces.raw, axis=1).astype(np.float32)
        writer.put(faces.ids, normalise(faces.raw), norms)
        return draft.commit(writer.finish(mark, "compressed", 1))


def the_folder(root: Path) -> Path:
    (found,) = (root / "space-3").glob("5-*")
    return found


def test_read_as_written(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    written = write(snapshots)
    read = snapshots.newest(3)
    assert read is not None
    assert read.mark == MARK
    assert read.engine == "compressed"
    assert read.mapped
    assert isinstance(read.rows.unit, np.memmap)
    for base in (written, read):
        view = SpaceIndex(base).view(GALLERY)
        assert view is not None
        assert view.coded
        hits = search(view, FACES.raw[:1], Ask(limit=3)).hits[0]
        assert hits.faces[0] == FACES.ids[0]
        assert hits.distances[0] == pytest.approx(0, abs=1e-9)
        raw = search(view, FACES.raw[:1], Ask(limit=3, metric="euclidean")).hits[0]
        assert raw.distances[0] == pytest.approx(0, abs=1e-6)


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    write(Snapshots(tmp_path))
    folder = the_folder(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "name",
    ["unit.f32", "faces.i64", "people.i64", "norms.f32", f"codes-{GALLERY}.faiss", "meta.json"],
)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_files_are_not_used(tmp_path: Path, name: str, how: str) -> None:
    snapshots = Snapshots(tmp_path)
    write(snapshots)
    file = the_folder(tmp_path) / name
    data = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert snapshots.newest(3) is None


def test_an_older_one_is_used_when_the_newest_is_damaged(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    write(snapshots)
    write(snapshots, mark=Mark(3, 9, 78, "epoch"))
    assert snapshots.latest(3) == 9
    (newest,) = (tmp_path / "space-3").glob("9-*")
    (newest / "meta.json").write_text("{}")
    read = snapshots.newest(3)
    assert read is not None
    assert read.mark.version == 5


def test_a_draft_is_nothing_and_is_cleared_away(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    with snapshots.lock(3, 1):
        snapshots.draft(3, 10, 4)  # a process that was killed leaves this
        assert snapshots.newest(3) is None
        snapshots.draft(3, 10, 4)
        assert len(list((tmp_path / "space-3").glob("draft-*"))) == 1


def test_pruning_and_spaces_that_are_gone(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    mapped = write(snapshots)
    write(snapshots, mark=Mark(3, 9, 78, "epoch"))
    (newest,) = (tmp_path / "space-3").glob("9-*")
    snapshots.prune(3, newest)
    assert snapshots.latest(3) == 9
    assert len(list((tmp_path / "space-3").glob("*-*"))) == 1
    np.testing.assert_allclose(np.linalg.norm(mapped.rows.unit, axis=1), 1, atol=1e-5)
    snapshots.forget_others({3})
    assert snapshots.latest(3) == 9
    snapshots.forget_others({4})
    assert not (tmp_path / "space-3").exists()


def test_a_second_writer_waits_its_turn(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    with snapshots.lock(3, 1), pytest.raises(OSError), snapshots.lock(3):  # noqa: PT011 - any
        pytest.fail("two hold the lock")


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    with snapshots.lock(3, 1), pytest.raises(OSError):  # noqa: PT011 - "no space left" or "too large"
        snapshots.draft(3, 2**44, 512)
