"""CompreFace's database as `pg_dump` writes it in plain text: COPY blocks of subject, embedding, img and model.

Tables of CompreFace 0.6 to 1.2 (Exadel, Apache-2.0): subject (id, api_key, subject_name), embedding (id, subject_id,
embedding float8[], calculator, img_id), img (id, content bytea), model (name and api_key of a face collection). The
calculator names the network that made a vector. No code of it is used, and no SQL is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from indexer.transfer import foreign
from indexer.transfer.errors import BadSource
from indexer.transfer.foreign import Entry
from indexer.transfer.source import Content, Source

LINE_BYTES = 256 * 2**20
MOST_ROWS = 20_000_000
_COPY = re.compile(
    rb'COPY (?:"?\w+"?\.)?"?(subject|embedding|img|model)"? \(([\w", ]*)\) FROM stdin;\s*'
)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
NEEDED = {
    "subject": ("id", "api_key", "subject_name"),
    "embedding": ("id", "subject_id", "embedding", "calculator", "img_id"),
    "img": ("id", "content"),
    "model": ("name", "api_key"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which vectors are wanted where a dump holds several kinds: the calculator's and the face collection's name."""

    calculator: str | None = None
    collection: str | None = None


@dataclass(slots=True)
class _Tables:
    """`images`: byte and length of the line that holds an image, and in which column, by id."""

    subjects: dict[str, tuple[str, str]] = field(default_factory=dict)
    embeddings: list[tuple[str, str, str, str, str | None]] = field(default_factory=list)
    images: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    collections: dict[str, str] = field(default_factory=dict)
    blocks: set[str] = field(default_factory=set)


def is_dump(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096)
    return start.startswith(b"PGDMP") or b"PostgreSQL database dump" in start or b"\nCOPY " in start


def source(path: Path, choice: Choice) -> Source:
    """With the images that the dump holds at hand. Raises BadSource."""
    try:
        with path.open("rb") as file:
            if file.read(5) == b"PGDMP":
                raise BadSource(
                    f"{path} is a dump in Postgres's own format; write it with pg_dump --format=plain"
                )
            file.seek(0)
            tables = _read(file)
    except OSError as error:
        raise BadSource(f"{path} cannot be read: {error.strerror}") from error
    if not {"subject", "embedding"} <= tables.blocks:
        raise BadSource(f"{path} has no COPY blocks of CompreFace's tables subject and embedding")
    subjects = _of_collection(path, tables, choice.collection)
    rows = [row for row in tables.embeddings if row[1] in subjects]
    calculator = _calculator(path, sorted({row[3] for row in rows}), choice.calculator)
    rows = [row for row in rows if row[3] == calculator]
    vectors = foreign.vectors([_numbers(row[2]) for row in rows], f"{path}: the embeddings")
    recipe = foreign.unrepeatable("compreface", calculator, vectors.shape[1])
    entries = []
    for (embedding_id, subject_id, _, _, image_id), vector in zip(rows, vectors, strict=True):
        entry = Entry(subjects[subject_id], image_id or embedding_id, vector)
        place = tables.images.get(image_id or "")
        entries.append(entry if place is None else _with_photograph(path, entry, place))
    return foreign.source(recipe, vectors.shape[1], entries)


def _with_photograph(path: Path, entry: Entry, place: tuple[int, int, int]) -> Entry:
    content: Content = partial(_image, path, place)
    data = content()
    if not data:
        return entry
    sha256 = hashlib.sha256(data).digest()
    return Entry(
        entry.person, entry.photo, entry.vector, content=content, sha256=sha256, size=len(data)
    )


def _of_collection(path: Path, tables: _Tables, wanted: str | None) -> dict[str, str]:
    """Names of the subjects of one face collection by id; of the only one if none is named."""
    keys = sorted({key for key, _ in tables.subjects.values()})
    names = {key: tables.collections.get(key, f"collection {n}") for n, key in enumerate(keys, 1)}
    if wanted is None and len(keys) > 1:
        raise BadSource(
            f"{path} holds several face collections; choose with --collection: {_told(names.values())}"
        )
    chosen = [key for key in keys if wanted in (None, names[key])]
    if len(chosen) != 1:
        raise BadSource(
            f"{path} has {len(chosen)} face collections {wanted!r}; it has {_told(names.values())}"
        )
    return {i: name for i, (key, name) in tables.subjects.items() if key == chosen[0]}


