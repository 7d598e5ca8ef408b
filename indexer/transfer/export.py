"""A gallery as an archive of open files (docs/moving.md): one snapshot of the database, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from sqlalchemy import Row

from indexer.errors import Conflict, IndexerError
from indexer.store import audit, galleries, identities, images, retention, spaces
from indexer.store import transfer as store
from indexer.store.engine import Database, ReadConnection
from indexer.store.galleries import Gallery
from indexer.store.spaces import Space
from indexer.store.transfer import Scope, StoredFace
from indexer.transfer import records

PAGE = 500
HELD = "held.jsonl"
"""Beside the archive of one person: their consent, then the entries of the audit log about them. Not imported."""
Step = Callable[[int], None]


class CannotExport(IndexerError):
    """The archive cannot be written; the message says why."""


@dataclass(frozen=True, slots=True)
class Exported:
    path: Path
    identities: int
    images: int
    faces: int
    originals: int
    bytes: int


def export(
    database: Database, gallery: str, target: Path, step: Step, person: str | None = None
) -> Exported:
    """Write the gallery, or one person of it with what the audit log says of that one, to `target`.

    That must not exist: it becomes a ZIP file if it is called so, otherwise a folder. `step` is told how many more
    images are done. Raises NotFound, Conflict, CannotExport.
    """
    if os.path.lexists(target):
        raise Conflict(f"{target} exists already; name a new file or folder")
    with database.read() as connection:
        held = galleries.get(connection, gallery)
        try:
            with _beside(target) as folder:
                writer = _Writer(connection, held, folder, _scope(connection, held, person))
                manifest = writer.write(step)
                done = folder
                if target.suffix.lower() == ".zip":
                    done = folder.with_name(folder.name + ".zip")
                    _zip(folder, done, manifest["files"])
                size = _bytes(done)
                _into_place(done, target)
        except OSError as error:
            raise CannotExport(f"{target} cannot be written: {error.strerror or error}") from error
    faces = sum(space["faces"] for space in manifest["spaces"])
    return Exported(
        target, manifest["identities"], manifest["images"], faces, writer.originals, size
    )


def _scope(connection: ReadConnection, held: Gallery, person: str | None) -> Scope:
    if person is None:
        return Scope(held.id)
    return Scope(held.id, identities.find(connection, held.id, person))


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder that only its owner may enter, in the target's file system, which is gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:100]}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(folder.name + ".zip").unlink(missing_ok=True)


class _File:
    """A new file of the archive that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._bytes += len(data)
        return self._file.write(data)

    def record(self, value: Mapping[str, Any]) -> None:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str
        )
        self.write(text.encode() + b"\n")

    def close(self) -> dict[str, Any]:
        """On the disk; what the manifest says of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"sha256": self._hash.hexdigest(), "bytes": self._bytes}


class _Writer:
    """One export; `originals` counts the files that were kept."""

    def __init__(
        self, connection: ReadConnection, gallery: Gallery, folder: Path, scope: Scope
    ) -> None:
        self._connection = connection
        self._gallery = gallery
        self._folder = folder
        self._scope = scope
        self._files: dict[str, Any] = {}
        counts = store.faces_by_space(connection, scope)
        if gallery.active_space_id is not None:
            counts.setdefault(gallery.active_space_id, 0)
        held = [spaces.get(connection, space_id) for space_id in sorted(counts)]
        self._spaces = _once(held, gallery.active_space_id)
        self._counts = counts
        self._numbers = {space.id: number for number, space in enumerate(self._spaces)}
        self._rows = dict.fromkeys(self._numbers, 0)
        self._roots = list(galleries.roots(connection, gallery.id))
        self.originals = 0

    def write(self, step: Step) -> dict[str, Any]:
        """All files; returns the manifest, which is written last."""
        for name in ("vectors", "originals"):
            (self._folder / name).mkdir()
        people = self._people()
        photos = self._photos(step)
        if self._scope.identity_id is not None:
            self._held(self._scope.identity_id)
        active = self._gallery.active_space_id
        manifest = {
            "format": records.FORMAT,
            "format_version": records.FORMAT_VERSION,
            "gallery": self._gallery.name,
            "quality": self._gallery.quality,
            "created_at": datetime.now(UTC).isoformat(),
            "identities": people,
            "images": photos,
            "active_space": None if active is None else self._numbers[active],
            "spaces": [self._space(space) for space in self._spaces],
            "roots": self._roots,
            "files": self._files,
        }
        file = _File(self._folder / records.MANIFEST)
        file.write(json.dumps(manifest, ensure_ascii=False, indent=1).encode())
        file.close()
        return manifest

    def _space(self, space: Space) -> dict[str, Any]:
        recipe = space.recipe
        return {
            "model": recipe.model,
            "detector": recipe.detector,
            "align": recipe.align,
            "normalization": recipe.normalization,
            "version": recipe.version,
            "dimension": space.dimension,
            "faces": self._counts[space.id],
            "vectors": self._vectors_of(space),
        }

    def _vectors_of(self, space: Space) -> str:
        return f"vectors/{self._numbers[space.id]}.npy"

    def _people(self) -> int:
        file, after, count = _File(self._folder / records.IDENTITIES), 0, 0
        while page := store.people(self._connection, self._scope, after, PAGE):
            for row in page:
                file.record(
                    {
                        "name": row.name,
                        "metadata": row.metadata,
                        "created_at": row.created_at.isoformat(),
                    }
                )
            after, count = page[-1].id, count + len(page)
        self._files[records.IDENTITIES] = file.close()
        return count

    def _held(self, identity_id: int) -> None:
        """Of one person: what they consented to, and where the audit log names their number."""
        consent = retention.consent_of(self._connection, identity_id)
        file = _File(self._folder / HELD)
        file.record({"consent": None if consent is None else asdict(consent)})
        for row in audit.about(self._connection, self._gallery.name, identity_id):
            entry = row.entry
            told = {"id": row.id, "at": entry.at, "key": entry.key, "action": entry.action}
            file.record({**told, "detail": entry.detail})
        file.close()

    def _photos(self, step: Step) -> int:
        file, after, count = _File(self._folder / records.IMAGES), (0, 0), 0
        vectors = {space.id: self._begin(space) for space in self._spaces}
        while page := store.photos(self._connection, self._scope, after, PAGE):
            ids = [row.id for row in page]
            outcomes = self._by_image(store.outcomes(self._connection, ids))
            faces = self._by_image(store.faces(self._connection, ids))
            for row in page:
                file.record(self._image(row, outcomes.get(row.id, ()), faces.get(row.id, ())))
                for face in faces.get(row.id, ()):
                    vectors[face.space_id].write(face.vector.astype("<f4").tobytes())
                if row.kept:
                    self._original(row)
            after, count = (page[-1].identity_id, page[-1].id), count + len(page)
            step(len(page))
        self._files[records.IMAGES] = file.close()
        for space in self._spaces:
            self._files[self._vectors_of(space)] = vectors[space.id].close()
        return count

    def _by_image(self, rows: Sequence[Any]) -> dict[int, list[Any]]:
        """Those of the spaces that are written."""
        found: dict[int, list[Any]] = {}
        for row in rows:
            if row.space_id in self._numbers:
                found.setdefault(row.image_id, []).append(row)
        return found

    def _begin(self, space: Space) -> _File:
        file = _File(self._folder / self._vectors_of(space))
        shape = (self._counts[space.id], space.dimension)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        return file

    def _image(
        self, row: Row[*tuple[Any, ...]], outcomes: Sequence[Any], faces: Sequence[StoredFace]
    ) -> dict[str, Any]:
        return {
            "identity": row.identity,
            "sha256": bytes(row.sha256).hex(),
            "size": row.size,
            "uploaded": row.uploaded,
            "root": None if row.root is None else self._roots.index(row.root),
            "locator": row.locator,
            "mtime_ns": row.mtime_ns,
            "width": row.width,
            "height": row.height,
            "state": row.state,
            "reason": row.reason,
            "flags": row.flags,
            "created_at": row.created_at.isoformat(),
            "original": row.kept,
            "outcomes": [
                {"space": self._numbers[x.space_id], "state": x.state, "reason": x.reason}
                for x in outcomes
            ],
            "faces": [self._face(face) for face in faces],
        }

    def _face(self, face: StoredFace) -> dict[str, Any]:
        row = self._rows[face.space_id]
        self._rows[face.space_id] += 1
        points = face.landmarks
        return {
            "space": self._numbers[face.space_id],
            "row": row,
            "box": face.box,
            "landmarks": None if points is None else [_known(value) for value in points],
            "confidence": face.confidence,
            "quality": face.quality,
        }

    def _original(self, row: Row[*tuple[Any, ...]]) -> None:
        name = f"originals/{bytes(row.sha256).hex()}"
        data = images.original(self._connection, row.id)
        if name in self._files or data is None:
            return
        file = _File(self._folder / name)
        file.write(data)
        self._files[name] = file.close()
        self.originals += 1


def _once(held: Sequence[Space], active: int | None) -> list[Space]:
    """One space for each recipe: while a gallery is protected anew it has its embeddings twice."""
    first = sorted(held, key=lambda space: space.id != active)
    kept = {space.recipe: space for space in reversed(first)}
    return [space for space in held if kept[space.recipe] is space]


def _known(value: float) -> float | None:
    """JSON has no NaN, which stands for a point that a detector does not find."""
    return value if math.isfinite(value) else None


def _zip(folder: Path, target: Path, files: Mapping[str, Any]) -> None:
    """Text is packed; vectors and photographs hardly get smaller."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        with zipfile.ZipFile(file, "w", allowZip64=True) as zipped:
            for name in (records.MANIFEST, *files):
                text = name.endswith((".json", ".jsonl"))
                kind = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
                zipped.write(folder / name, name, kind)
        file.flush()
        os.fsync(file.fileno())


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _into_place(done: Path, target: Path) -> None:
    """In one step that outlasts a power cut."""
    if os.path.lexists(target):
        raise Conflict(f"{target} exists by now; name a new file or folder")
    done.rename(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
