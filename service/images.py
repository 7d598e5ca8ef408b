"""Where an image comes from: a file part, base64, a data URI, a URL, or a path on the server.

URLs and paths are off unless the settings allow them. What is refused and what does not exist
get the same answer, so that nobody learns anything about the server's network or disk.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from recognition.errors import ImageTooLarge, UndecodableImage
from service.errors import URL_REFUSED, ImageSourceRefused
from service.settings import ServiceSettings

if TYPE_CHECKING:
    from service.urls import Urls

MAX_PATH = 4096
PATH_REFUSED = "images are not taken from this path; send the image itself"
NOT_AN_IMAGE = "the text is neither base64 nor a data URI of an image"

_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_DATA_URI = re.compile(r"\s*data:[^,]{0,256},", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")
_URLSAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Encoded:
    """base64 text that is still to be decoded, which is done off the event loop."""

    text: str

    def decode(self, max_bytes: int) -> bytes:
        """Raises UndecodableImage, ImageTooLarge."""
        if len(self.text) * 3 // 4 > max_bytes + 1024:
            raise ImageTooLarge(
                f"the image has more than {max_bytes} bytes, which are the most taken"
            )
        try:
            return base64.b64decode(self.text, validate=True)
        except (binascii.Error, ValueError):
            return self._decode_leniently()

    def _decode_leniently(self) -> bytes:
        """Blanks, the alphabet for URLs and missing padding are nothing to complain of."""
        text = _BLANKS.sub("", self.text).translate(_URLSAFE).rstrip("=")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise UndecodableImage(NOT_AN_IMAGE) from error


Pixels = bytes | Encoded
"""An image that has arrived; `content` makes bytes of it."""


def content(image: Pixels, max_bytes: int) -> bytes:
    return image.decode(max_bytes) if isinstance(image, Encoded) else image


class ImageSources:
    """Gets images as the settings allow."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._max_bytes = settings.max_image_bytes
        self._roots = tuple(root.resolve() for root in settings.image_roots)
        self._urls = _urls(settings)

    async def get(self, image: str | bytes) -> Pixels:
        """Raises ImageSourceRefused, ImageFetchFailed, ImageTooLarge, UndecodableImage."""
        if isinstance(image, bytes):
            return image
        if data_uri := _DATA_URI.match(image):
            if not data_uri[0].rstrip(",").lower().endswith(";base64"):
                raise UndecodableImage("the data URI is not base64")
            return Encoded(image[data_uri.end() :])
        if _URL.match(image):
            if self._urls is None:
                raise ImageSourceRefused(URL_REFUSED)
            return await self._urls.fetch(image.strip())
        if len(image) <= MAX_PATH and "." in image:  # base64 has no dots
            return await anyio.to_thread.run_sync(self._read, image)
        return Encoded(image)

    def _read(self, name: str) -> bytes:
        """A file below one of the roots, symbolic links followed."""
        for root in self._roots:
            try:
                path = (root / name).resolve(strict=True)
                if not path.is_relative_to(root) or not path.is_file():
                    continue
                with path.open("rb") as file:
                    data = file.read(self._max_bytes + 1)
            except (OSError, ValueError, RuntimeError):
                continue
            if len(data) > self._max_bytes:
                raise ImageTooLarge(f"the file has more than {self._max_bytes} bytes")
            return data
        raise ImageSourceRefused(PATH_REFUSED)


def _urls(settings: ServiceSettings) -> Urls | None:
    if not settings.allow_urls:
        return None
    from service.urls import Urls  # noqa: PLC0415 - slow to import, and off by default

    return Urls(settings)