def _calculator(path: Path, there: list[str], wanted: str | None) -> str:
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted in there:
        return str(wanted)
    raise BadSource(
        f"{path} holds embeddings of {_told(there)}; choose with --made-by"
        if there
        else f"{path} holds no embeddings of that face collection"
    )


def _told(names: object) -> str:
    return ", ".join(repr(name) for name in names) or "none"  # type: ignore[attr-defined]


def _read(file: IO[bytes]) -> _Tables:
    tables, count = _Tables(), 0
    for _, line in _lines(file):
        begun = _COPY.fullmatch(line)
        if begun is None:
            continue
        table = begun[1].decode()
        columns = [name.strip().strip('"') for name in begun[2].decode().split(",")]
        missing = [name for name in NEEDED[table] if name not in columns]
        if missing:
            continue  # another program's table of that name, or one before CompreFace 0.6
        tables.blocks.add(table)
        at = [columns.index(name) for name in NEEDED[table]]
        for start, row in _lines(file):
            if row.rstrip(b"\r\n") == b"\\.":
                break
            count += 1
            if count > MOST_ROWS:
                raise BadSource(f"the dump has more than {MOST_ROWS} rows")
            _take(tables, table, row, start, at, len(columns))
        else:
            raise BadSource(f"the dump ends in the middle of table {table}")
    return tables


def _take(tables: _Tables, table: str, line: bytes, start: int, at: list[int], width: int) -> None:
    fields = line.rstrip(b"\r\n").split(b"\t")
    if len(fields) != width:
        raise BadSource(f"a row of table {table} has {len(fields)} columns, not {width}")
    if table == "img":
        tables.images[_needed(fields[at[0]], table)] = (start, len(line), at[1])
        return
    if table == "embedding":
        values = [_needed(fields[n], table) for n in at[:4]]
        tables.embeddings.append((values[0], values[1], values[2], values[3], _text(fields[at[4]])))
        return
    first, second, *rest = [_text(fields[n]) or "" for n in at]
    if table == "subject":
        tables.subjects[first] = (second, rest[0])
    else:
        tables.collections[second] = first


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with the byte that each begins at."""
    while True:
        start = file.tell()
        line = file.readline(LINE_BYTES + 1)
        if not line:
            return
        if len(line) > LINE_BYTES:
            raise BadSource(f"the dump has a line of more than {LINE_BYTES} bytes")
        yield start, line


def _needed(field: bytes, table: str) -> str:
    value = _text(field)
    if value is None:
        raise BadSource(f"a row of table {table} lacks a value")
    return value


def _text(field: bytes) -> str | None:
    """A column of COPY's text format. Raises BadSource."""
    if field == b"\\N":
        return None
    try:
        return _unescaped(field).decode()
    except UnicodeDecodeError as error:
        raise BadSource("the dump is not UTF-8; write it with pg_dump --encoding=UTF8") from error


def _unescaped(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    return _ESCAPE.sub(_character, field)


def _character(found: re.Match[bytes]) -> bytes:
    if found[1] is not None:
        return bytes([int(found[1], 16)])
    if found[2] is not None:
        return bytes([int(found[2], 8) & 0xFF])
    return _LETTERS.get(found[3], found[3])


def _numbers(array: str) -> list[float]:
    """Of Postgres's array of floats, {1,2.5}."""
    if not (array.startswith("{") and array.endswith("}")):
        raise BadSource("an embedding is not an array of numbers")
    try:
        return np.array(array[1:-1].split(","), np.float64).tolist()  # type: ignore[no-any-return]
    except ValueError as error:
        raise BadSource("an embedding is not an array of numbers") from error


def _image(path: Path, place: tuple[int, int, int]) -> bytes | None:
    """The bytes of an image of the dump; None if they are not as Postgres writes bytes."""
    start, length, column = place
    with path.open("rb") as file:
        file.seek(start)
        fields = file.read(length).rstrip(b"\r\n").split(b"\t")
    value = _unescaped(fields[column])
    if not value.startswith(b"\\x"):
        return None
    try:
        return bytes.fromhex(value[2:].decode("ascii"))
    except ValueError:
        return None
