"""Reading a tree and comparing it; no database."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.crawl import NoSuchTree, Tree, TreeFile, folder_of, reconcile, scan
from indexer.diff import diff, guard
from indexer.errors import TooManyVanished
from indexer.store.images import Known
from recognition.images import SUFFIXES


def touch(root: Path, *locators: str) -> None:
    for locator in locators:
        path = root / locator
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(locator.encode())


def found(root: Path) -> dict[str, str]:
    return {file.locator: file.folder for file in scan(root, SUFFIXES).files}


def test_people_are_first_level_folders_and_files_at_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "Ann/1.jpg", "Ann/2019/beach/2.PNG", "Bob.jpeg", "Ann/notes.txt", "Eve/.x.jpg")
    touch(tmp_path, ".cache/3.jpg")
    assert found(tmp_path) == {"Ann/1.jpg": "Ann", "Ann/2019/beach/2.PNG": "Ann", "Bob.jpeg": "Bob"}


def test_names_are_unicode_and_composed(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Zoë Łukasz 山田")
    touch(tmp_path, f"{decomposed}/1.jpg")
    assert list(found(tmp_path).values()) == [unicodedata.normalize("NFC", decomposed)]


def test_a_name_that_is_not_unicode_is_reported(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "Ann") + b"/\xff.jpg")).write_bytes(b"x")
    tree = scan(tmp_path, SUFFIXES)
    assert tree.files == ()
    assert [s.reason for s in tree.skipped] == ["its name is not valid Unicode"]
    assert tree.skipped[0].locator == "Ann/\\xff.jpg"


def test_pipes_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "Ann/1.jpg")
    os.mkfifo(tmp_path / "Ann" / "pipe.jpg")
    tree = scan(tmp_path, SUFFIXES)
    assert [f.locator for f in tree.files] == ["Ann/1.jpg"]
    assert [s.reason for s in tree.skipped] == ["it is not a regular file"]


def test_symlink_loops_end_and_each_folder_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "Ann/1.jpg", "Bob/deep/2.jpg")
    (tmp_path / "Ann" / "up").symlink_to(tmp_path)
    (tmp_path / "Bob" / "self").symlink_to(tmp_path / "Bob")
    (tmp_path / "Aaron").symlink_to(tmp_path / "Bob")
    (tmp_path / "Ann" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert found(tmp_path) == {"Ann/1.jpg": "Ann", "Bob/deep/2.jpg": "Bob"}


def test_a_linked_folder_from_outside_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "store", "1.jpg")
    tree = tmp_path / "people"
    tree.mkdir()
    (tree / "Ann").symlink_to(tmp_path / "store")
    assert found(tree) == {"Ann/1.jpg": "Ann"}


def test_a_missing_tree_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoSuchTree, match="nowhere"):
        scan(tmp_path / "nowhere", SUFFIXES)


def known(number: int, locator: str, **values: object) -> Known:
    row = {
        "id": number,
        "identity_id": number,
        "identity": folder_of(locator),
        "locator": locator,
        "sha256": bytes([number]) * 32,
        "size": 10,
        "mtime_ns": 1,
        "state": "ready",
        "uploaded": False,
    }
    return Known(**(row | values))  # type: ignore[arg-type]


def tree(*files: TreeFile) -> Tree:
    return Tree(Path("/nowhere"), files, ())


def test_reconcile_tells_unchanged_new_changed_and_vanished() -> None:
    rows = [known(1, "a/1.jpg"), known(2, "a/2.jpg"), known(3, "b/3.jpg")]
    plan = reconcile(
        tree(
            TreeFile("a/1.jpg", "a", 10, 1),
            TreeFile("a/2.jpg", "a", 11, 1),
            TreeFile("c/4.jpg", "c", 10, 1),
        ),
        rows,
    )
    assert plan.unchanged == 1
    assert [move.known.id for move in plan.touched] == [2]
    assert [file.locator for file in plan.fresh] == ["c/4.jpg"]
    assert [row.id for row in plan.vanished] == [3]


def test_a_person_renamed_in_the_database_keeps_the_name() -> None:
    rows = [known(1, "bob_1/1.jpg", identity="Robert")]
    file = TreeFile("bob_1/2.jpg", "bob_1", 5, 5)
    plan = reconcile(tree(TreeFile("bob_1/1.jpg", "bob_1", 10, 1), file), rows)
    assert plan.owner(file) == "Robert"


@pytest.mark.parametrize(
    ("gone", "limit", "stops"), [(2, 20, False), (3, 20, True), (10, 100, False)]
)
def test_the_guard_stops_above_its_share(gone: int, limit: float, stops: bool) -> None:
    rows = [known(n, f"p/{n}.jpg") for n in range(10)]
    files = [TreeFile(f"p/{n}.jpg", "p", 10, 1) for n in range(gone, 10)]
    difference = diff(tree(*files), rows, [])
    if stops:
        with pytest.raises(TooManyVanished, match=f"{gone} of 10"):
            guard(difference, limit)
    else:
        guard(difference, limit)


names = st.sampled_from(["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/x/2.jpg", "c.jpg"])
stamps = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(st.dictionaries(names, stamps), st.dictionaries(names, stamps))
def test_every_file_and_every_row_ends_up_in_one_place(
    before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]
) -> None:
    rows = [
        known(n, name, size=size, mtime_ns=mtime)
        for n, (name, (size, mtime)) in enumerate(before.items())
    ]
    files = [TreeFile(name, folder_of(name), size, mtime) for name, (size, mtime) in now.items()]
    plan = reconcile(tree(*files), rows)
    assert plan.unchanged + len(plan.fresh) + len(plan.touched) == len(now)
    assert plan.unchanged + len(plan.vanished) + len(plan.touched) == len(before)
    assert {f.locator for f in plan.fresh} == now.keys() - before.keys()
    assert {k.locator for k in plan.vanished} == before.keys() - now.keys()
