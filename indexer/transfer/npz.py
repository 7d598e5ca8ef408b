"""Stores in NumPy's .npz format: names with embeddings, or DeepFace's columns."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from indexer.transfer import foreign, npy
from indexer.transfer.errors import DAMAGED_ZIP, BadSource
from indexer.transfer.foreign import Entry
from indexer.transfer.npy import Array
from indexer.transfer.source import Source

MOST_BYTES = 8 * 2**30
MOST_RATIO = 100
ALWAYS_BYTES = 64 * 2**20
MOST_MEMBERS = 1000
NAMES = ("names", "identities", "identity", "labels", "people")
EMBEDDINGS = ("embeddings", "embedding", "encodings", "vectors")


def load(path: Path) -> Mapping[str, Array]:
    """All arrays by name. Raises BadSource for members that are no plain arrays, and for too many bytes."""
    try:
        with zipfile.ZipFile(path) as zipped:
            members = zipped.infolist()
            total = sum(member.file_size for member in members)
            allowed = min(MOST_BYTES, max(ALWAYS_BYTES, MOST_RATIO * path.stat().st_size))
            if total > allowed or len(members) > MOST_MEMBERS:
                raise BadSource(
                    f"{path} would unpack to {total} bytes: that is no store of vectors"
                )
            arrays: dict[str, Array] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in arrays:
                    raise BadSource(f"{path}: {member.filename[:100]!r} is not an array of its own")
                with zipped.open(member) as stream:
                    data = stream.read(member.file_size + 1)
                arrays[name] = npy.parse(data, f"{path}, {name[:100]}")
            return arrays
    except DAMAGED_ZIP as error:
        raise BadSource(f"{path} cannot be read: {error}") from error


def source(path: Path, arrays: Mapping[str, Array], made_by: str | None) -> Source:
    """Of names and embeddings, row by row. Raises BadSource."""
    if made_by is None:
        raise BadSource(
            f"{path} does not say what made its vectors: name it with --made-by; vectors of the same name "
            "are compared with one another"
        )
    names = _one(path, arrays, NAMES)
    rows = foreign.vectors(_one(path, arrays, EMBEDDINGS), f"{path}: the embeddings")
    if names.dtype.kind != "U" or names.shape != (len(rows),):
        raise BadSource(f"{path} must hold one name, as text, for each embedding")
    recipe = foreign.unrepeatable("npz", made_by, rows.shape[1])
    seen: dict[str, int] = {}
    entries = []
    for name, row in zip(names.tolist(), rows, strict=True):
        number = seen[name] = seen.get(name, 0) + 1
        entries.append(Entry(name, f"{name}/{number}", row))
    return foreign.source(recipe, rows.shape[1], entries)


def _one(path: Path, arrays: Mapping[str, Array], names: tuple[str, ...]) -> Array:
    found = [arrays[name] for name in names if name in arrays]
    if len(found) != 1:
        raise BadSource(f"{path} must hold exactly one of {', '.join(names)}")
    return found[0]
