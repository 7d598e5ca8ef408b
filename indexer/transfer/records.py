"""The files of an archive as types: docs/moving.md describes them. What does not fit is refused whole."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from indexer.errors import InvalidName
from indexer.store.galleries import Policy, clean_name
from indexer.transfer.errors import BadSource
from recognition.types import Align, Normalization

FORMAT = "facesearch gallery"
FORMAT_VERSION = 1
MANIFEST, IDENTITIES, IMAGES = "manifest.json", "identities.jsonl", "images.jsonl"
NAMES = re.compile(
    r"manifest\.json|identities\.jsonl|images\.jsonl|vectors/[0-9]{1,4}\.npy|originals/[0-9a-f]{64}"
)
"""The only files that an archive may hold, by their path in it."""
LINE_BYTES = 4 * 2**20
MANIFEST_BYTES = 256 * 2**20

T = TypeVar("T", bound=BaseModel)


def _stored(value: str) -> str:
    if "\x00" in value:
        raise ValueError("text must not hold NUL")
    return value


def _name(value: str) -> str:
    try:
        return clean_name(value, "it")
    except InvalidName as error:
        raise ValueError(str(error)) from error


def _json(value: dict[str, Any]) -> dict[str, Any]:
    _check_json(value, 0)
    return value


def _check_json(value: object, depth: int) -> None:
    if depth > 32:
        raise ValueError("metadata are nested too deeply")
    if isinstance(value, str):
        _stored(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("metadata hold a number that is not finite")
    elif isinstance(value, dict):
        for key, item in value.items():
            _stored(key)
            _check_json(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth + 1)


Text = Annotated[str, Field(max_length=4096), AfterValidator(_stored)]
Name = Annotated[str, AfterValidator(_name)]
Big = Annotated[int, Field(ge=0, lt=2**63)]
Pixels = Annotated[int, Field(ge=0, lt=2**31)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Real = Annotated[float, Field(ge=-3e38, le=3e38)]
State = Literal["ready", "no_face", "unreadable", "duplicate", "rejected"]


class _Record(BaseModel):
    """Strict, but for fields that are not known: a later version may have more."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class FileRecord(_Record):
    sha256: Sha256
    bytes: Big


class SpaceRecord(_Record):
    """`faces` rows in `vectors`; `version` -1: another program's."""

    model: Annotated[Text, Field(min_length=1, max_length=200)]
    detector: Annotated[Text, Field(min_length=1, max_length=200)]
    align: Align
    normalization: Normalization
    version: Annotated[int, Field(ge=-1, lt=2**31)]
    dimension: Annotated[int, Field(ge=1, le=16_000)]
    faces: Annotated[int, Field(ge=0, lt=2**40)]
    vectors: str


class Manifest(_Record):
    format: Literal["facesearch gallery"]
    format_version: Literal[1]
    gallery: Name
    quality: Policy = "accept"
    created_at: AwareDatetime
    identities: Big
    images: Big
    active_space: Annotated[int, Field(ge=0)] | None
    spaces: Annotated[list[SpaceRecord], Field(max_length=1000)]
    roots: Annotated[list[Text], Field(max_length=10_000)]
    files: dict[str, FileRecord]

    @field_validator("files")
    @classmethod
    def _known(cls, value: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for path, file in value.items():
            if NAMES.fullmatch(path) is None or path == MANIFEST:
                raise ValueError("names a file that does not belong into an archive")
            if path.startswith("originals/") and path != f"originals/{file.sha256}":
                raise ValueError("names an original that is not called by its hash")
        for needed in (IDENTITIES, IMAGES):
            if needed not in value:
                raise ValueError(f"does not name {needed}")
        return value


class IdentityRecord(_Record):
    name: Name
    metadata: Annotated[dict[str, Any], AfterValidator(_json)] = Field(default_factory=dict)
    created_at: AwareDatetime


class OutcomeRecord(_Record):
    """What came of looking at an image in the space of that number."""

    space: Annotated[int, Field(ge=0)]
    state: Literal["ready", "no_face", "unreadable", "unavailable"]
    reason: Text | None = None


class FaceRecord(_Record):
    """`row` of its space's vectors; `landmarks`: x, y of five points, null where a point is not known."""

    space: Annotated[int, Field(ge=0)]
    row: Annotated[int, Field(ge=0)]
    box: tuple[Real, Real, Real, Real]
    landmarks: Annotated[list[Real | None], Field(min_length=10, max_length=10)] | None
    confidence: Real
    quality: Real


class ImageRecord(_Record):
    """`root`: the number of the folder in the manifest's `roots` below which `locator` lies."""

    identity: Name
    sha256: Sha256
    size: Big
    uploaded: bool
    root: Annotated[int, Field(ge=0)] | None
    locator: Text | None
    mtime_ns: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None
    width: Pixels | None
    height: Pixels | None
    state: State
    reason: Text | None
    flags: Annotated[list[Text], Field(max_length=100)] = Field(default_factory=list)
    created_at: AwareDatetime
    original: bool
    outcomes: Annotated[list[OutcomeRecord], Field(max_length=1000)]
    faces: Annotated[list[FaceRecord], Field(max_length=100_000)]


def parse(kind: type[T], text: bytes, where: str) -> T:
    """Raises BadSource, with the place of what is wrong and without its value."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise BadSource(f"{where}: {at + ': ' if at else ''}{first['msg']}") from error


def lines(path: Path, kind: type[T]) -> Iterator[T]:
    """One record per line. Raises BadSource."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            where = f"{path.name}, line {number}"
            if len(line) > LINE_BYTES:
                raise BadSource(f"{where} is longer than {LINE_BYTES} bytes")
            yield parse(kind, line, where)
