"""An archive's files: a folder or a ZIP file whose manifest names each with its hash. All are checked before use."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from indexer.transfer import records
from indexer.transfer.errors import DAMAGED_ZIP, BadSource
from indexer.transfer.records import FileRecord, Manifest

CHUNK = 1 << 20
MOST_RATIO = 200
"""Bytes that an archive may unpack to, per byte of it; what `export` writes has far less."""
ALWAYS_BYTES = 64 * 2**20
"""So many it may have in any case."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A folder in which every file of the manifest is whole."""

    folder: Path
    manifest: Manifest

    def original(self, sha256: str) -> Path:
        return self.folder / "originals" / sha256


def is_archive(path: Path) -> bool:
    """Whether it is meant to be one; whether it is good `opened` finds out."""
    if path.is_dir():
        return (path / records.MANIFEST).is_file()
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as zipped:
            return records.MANIFEST in zipped.namelist()
    except DAMAGED_ZIP:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A checked archive; a ZIP file is unpacked into a folder of its own meanwhile. Raises BadSource."""
    with tempfile.TemporaryDirectory(prefix="facesearch-import-") as name:
        folder = path if path.is_dir() else Path(name)
        try:
            if folder != path:
                with zipfile.ZipFile(path) as zipped:
                    _unpack(zipped, path, folder)
            found = _checked(folder)
        except DAMAGED_ZIP as error:
            raise BadSource(f"{path} cannot be read: {error}") from error
        yield found


def _checked(folder: Path) -> Archive:
    place = folder / records.MANIFEST
    if _size(place) > records.MANIFEST_BYTES:
        raise BadSource(f"{records.MANIFEST} is too large")
    manifest = records.parse(Manifest, place.read_bytes(), records.MANIFEST)
    for name, file in manifest.files.items():
        _check(folder / name, name, file)
    return Archive(folder, manifest)


def _check(path: Path, name: str, file: FileRecord) -> None:
    if _size(path) != file.bytes:
        raise BadSource(f"{name} has not the length that the manifest says")
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            raise BadSource(f"{name} is damaged: its sha256 is not the manifest's")


def _size(path: Path) -> int:
    """Of a file that is there and nothing else, such as a link out of the folder."""
    try:
        found = path.lstat()
    except OSError as error:
        raise BadSource(f"{path.name} is missing") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadSource(f"{path.name} is not a regular file")
    return found.st_size


def _unpack(zipped: zipfile.ZipFile, path: Path, folder: Path) -> None:
    """Every member to its place; names and sizes are looked at first."""
    members = [member for member in zipped.infolist() if not member.is_dir()]
    names = [member.filename for member in members]
    for name in names:
        if records.NAMES.fullmatch(name) is None:
            raise BadSource(f"{path} holds {name[:100]!r}, which does not belong into an archive")
    if len(set(names)) < len(names):
        raise BadSource(f"{path} holds a file twice")
    total, packed = sum(member.file_size for member in members), path.stat().st_size
    if total > max(ALWAYS_BYTES, MOST_RATIO * packed):
        raise BadSource(f"{path} would unpack to {total} bytes from {packed}: no archive does that")
    if total > shutil.disk_usage(folder).free:
        raise BadSource(f"{path} unpacks to {total} bytes, for which {folder} has no room")
    for sub in ("vectors", "originals"):
        (folder / sub).mkdir()
    for member in members:
        with zipped.open(member) as source, (folder / member.filename).open("xb") as target:
            _copy(source, target, member.file_size)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """No more than was promised."""
    done = 0
    while chunk := source.read(CHUNK):
        done += len(chunk)
        if done > size:
            raise BadSource("a member of the archive is longer than it says")
        target.write(chunk)
