"""DeepFace's own stores of `find`: `ds_model_….pkl` (a pickled list of dicts) and, since 0.0.103, `ds_model_….npz`.

The file's name says what made the vectors; docs/moving.md has the columns. Written after DeepFace 0.0.103 by
S. I. Serengil (MIT); no code of it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from indexer.transfer import foreign, plain_pickle
from indexer.transfer.errors import BadSource
from indexer.transfer.foreign import Entry
from indexer.transfer.npy import Array
from indexer.transfer.restore import read_below
from indexer.transfer.source import Source
from recognition import registry
from recognition.pipeline import FOREIGN_VERSION, Recipe
from recognition.registry import Models
from recognition.types import NORMALIZATIONS, Box

PICKLE_BYTES = 4 * 2**30
MOST_ROWS = 10_000_000
MOST_NUMBERS = 2**30
"""In all vectors together."""
BOX = ("target_x", "target_y", "target_w", "target_h")
COLUMNS = ("identity", "embedding", *BOX)
_NAME = re.compile(
    r"ds_model_(?P<model>.+)_detector_(?P<detector>.+)_(?P<aligned>aligned|unaligned)"
    r"_normalization_(?P<normalization>.+)_expand_(?P<expand>\d+)"
)


def is_store(arrays: Mapping[str, Array]) -> bool:
    """Whether the arrays of an .npz file are DeepFace's columns."""
    return {*COLUMNS, "has_embedding"} <= arrays.keys()


def from_pickle(
    path: Path, made_by: str | None, models: Models, photographs: Path | None
) -> Source:
    """Raises BadSource."""
    if path.stat().st_size > PICKLE_BYTES:
        raise BadSource(f"{path} has more than {PICKLE_BYTES} bytes")
    rows = plain_pickle.load(path.read_bytes())
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadSource(f"{path} is not a store of DeepFace: it holds no list of dicts")
    if len(rows) > MOST_ROWS:
        raise BadSource(f"{path} has more than {MOST_ROWS} rows")
    if not all(row.keys() >= set(COLUMNS) for row in rows):
        raise BadSource(f"{path} is not a store of DeepFace: it has not {', '.join(COLUMNS)}")
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    return _source(path, columns, made_by, models, photographs)


def from_arrays(
    path: Path,
    arrays: Mapping[str, Array],
    made_by: str | None,
    models: Models,
    photographs: Path | None,
) -> Source:
    """Raises BadSource."""
    count = len(arrays["identity"])
    if any(arrays[n].shape != (count,) for n in ("identity", "has_embedding", *BOX)):
        raise BadSource(f"{path} is not a store of DeepFace: its columns have not one length")
    embedding = arrays["embedding"]
    if embedding.ndim != 2 or len(embedding) != count:
        raise BadSource(f"{path} has embeddings of the shape {embedding.shape}")
    columns: dict[str, Sequence[Any]] = {name: arrays[name].tolist() for name in ("identity", *BOX)}
    there = arrays["has_embedding"].astype(bool)
    columns["embedding"] = [row if has else None for row, has in zip(embedding, there, strict=True)]
    return _source(path, columns, made_by, models, photographs)


def _source(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    made_by: str | None,
    models: Models,
    photographs: Path | None,
) -> Source:
    paths = columns["identity"]
    if not paths or not all(isinstance(p, str) and p for p in paths):
        raise BadSource(f"{path} has rows without the path of a photograph")
    rows = _vectors(columns["embedding"])
    dimension = next((len(row) for row in rows if row is not None), 0)
    if dimension == 0:
        raise BadSource(f"{path} has no embeddings")
    names = foreign.below(paths, path.resolve().parent.name)
    entries = (
        Entry(
            foreign.person_of(name),
            name,
            row,
            _box([columns[side][n] for side in BOX]),
            None if photographs is None else partial(read_below, photographs, name),
        )
        for n, (name, row) in enumerate(zip(names, rows, strict=True))
    )
    return foreign.source(_recipe(path.stem, dimension, made_by, models), dimension, entries)


def _vectors(values: Sequence[Any]) -> list[Any]:
    """(dimension,) float32 each, None where there is none."""
    there = [value for value in values if value is not None]
    if there and not all(
        isinstance(v, list | np.ndarray) and len(v) == len(there[0]) for v in there
    ):
        raise BadSource("the embeddings are not vectors of one length")
    if there and len(there) * len(there[0]) > MOST_NUMBERS:
        raise BadSource(f"the embeddings hold more than {MOST_NUMBERS} numbers")
    if any(isinstance(v, list) and not all(type(x) in (float, int) for x in v) for v in there):
        raise BadSource("the embeddings hold something else than numbers")
    rows = iter(foreign.vectors(there, "the embeddings")) if there else iter(())
    return [None if value is None else next(rows) for value in values]


def _box(sides: Sequence[Any]) -> Box:
    if not all(type(side) in (int, float) and abs(side) < 1e9 for side in sides):
        raise BadSource("the place of a face is not four numbers")
    return Box(*(float(side) for side in sides))


def _recipe(stem: str, dimension: int, made_by: str | None, models: Models) -> Recipe:
    """One that can be repeated here, if the file's name says so."""
    if made_by is not None:
        return foreign.unrepeatable("deepface", made_by, dimension)
    named = _NAME.fullmatch(stem)
    if named is None:
        raise BadSource(
            f"{stem!r} is not what DeepFace calls its stores, so it does not say what made the vectors: "
            "give it its name back (ds_model_…), or say --made-by"
        )
    known = {spec.name.replace("-", "").lower(): spec for spec in models.specs.values()}
    spec = known.get(named["model"])
    normalization = next((n for n in NORMALIZATIONS if n.lower() == named["normalization"]), None)
    repeatable = (
        spec is not None
        and spec.dimension == dimension
        and spec.described_in is None
        and normalization in spec.normalizations
        and named["detector"] in registry.DETECTORS
        and named["aligned"] == "aligned"
        and int(named["expand"]) == 0
    )
    if spec is None or normalization is None or not repeatable:
        return foreign.unrepeatable("deepface", stem.removeprefix("ds_model_"), dimension)
    return Recipe(spec.name, named["detector"], "deepface", normalization, FOREIGN_VERSION)
