"""What can go wrong with the data. Facts only: the HTTP edge and the commands decide how to say it."""

from __future__ import annotations


class IndexerError(Exception):
    """Base of everything this package raises on purpose."""


class DatabaseUnavailable(IndexerError):
    """The database cannot be reached, or the embedded one cannot be started."""


class NotFound(IndexerError):
    """There is no such gallery, identity, image or job."""

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.kind = kind


class Conflict(IndexerError):
    """The request contradicts what is stored; the message says how to resolve it."""


class EmptyGallery(Conflict):
    """Nobody was ever enrolled in the gallery, so it has no embeddings to search."""


class VersionAhead(Conflict):
    """A search is to be no older than a version that the database has not reached."""

    def __init__(self, gallery: str, wanted: int, version: int) -> None:
        super().__init__(
            f"gallery {gallery!r} is at version {version}, there is no version {wanted} of it: "
            "min_version is of another gallery, or the database was put back to a backup; "
            "take the version of a later answer, or leave min_version out"
        )


class InvalidName(IndexerError):
    """A name of a gallery or an identity cannot be used."""


class InvalidFilter(IndexerError):
    """A condition on metadata cannot be understood; the message says which and why."""


class TooManyVanished(IndexerError):
    """So many files are gone that the folder may just not be mounted; nothing was changed."""


class Cancelled(IndexerError):
    """The run was asked to stop; what was committed stays, and running again carries on."""


class KeyMissing(IndexerError):
    """A gallery is protected by a key that this process does not have."""


class BadKey(IndexerError):
    """A key is no key, or what it protects was changed."""


class CannotReembed(IndexerError):
    """Too many images have no original any more, so moving the gallery would lose people."""
