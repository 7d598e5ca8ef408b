"""Images from the web, where the settings allow them: from public addresses or named hosts, and within bounds."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urljoin

import httpx

from recognition.errors import ImageTooLarge
from service.errors import URL_REFUSED, ImageFetchFailed, ImageSourceRefused
from service.settings import ServiceSettings

MAX_REDIRECTS = 3

_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Urls:
    """Fetches images as the settings allow."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._max_bytes = settings.max_image_bytes

    async def fetch(self, url: str) -> bytes:
        """Raises ImageSourceRefused, ImageFetchFailed, ImageTooLarge."""
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
