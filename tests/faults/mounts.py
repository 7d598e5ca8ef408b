"""Small file systems of our own, where this machine lets us mount any."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096


def possible() -> bool:
    """Whether we may mount; tried, for containers forbid it to root as well."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = _call("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        except FileNotFoundError:
            return False
        if done:
            _call("umount", folder)
        return done


def tmpfs(folder: Path, size: int) -> None:
    if not _call("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)):
        raise OSError(f"{folder} cannot be mounted")


def used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def resize(folder: Path, size: int) -> None:
    """Let it hold so many bytes; at least those that are in it."""
    for room in (size, *(used(folder) + n * 64 * PAGE for n in range(1, 40))):
        if _call("mount", "-o", f"remount,size={max(room, PAGE)}", str(folder)):
            return
    raise OSError(f"{folder} cannot be resized")


def unmount(folder: Path) -> None:
    """Also with something in it that is still in use."""
    _call("umount", "-l", str(folder))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Whoever opens anything below the folder finds a read-only file system there."""
    path = str(folder)
    if not _call("mount", "--bind", path, path):
        raise OSError(f"{folder} cannot be mounted")
    try:
        if not _call("mount", "-o", "remount,ro,bind", path):
            raise OSError(f"{folder} cannot be made read-only")
        yield
    finally:
        unmount(folder)


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be written, not even by who has it open."""
    try:
        _call("chattr", "-R", "-f", "+i", str(folder))
        yield
    finally:
        _call("chattr", "-R", "-f", "-i", str(folder))


def may_be_immutable(folder: Path) -> bool:
    """Whether the file system and our rights allow it."""
    path = folder / "tried"
    path.touch()
    try:
        return _call("chattr", "+i", str(path))
    except FileNotFoundError:
        return False
    finally:
        _call("chattr", "-f", "-i", str(path))
        path.unlink()


def _call(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
