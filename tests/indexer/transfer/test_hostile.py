"""Archives that lie, and files that want to run code: refused before anything is stored."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import moving
from indexer.commands import Tools
from indexer.moving import Asked
from indexer.store import galleries
from indexer.transfer import npz, plain_pickle
from indexer.transfer.errors import BadSource

Change = Callable[[Path], None]


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def put(folder: Path, name: str, content: list[dict[str, Any]] | bytes) -> None:
    """Change a file and let the manifest agree, as an attacker would."""
    if isinstance(content, list):
        content = b"".join(json.dumps(row).encode() + b"\n" for row in content)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


def vectors(folder: Path, values: np.ndarray[Any, Any]) -> None:
    data = io.BytesIO()
    np.save(data, values, allow_pickle=True)
    put(folder, "vectors/0.npy", data.getvalue())


def first_image(**values: object) -> Change:
    def change(folder: Path) -> None:
        rows = lines(folder, "images.jsonl")
        rows[0].update(values)
        put(folder, "images.jsonl", rows)

    return change


def first_face(**values: object) -> Change:
    def change(folder: Path) -> None:
        rows = lines(folder, "images.jsonl")
        rows[0]["faces"][0].update(values)
        put(folder, "images.jsonl", rows)

    return change


def manifest(**values: object) -> Change:
    def change(folder: Path) -> None:
        told = json.loads((folder / "manifest.json").read_text())
        told.update(values)
        (folder / "manifest.json").write_text(json.dumps(told))

    return change


def damaged(folder: Path) -> None:
    path = folder / "vectors" / "0.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def linked(folder: Path) -> None:
    path = folder / "images.jsonl"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def twice(folder: Path) -> None:
    put(folder, "identities.jsonl", lines(folder, "identities.jsonl")[:1] * 2)


def shuffled(folder: Path) -> None:
    put(folder, "identities.jsonl", lines(folder, "identities.jsonl")[::-1])


def not_a_number(folder: Path) -> None:
    rows = np.load(folder / "vectors" / "0.npy")
    rows[1, 5] = np.nan
    vectors(folder, rows)


HOSTILE: dict[str, Change] = {
    "a flipped bit": damaged,
    "a file that is gone": lambda folder: (folder / "images.jsonl").unlink(),
    "a link out of the folder": linked,
    "objects to unpickle": lambda folder: vectors(folder, np.array([os.system, 1], object)),
    "vectors too short": lambda folder: vectors(folder, np.zeros((4, 127), np.float32)),
    "too few vectors": lambda folder: vectors(folder, np.zeros((3, 128), np.float32)),
    "doubles": lambda folder: vectors(folder, np.zeros((4, 128))),
    "NaN": not_a_number,
    "not an array": lambda folder: put(folder, "vectors/0.npy", b"\x93NUMPY\x01\x00\xff\xff{"),
    "a person twice": twice,
    "images in another order": shuffled,
    "no JSON": lambda folder: put(folder, "images.jsonl", b"{" * 100_000),
    "a path for a name": lambda folder: put(
        folder, "identities.jsonl",
        [{**row, "name": "../x"} for row in lines(folder, "identities.jsonl")],
    ),
    "NUL in metadata": lambda folder: put(
        folder, "identities.jsonl",
        [{**row, "metadata": {"a": "\x00"}} for row in lines(folder, "identities.jsonl")],
    ),
    "half a character": lambda folder: put(
        folder, "identities.jsonl",
        [{**row, "metadata": {"a": "\ud800"}} for row in lines(folder, "identities.jsonl")],
    ),
    "a huge number": first_image(size=2**63),
    "a width that is text": first_image(width="7"),
    "a state that is none": first_image(state="gone"),
    "an unknown folder": first_image(root=7),
    "an original that is not there": first_image(original=True, sha256="0" * 64),
    "a row that is not next": first_face(row=2),
    "a row before the first": first_face(row=-1),
    "an unknown space": first_face(space=9),
    "landmarks that are nine": first_face(landmarks=[1.0] * 9),
    "a box without end": first_face(box=[1e999, 0, 0, 0]),
    "another format": manifest(format="something"),
    "a later version": manifest(format_version=2),
    "an active space that is none": manifest(active_space=3),
    "a file elsewhere": manifest(files={"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}),
    "fewer people than it says": manifest(identities=7),
    "a gallery with a slash": manifest(gallery="a/b"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_lying_archive_is_refused_whole(tools: Tools, archive: Path, what: str) -> None:
    HOSTILE[what](archive)
    name = f"hostile {what}"
    with pytest.raises(BadSource):
        moving.restore(tools, Asked(archive, gallery=name), quiet=True)
    with tools.database.read() as connection:
        assert name not in {g.name for g in galleries.all_galleries(connection)}


def packed(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../evil", "/no/such/evil", "vectors/../../evil", "originals/x"])
def test_no_member_leaves_the_archive(tools: Tools, tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / "a.zip", {"manifest.json": b"{}", name: b"x"})
    with pytest.raises(BadSource, match="does not belong"):
        moving.restore(tools, Asked(path), quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_a_bomb_is_not_unpacked(tools: Tools, tmp_path: Path) -> None:
    bomb = {"manifest.json": b"{}", "images.jsonl": bytes(200 * 2**20)}
    path = packed(tmp_path / "a.zip", bomb)
    with pytest.raises(BadSource, match="unpack"):
        moving.restore(tools, Asked(path), quiet=True)
    path = packed(tmp_path / "b.npz", {"names.npy": bytes(200 * 2**20)})
    with pytest.raises(BadSource, match="unpack"):
        moving.restore(tools, Asked(path, made_by="x"), quiet=True)


def test_a_broken_zip_is_refused(tools: Tools, full: str, tmp_path: Path) -> None:
    moving.export(tools, full, tmp_path / "a.zip", quiet=True)
    whole = (tmp_path / "a.zip").read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 30, 0):
        (tmp_path / "b.zip").write_bytes(whole[:size])
        with pytest.raises(BadSource):
            moving.restore(tools, Asked(tmp_path / "b.zip"), quiet=True)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [Evil(), [{"identity": Evil()}], np.float64(1.0), {1, 2}, len, b"bytes", 1j]
)
def test_a_pickle_runs_nothing(
    value: object, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSource):
        plain_pickle.load(pickle.dumps(value, protocol))
    assert not (tmp_path / "ran").exists()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()
    | st.integers(-(2**100), 2**100),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)  # fmt: skip


@given(PLAIN, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    assert plain_pickle.load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("count", [1, 15, 16, 17, 999, 1000, 1001, 4096, 4097, 20_000])
def test_long_runs_of_floats(count: int) -> None:
    values = [*np.random.default_rng(count).normal(size=count).tolist(), 7, "G", True]
    assert plain_pickle.load(pickle.dumps([values, values], 5)) == [values, values]


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_pickle_is_refused_or_plain(data: bytes, at: int, byte: int) -> None:
    whole = bytearray(pickle.dumps([{"identity": "a/b.jpg", "embedding": [1.5, 2.5] * 20}], 5))
    whole[at % len(whole)] = byte
    for each in (data, b"\x80\x05" + data, bytes(whole), bytes(whole[: at % len(whole)])):
        try:
            plain_pickle.load(each)
        except BadSource:
            continue


def test_a_deep_or_huge_pickle_is_refused() -> None:
    for data in (
        b"\x80\x05" + b"(" * 1000,
        b"\x80\x05r\xff\xff\xff\x7f.",
        b"\x80\x05\x8a\xff" + bytes(255),
    ):
        with pytest.raises(BadSource):
            plain_pickle.load(data)
    numbered = b"\x80\x05Nr\xff\xff\xff\x7f."
    assert plain_pickle.load(numbered) is None, "a memo's number allocates nothing"


@given(st.binary(max_size=200))
def test_whatever_is_in_an_npz_is_an_array_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    for content in (data, b"\x93NUMPY\x01\x00" + data):
        packed(path, {"names.npy": content})
        with pytest.raises(BadSource):
            npz.load(path)


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"names.npy": np.array(["a"]), "embeddings": b"bytes, not an array"}, "array of its own"),
        ({"names.npy": np.array(["a"]), "embeddings.npy": b"bytes"}, "not an array"),
        ({"names.npy": np.array([os.system], object)}, "only numbers and text"),
        ({"names.npy": np.array([(1, "a")], "i4,U1")}, "only numbers and text"),
        ({"names.npy": np.array(["a", "b"]), "embeddings.npy": np.ones((1, 8))}, "one name"),
        ({"names.npy": np.array(["a"]), "embeddings.npy": np.ones((1, 8, 2))}, "shape"),
        ({"names.npy": np.array(["a"]), "embeddings.npy": np.full((1, 8), np.nan)}, "finite"),
        ({"names.npy": np.array(["a"]), "embeddings.npy": np.full((1, 8), 1e300)}, "finite"),
        ({"names.npy": np.array(["a"]), "embeddings.npy": np.zeros((1, 8))}, "zeros"),
        ({"names.npy": np.array(["a/b"]), "embeddings.npy": np.ones((1, 8))}, "slashes"),
        ({"embeddings.npy": np.ones((1, 8))}, "exactly one"),
        ({"names.npy": np.array(["a"]), "embeddings.npy": np.ones((1, 20_000))}, "shape"),
    ],
)  # fmt: skip
def test_a_bad_npz_is_refused(
    tools: Tools, tmp_path: Path, members: dict[str, Any], match: str
) -> None:
    content = {}
    for name, value in members.items():
        data = io.BytesIO()
        if isinstance(value, bytes):
            data.write(value)
        else:
            np.save(data, value, allow_pickle=True)
        content[name] = data.getvalue()
    path = packed(tmp_path / "a.npz", content)
    with pytest.raises(BadSource, match=match):
        moving.restore(tools, Asked(path, made_by="x"), quiet=True)


def test_anything_else_is_told_what_can_be_imported(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path / "a.txt", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadSource):
            moving.restore(tools, Asked(path), quiet=True)
