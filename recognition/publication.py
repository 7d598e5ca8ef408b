"""What is known about a weights file: its name, hash and licence, and where it is published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

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
    how: str = ""
    """How the file is made from what is published, where it is not published as such."""
    path: Path | None = None
    """Where it lies, if it is a file of the user's own, which nobody publishes."""

    def __post_init__(self) -> None:
        """Raises ValueError: a spec that cannot be right is a bug."""
        if not self.name or "/" in self.name or "\\" in self.name or self.name.startswith("."):
            raise ValueError(f"{self.name!r} is not the name of a file")
        if self.path is None and not (self.package or self.urls or self.how):
            raise ValueError(f"{self.name} is published nowhere")
        if self.package and not (self.member and self.sha256):
            raise ValueError(f"{self.name} needs its place in {self.package}, and its sha256")
        for url in self.urls:
            check_address(url)

    @property
    def source(self) -> str:
        """Where it is published, in words."""
        if self.path is not None:
            return "a file of your own"
        packaged = [f"{self.member} of the Python package {self.package}"] if self.package else []
        inside = f" (in it, {self.archive_member or self.name})" if self.archive == "zip" else ""
        inside = " (bzip2)" if self.archive == "bz2" else inside
        made = [self.how] if self.how else []
        return " or ".join([*packaged, *(url + inside for url in self.urls), *made])


def check_address(url: str) -> None:
    """Raises ValueError unless `url` is https, or http of this machine."""
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or is_local(url)):
        raise ValueError(f"{url!r} is not an https address")


def is_local(url: str) -> bool:
    """Whether it is plain http of this machine: nobody can change it on its way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
