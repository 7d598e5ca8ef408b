"""Where an image comes from: a file part, base64, a data URI, a URL, or a path on the server.

URLs and paths are off unless the settings allow them. What is refused and what does not exist
get the same answer, so that nobody learns anything about the server's network or disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urljoin

import anyio
import anyio.to_thread
import httpx

from recognition.errors import ImageTooLarge, UndecodableImage
from service.errors import ImageFetchFailed, ImageSourceRefused
from service.settings import ServiceSettings

MAX_PATH = 4096
MAX_REDIRECTS = 3
URL_REFUSED = "images are not taken from this URL; send the image itself"
PATH_REFUSED = "images are not taken from this path; send the image itself"
NOT_AN_IMAGE = "the text is neither base64 nor a data URI of an image"

_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_DATA_URI = re.compile(r"\s*data:[^,]{0,256},", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")
_URLSAFE = str.maketrans("-_", "+/")
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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

    async def get(self, image: str | bytes) -> Pixels:
        """Raises ImageSourceRefused, ImageFetchFailed, ImageTooLarge, UndecodableImage."""
        if isinstance(image, bytes):
            return image
        if data_uri := _DATA_URI.match(image):
            if not data_uri[0].rstrip(",").lower().endswith(";base64"):
                raise UndecodableImage("the data URI is not base64")
            return Encoded(image[data_uri.end() :])
        if _URL.match(image):
            return await self._fetch(image.strip())
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

    async def _fetch(self, url: str) -> bytes:
        if not self._settings.allow_urls:
            raise ImageSourceRefused(URL_REFUSED)
        try:
            async with asyncio.timeout(self._settings.url_timeout):
                return await self._follow(url)
        except TimeoutError as error:
            raise ImageFetchFailed("the URL took too long to answer") from error
        except httpx.HTTPError as error:
            raise ImageFetchFailed("the URL could not be fetched") from error

    async def _follow(self, url: str) -> bytes:
        async with httpx.AsyncClient(trust_env=False, timeout=self._settings.url_timeout) as client:
            for _ in range(MAX_REDIRECTS + 1):
                request = await self._vetted(client, url)
                response = await client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return await self._received(response)
                    url = urljoin(url, response.headers["location"])
                finally:
                    await response.aclose()
        raise ImageFetchFailed("the URL redirects too often")

    async def _vetted(self, client: httpx.AsyncClient, url: str) -> httpx.Request:
        """A request to an address that was looked up once, checked, and is the one connected to."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ImageSourceRefused(URL_REFUSED) from error
        host = parsed.host.lower().rstrip(".")
        hosts = self._settings.url_hosts
        if parsed.scheme not in ("http", "https") or not host or (hosts and host not in hosts):
            raise ImageSourceRefused(URL_REFUSED)
        if parsed.userinfo:
            raise ImageSourceRefused(URL_REFUSED)
        private = self._settings.allow_private_urls and host in hosts
        address = await _address(parsed, allow_private=private)
        headers = {"Host": parsed.netloc.decode("ascii"), "Accept-Encoding": "identity"}
        return client.build_request(
            "GET", parsed.copy_with(host=str(address)), headers=headers,
            extensions={"sni_hostname": host},
        )  # fmt: skip

    async def _received(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise ImageFetchFailed(f"the URL answered with status {response.status_code}")
        received = bytearray()
        async for chunk in response.aiter_raw():
            received += chunk
            if len(received) > self._max_bytes:
                raise ImageTooLarge(f"the URL gives more than {self._max_bytes} bytes")
        return bytes(received)


async def _address(url: httpx.URL, *, allow_private: bool) -> Address:
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise ImageSourceRefused(URL_REFUSED) from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not (allow_private or all(map(is_public, addresses))):
        raise ImageSourceRefused(URL_REFUSED)
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever IPv6 wraps it in."""
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NAT64):
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None or address.is_site_local:
            return False
        if inner is not None:
            return is_public(inner)
        if int(address) < 2**32:  # IPv4-compatible, long deprecated
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )
