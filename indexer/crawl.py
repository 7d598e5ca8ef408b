"""A folder of people against what the database knows of it: what is new, changed, moved, gone.

`scan` reads the folder, `reconcile` compares (a pure function); neither changes anything.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import IndexerError
from indexer.store.images import Known


class NoSuchTree(IndexerError):
    """The folder to index does not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """An image file: `locator` is its path below the root, `folder` names the person."""

    locator: str
    folder: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Skipped:
    locator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tree:
    root: Path
    files: tuple[TreeFile, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A known image that now lies elsewhere."""

    known: Known
    file: TreeFile


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do. `fresh` are unknown files, `touched` known ones that may have changed."""

    unchanged: int
    fresh: tuple[TreeFile, ...]
    touched: tuple[Move, ...]
    vanished: tuple[Known, ...]
    owners: Mapping[str, str] = field(default_factory=dict)
    """Folder -> identity, where earlier images say so: a rename in the database is kept."""

    def owner(self, file: TreeFile) -> str:
        return self.owners.get(file.folder, file.folder)


def scan(root: Path, suffixes: frozenset[str]) -> Tree:
    """All image files below `root`; each folder is entered once, whatever links lead to it.

    Raises NoSuchTree. Names that start with a dot are left out.
    """
    try:
        resolved = root.resolve(strict=True)
        with os.scandir(resolved):
            pass
    except (OSError, RuntimeError) as error:
        raise NoSuchTree(f"{root} cannot be read as a folder: {error}") from error
    files: list[TreeFile] = []
    skipped: list[Skipped] = []
    for entry, locator in _walk(resolved, skipped):
        if Path(entry.name).suffix.lower() not in suffixes:
            continue
        try:
            file = _file(entry, locator)
        except OSError as error:
            skipped.append(Skipped(_printable(locator), f"cannot be read: {error.strerror}"))
            continue
        if isinstance(file, str):
            skipped.append(Skipped(_printable(locator), file))
        else:
            files.append(file)
    return Tree(resolved, tuple(files), tuple(skipped))


def reconcile(tree: Tree, known: Iterable[Known]) -> Plan:
    """Compare by path, size and modification time; contents are looked at later."""
    by_locator = {k.locator: k for k in known}
    present = {file.locator for file in tree.files}
    fresh: list[TreeFile] = []
    touched: list[Move] = []
    unchanged = 0
    for file in tree.files:
        row = by_locator.get(file.locator)
        if row is None:
            fresh.append(file)
        elif (row.size, row.mtime_ns) == (file.size, file.mtime_ns):
            unchanged += 1
        else:
            touched.append(Move(row, file))
    vanished = [k for k in by_locator.values() if k.locator not in present]
    return Plan(
        unchanged, tuple(fresh), tuple(touched), tuple(vanished), _owners(by_locator.values())
    )


def folder_of(locator: str) -> str:
    """The person that a path below the root belongs to: its first folder, or the file's stem."""
    first, separator, _ = locator.partition("/")
    name = first if separator else Path(first).stem
    return unicodedata.normalize("NFC", name).strip()


def _walk(root: Path, skipped: list[Skipped]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Real folders before linked ones, so that a file is found under its own name first."""
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[str, str]] = [(str(root), "")]
    linked: list[tuple[str, str]] = []
    while waiting or linked:
        path, prefix = waiting.pop() if waiting else linked.pop()
        try:
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda e: e.name, reverse=True)
        except OSError as error:
            skipped.append(Skipped(_printable(prefix), f"cannot be read: {error.strerror}"))
            continue
        for entry in reversed(entries):
            if entry.name.startswith("."):
                continue
            locator = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=True):
                (linked if entry.is_symlink() else waiting).append((entry.path, f"{locator}/"))
            else:
                yield entry, locator


def _file(entry: os.DirEntry[str], locator: str) -> TreeFile | str:
    """The file, or why it cannot be taken: reading a pipe or a device might never end."""
    status = entry.stat(follow_symlinks=True)
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    try:
        locator.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not valid Unicode"
    return TreeFile(locator, folder_of(locator), status.st_size, status.st_mtime_ns)


def _owners(known: Iterable[Known]) -> dict[str, str]:
    return {folder_of(k.locator): k.identity for k in known}


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
