"""Bases on disk, so that a restart need not read the whole space from the database.

`space-ID/VERSION-RANDOM/` holds one base: its arrays as raw little-endian numbers, the codes as
FAISS writes them, and `meta.json` with the hash of every file. A folder gets its name in one step
when all of it is written; one that does not check is never used. Vectors are mapped, not read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from filelock import FileLock

from indexer.cache.base import Base, Block, Mark
from indexer.cache.codes import Codes, Shortlists
from indexer.cache.rows import Rows
from recognition.types import Embeddings

log = logging.getLogger(__name__)

FORMAT = 1
META, UNIT = "meta.json", "unit.f32"
ARRAYS = {"faces": "faces.i64", "people": "people.i64", "norms": "norms.f32"}
_TYPES = {"faces": "<i8", "people": "<i8", "norms": "<f4", "unit": "<f4"}
LOCK_POLL_S = 0.2


class Draft:
    """A folder that is being written; it is not there for others before `commit`."""

    def __init__(self, folder: Path, faces: int, dimension: int) -> None:
        """Takes the room for the vectors at once. Raises OSError when there is none."""
        self.folder = folder
        folder.mkdir(mode=0o700)
        path = folder / UNIT
        size = faces * dimension * 4
        with path.open("wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        self.unit: Embeddings = _mapped(path, (faces, dimension), "r+")

    def commit(self, base: Base) -> Base:
        """Write the rest, give the folder its name; the base with the vectors mapped from there."""
        if isinstance(self.unit, np.memmap):
            self.unit.flush()
        for name, file in ARRAYS.items():
            _write(self.folder / file, np.ascontiguousarray(getattr(base.rows, name)).data)
        for block in base.blocks:
            if block.codes is not None:
                data = faiss.serialize_index(block.codes.index)
                _write(self.folder / _codes_file(block), data.data)
        files = sorted(path.name for path in self.folder.iterdir())
        meta = _meta(base) | {"files": {name: _digest(self.folder / name) for name in files}}
        _write(self.folder / META, _sealed(meta))
        _sync(self.folder / UNIT)
        self.folder = self.folder.rename(
            self.folder.with_name(f"{base.mark.version}-{secrets.token_hex(8)}")
        )
        _sync(self.folder.parent)
        unit = _mapped(self.folder / UNIT, base.rows.unit.shape, "r")
        rows = Rows(base.rows.faces, base.rows.people, unit, base.rows.norms)
        return Base(base.mark, base.engine, rows, base.blocks, mapped=True)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Snapshots:
    """The bases of all spaces below one folder, shared by the processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lock(self, space_id: int, patience_s: float = 0) -> FileLock:
        """For the one writer of a space. Raises OSError; what it raises when taken is one too."""
        folder = self._of(space_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(folder / "lock", timeout=patience_s, poll_interval=LOCK_POLL_S)

    def draft(self, space_id: int, faces: int, dimension: int) -> Draft:
        """For the holder of the lock. Raises OSError."""
        self.sweep(space_id)
        return Draft(self._of(space_id) / f"draft-{secrets.token_hex(8)}", faces, dimension)

    def sweep(self, space_id: int) -> None:
        """For the holder of the lock: remove what writers left that were killed."""
        for left in self._of(space_id).glob("draft-*"):
            shutil.rmtree(left, ignore_errors=True)

    def newest(self, space_id: int) -> Base | None:
        """The newest base that is whole, mapped."""
        for folder in self._versions(space_id):
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
                log.warning("snapshot of space %d is not used: %s", space_id, error)
        return None

    def latest(self, space_id: int) -> int:
        """The version of the newest base, whole or not; -1 if there is none."""
        found = self._versions(space_id)
        return int(found[0].name.partition("-")[0]) if found else -1

    def oldest(self, space_id: int) -> int | None:
        """The version of the oldest base; None if there is none, and no draft."""
        if any(self._of(space_id).glob("draft-*")):
            return -1
        found = self._versions(space_id)
        return int(found[-1].name.partition("-")[0]) if found else None

    def forget(self, space_id: int) -> None:
        """Remove everything of the space, but for what another process is writing at the moment."""
        if not self._of(space_id).is_dir():
            return
        self.prune(space_id, None)
        with suppress(OSError), self.lock(space_id):
            self.sweep(space_id)

    def prune(self, space_id: int, keep: Path | None) -> None:
        """Remove all but the base in that folder. Who has one of them mapped keeps it."""
        for folder in self._versions(space_id):
            if folder != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def forget_others(self, space_ids: set[int]) -> None:
        """Remove what is left of spaces that are gone."""
        for folder in self._folder.glob("space-*"):
            number = folder.name.removeprefix("space-")
            if number.isdecimal() and int(number) not in space_ids:
                shutil.rmtree(folder, ignore_errors=True)

    def _of(self, space_id: int) -> Path:
        return self._folder / f"space-{space_id}"

    def _versions(self, space_id: int) -> list[Path]:
        """Newest first."""
        found = [
            folder
            for folder in self._of(space_id).glob("*-*")
            if folder.name.partition("-")[0].isdecimal()
        ]
        return sorted(
            found, key=lambda f: (int(f.name.partition("-")[0]), f.stat().st_mtime_ns), reverse=True
        )


def _meta(base: Base) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **asdict(base.mark),
        "engine": base.engine,
        "faces": len(base.rows),
        "dimension": base.rows.dimension,
        "blocks": [
            [b.gallery_id, b.start, b.stop, None if b.codes is None else asdict(b.codes.shortlists)]
            for b in base.blocks
        ],
    }


def _read(folder: Path) -> Base:
    """Raises OSError, or ValueError and its like when something does not check."""
    meta = _opened((folder / META).read_bytes())
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}")
    for name, digest in meta["files"].items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} is damaged")
    faces, dimension = int(meta["faces"]), int(meta["dimension"])
    arrays = {
        name: np.fromfile(folder / file, _TYPES[name], count=faces) for name, file in ARRAYS.items()
    }
    rows = Rows(unit=_mapped(folder / UNIT, (faces, dimension), "r"), **arrays)
    mark = Mark(meta["space_id"], meta["version"], meta["stamp"], meta["epoch"])
    blocks = tuple(_block(folder, values) for values in meta["blocks"])
    return Base(mark, meta["engine"], rows, blocks, mapped=True)


def _block(folder: Path, values: list[Any]) -> Block:
    gallery_id, start, stop, shortlists = values
    bare = Block(gallery_id, start, stop, None)
    if shortlists is None:
        return bare
    data = np.fromfile(folder / _codes_file(bare), np.uint8)
    index = faiss.deserialize_index(data)
    if not isinstance(index, faiss.IndexPQFastScan):
        raise ValueError("codes of another kind")
    return Block(gallery_id, start, stop, Codes(index, Shortlists(**shortlists)))


def _codes_file(block: Block) -> str:
    return f"codes-{block.gallery_id}.faiss"


def _mapped(path: Path, shape: tuple[int, ...], mode: Any) -> Embeddings:  # noqa: ANN401 - numpy's literals
    if 0 in shape:
        return np.empty(shape, np.float32)
    return np.memmap(path, _TYPES["unit"], mode, shape=shape)


def _sealed(meta: dict[str, Any]) -> bytes:
    body = json.dumps(meta).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _opened(data: bytes) -> dict[str, Any]:
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{META} is damaged")
    meta: dict[str, Any] = json.loads(body)
    return meta


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
