"""The user's own recognition models: FACESEARCH_HOME/models/*.toml, each beside the ONNX file that it describes.

Read once when a process starts. A file that is wrong takes only itself out of use.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recognition import alignment, files
from recognition.embedder import Colour, Input, Layout
from recognition.models.own import Own, spec
from recognition.registry import BUILT_IN, Broken, Models
from recognition.spec import ModelSpec, Threshold, Thresholds, completed
from recognition.types import METRICS, Metric
from recognition.weights import Weights

Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=16, le=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class InputTable(_Strict):
    """`[input]`: see `recognition.embedder.Input`."""

    size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    colour: Colour = "rgb"
    layout: Layout = "nchw"
    mean: float | list[float] = 0.0
    std: Positive | list[Positive] = 1.0
    per_image: bool = False
    template: Literal["arcface", "box"] | list[list[float]]
    margin: Annotated[float, Field(ge=0, le=4)] = 0.0

    @field_validator("mean", "std")
    @classmethod
    def _channels(cls, value: float | list[float]) -> float | list[float]:
        if isinstance(value, list) and len(value) != 3:
            raise ValueError("must be one number, or three in the order of colour")
        return value

    @field_validator("template")
    @classmethod
    def _points(cls, value: str | list[list[float]]) -> str | list[list[float]]:
        if isinstance(value, list) and [len(point) for point in value] != [2] * 5:
            raise ValueError(
                'must be "arcface", "box", or five points [x, y] in pixels of the input'
            )
        return value

    @model_validator(mode="after")
    def _fits(self) -> InputTable:
        if self.margin and self.template != "box":
            raise ValueError('margin is only for template = "box"')
        square = self.size[0] == self.size[1]
        if self.template == "arcface" and not (
            square and 0 in (self.size[0] % 112, self.size[0] % 128)
        ):
            raise ValueError(
                'template = "arcface" is for squares of a multiple of 112 or 128; give five points'
            )
        return self

    def input(self) -> Input:
        return Input(
            size=(self.size[0], self.size[1]),
            colour=self.colour,
            layout=self.layout,
            mean=_tuple(self.mean),
            std=_tuple(self.std),
            per_image=self.per_image,
            template=self._template(),
            margin=self.margin,
        )

    def _template(self) -> alignment.Floats | None:
        if self.template == "box":
            return None
        if self.template == "arcface":
            return alignment.arcface(self.size[0])
        return np.array(self.template, np.float64)


class ThresholdTable(_Strict):
    value: Positive
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    slope: Positive | None = None
    data: str = "its owner's own"


class ModelTable(_Strict):
    """The whole file."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][\w .+-]*$")]
    summary: str = "A model of your own"
    licence: Annotated[str, Field(min_length=1)]
    origin: str = "your own"
    weights: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    dimension: Annotated[int, Field(ge=8, le=16000)]
    mirrored: bool = False
    non_commercial: bool = False
    input: InputTable
    thresholds: dict[Metric, Positive | ThresholdTable] = Field(default_factory=dict)

    def known(self) -> Thresholds:
        rows = {
            metric: t if isinstance(t, ThresholdTable) else ThresholdTable(value=t)
            for metric, t in self.thresholds.items()
        }
        return completed({m: Threshold(metric=m, **t.model_dump()) for m, t in rows.items()})


class _Wrong(Exception):
    """Of one file: which key, and what is wrong with it."""


def load(folder: Path) -> Models:
    """The built-in models and those that the folder describes; it need not exist."""
    specs: dict[str, ModelSpec] = dict(BUILT_IN.specs)
    broken: list[Broken] = []
    for path in sorted(folder.glob("*.toml")):
        name = path.stem
        try:
            data = _read(path)
            name = str(data.get("name", name))
            made = spec(_own(path, data))
            taken = {known.casefold(): s for known, s in specs.items()}.get(name.casefold())
            if taken is not None:
                raise _Wrong(
                    f"name: {name!r} is {taken.described_in or 'a built-in model'} already"
                )
            specs[made.name] = made
        except _Wrong as error:
            broken.append(Broken(name, path, str(error)))
    return Models(specs, tuple(broken), folder)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _Wrong(f"it cannot be read: {error}") from error


def _own(path: Path, data: Mapping[str, Any]) -> Own:
    try:
        table = ModelTable.model_validate(data)
    except ValidationError as error:
        raise _Wrong("; ".join(map(_told, error.errors()[:5]))) from error
    graph = path.parent / table.weights
    return Own(
        path=path,
        name=table.name,
        summary=table.summary,
        licence=table.licence,
        origin=table.origin,
        dimension=table.dimension,
        given=table.input.input(),
        weights=Weights(
            name=graph.name,
            sha256=_sha256(graph, table),
            licence=table.licence,
            origin=table.origin,
            non_commercial=table.non_commercial,
            path=graph,
        ),
        mirrored=table.mirrored,
        thresholds=table.known(),
    )


def _sha256(graph: Path, table: ModelTable) -> str:
    """Of the file, which must be the declared one if one is declared."""
    if Path(table.weights).is_absolute():
        raise _Wrong(f"weights: {table.weights} must be relative to this file")
    try:
        found = files.sha256(graph)
    except OSError as error:
        raise _Wrong(f"weights: {graph} cannot be read: {error.strerror}") from error
    if table.sha256 is not None and found != table.sha256.lower():
        raise _Wrong(f"sha256: {graph} has {found}, not {table.sha256}")
    return found


def _told(error: Any) -> str:  # noqa: ANN401 - pydantic's dictionary
    """One of pydantic's errors as key and reason; alternatives of a key are not told apart."""
    names = [str(part) for part in error["loc"]]
    key = ".".join(n for n in names if n in _KEYS or n.isdigit()) or ".".join(names)
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


_KEYS = frozenset(
    {*ModelTable.model_fields, *InputTable.model_fields, *ThresholdTable.model_fields, *METRICS}
)


def _tuple(value: float | list[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
