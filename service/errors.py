"""What can go wrong at the HTTP edge itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ServiceError(Exception):
    """Base of everything this package raises on purpose; `retry_after` is in seconds."""

    retry_after: int | None = None

    @property
    def members(self) -> Mapping[str, Any]:
        """What the problem document says beyond its standard members."""
        return {}


class Overloaded(ServiceError):
    """As much work is waiting as is let wait."""

    retry_after = 1


class ClientGone(ServiceError):
    """The client closed the connection before its answer was there."""


class RequestTooLarge(ServiceError):
    """The body, or the number of its parts, is over the limit."""


class BodyTooSlow(ServiceError):
    """The client took too long to send the body."""


class MalformedBody(ServiceError):
    """The body is not what its Content-Type says."""


class UnsupportedBody(ServiceError):
    """The Content-Type is none of those taken."""


class InvalidRequest(ServiceError):
    """Fields are missing, unknown or of the wrong kind; `errors` says which."""

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)

    @property
    def members(self) -> Mapping[str, Any]:
        return {"errors": list(self.errors)} if self.errors else {}


class UnsupportedOption(ServiceError):
    """An option is known, but not with this model, this gallery or in this version."""


URL_REFUSED = "images are not taken from this URL; send the image itself"


class ImageSourceRefused(ServiceError):
    """A URL or a server path that is not allowed, or does not exist: nobody is told which."""


class ImageFetchFailed(ServiceError):
    """An allowed URL gave no image."""


class PathRefused(ServiceError):
    """A folder that may not be indexed over HTTP."""


class NothingEnrolled(ServiceError):
    """None of the files could be used; `files` says why for each."""

    def __init__(self, detail: str, files: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(detail)
        self.files = tuple(files)

    @property
    def members(self) -> Mapping[str, Any]:
        return {"files": list(self.files)}


class NothingEnrolledTooLarge(NothingEnrolled):
    """None of the files could be used, all because of their size."""


class Unauthorized(ServiceError):
    """No valid API key was sent."""


class Forbidden(ServiceError):
    """The API key that was sent is not for this."""


class TooManyRequests(ServiceError):
    """The API key has had its share for now."""

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotReady(ServiceError):
    """Something that answers need is not there yet; `checks` says what."""

    retry_after = 2

    def __init__(self, detail: str, checks: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.checks = dict(checks)

    @property
    def members(self) -> Mapping[str, Any]:
        return {"checks": self.checks}
