"""What the service needs to know beyond the indexer's settings; same prefix, `FACESEARCH_`."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import ByteSize, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from indexer.settings import SNAPSHOT_FROM, Settings

Listed = Annotated[tuple[str, ...], NoDecode]
Folders = Annotated[tuple[Path, ...], NoDecode]


def _half_of_memory() -> ByteSize:
    return ByteSize(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _share(cores: int, workers: int) -> int:
    """Of so many cores those for each of the processes."""
    return max(1, cores // workers)


class ServiceSettings(Settings):
    """Lists are comma separated."""

    host: str = Field(
        "127.0.0.1", description="address to bind; others than loopback need API keys"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to bind")
    workers: int = Field(1, ge=1, description="server processes, each with its own search cache")
    concurrency: int = Field(
        default_factory=lambda told: _share(os.cpu_count() or 1, told.get("workers", 1)) + 1,
        ge=1,
        description="images worked on at once, by each process; one of them waits for its decoder",
    )
    queue_limit: int = Field(32, ge=0, description="requests waiting for their turn; more get 503")
    queue_timeout: float = Field(
        30.0, gt=0, description="seconds that a request waits for its turn before it gets 503"
    )
    max_request_bytes: int = Field(64 * 2**20, ge=1, description="largest request body accepted")
    max_buffered_bytes: int = Field(
        512 * 2**20, ge=1, description="request bodies held at once, by each process; then 503"
    )
    body_timeout: float = Field(
        60.0, gt=0, description="seconds that a client may take to send a body"
    )
    max_files: int = Field(100, ge=1, description="files in one upload")
    max_faces_per_probe: int = Field(
        200, ge=1, description="faces of one image that are looked at, largest first"
    )
    allow_urls: bool = Field(False, description="accept http(s) URLs as images")
    url_hosts: Listed = Field((), description="hosts that URLs may name; empty: any public one")
    allow_private_urls: bool = Field(
        False, description="let the hosts named in url_hosts have addresses that are not public"
    )
    url_timeout: float = Field(10.0, gt=0, description="seconds for fetching an image by its URL")
    image_roots: Folders = Field(
        (), description="folders of this machine whose files requests may name; empty: none"
    )
    cache: bool = Field(True, description="answer searches from memory")
    cache_memory: ByteSize = Field(
        default_factory=_half_of_memory,
        description="memory for the search caches of all processes, as in 800MB or 4GiB; "
        "what does not fit is searched in the database",
    )
    cache_snapshots: int = Field(
        SNAPSHOT_FROM,
        ge=0,
        description="faces from which a search cache is kept on disk too, for a quick start; 0: never",
    )
    recall_sample: float = Field(
        0.001, ge=0, le=1, description="share of compressed searches repeated exactly, for metrics"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="keys that may do everything, beside those of `facesearch keys`",
    )
    key_rate: float = Field(
        0, ge=0, description="requests a second of one API key, in each process; 0: any number"
    )
    key_concurrency: int = Field(
        0,
        ge=0,
        description="POST requests of one API key at once, in each process; 0: half of those that are let wait",
    )
    audit_searches: bool = Field(
        True, description="write searches into the audit log; changes are always written"
    )
    log_level: str = Field("INFO", description="least severe level that is logged")

    @field_validator("url_hosts", "image_roots", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("url_hosts")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(host.lower().rstrip(".") for host in value)

    @property
    def key_share(self) -> int:
        """Requests that one API key may have under way."""
        return self.key_concurrency or max(1, (self.concurrency + self.queue_limit) // 2)

    @property
    def snapshots_folder(self) -> Path | None:
        return self.home / "cache" if self.cache_snapshots else None

    @property
    def own_threads(self) -> int:
        """Cores for each of the processes."""
        return _share(self.threads, self.workers)

    @property
    def threads_per_run(self) -> int:
        """Cores for one run of a network, so that all runs at once use what there is."""
        return max(1, self.own_threads // self.concurrency)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with the indexer's settings as they are here, for a child process."""
    own: dict[str, Any] = settings.model_dump(include=set(Settings.model_fields))
    # Secrets that came by the environment are in it; as a text they would be stars.
    told = {k: v for k, v in own.items() if v is not None and not isinstance(v, SecretStr)}
    named = {f"FACESEARCH_{k.upper()}": str(v) for k, v in told.items()}
    return {**os.environ, **named}  # noqa: TID251 - handed on, not read
