"""Everything that can be recognised with, and what of its weights is here: one record for each, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from recognition import registry
from recognition.errors import UnknownName
from recognition.registry import Models
from recognition.spec import ModelSpec, Spec, alternatives, available
from recognition.weights import Weights, WeightsCache

Kind = Literal["model", "detector", "attribute", "anti-spoofing"]


@dataclass(frozen=True, slots=True)
class File:
    """One weights file, and where it is or belongs. `present` is about its name; its hash was not looked at."""

    weights: Weights
    path: Path
    present: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One spec and its files."""

    kind: Kind
    spec: Spec
    files: tuple[File, ...]
    alternatives: tuple[File, ...]
    """Of sets that do as well as `files`."""
    available: bool
    """Whether all of `files` are here, or one of the alternatives."""
    refused: bool
    """Whether the settings do not allow its licence."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dimension(self) -> int | None:
        """Of embeddings; None for what makes none."""
        return self.spec.dimension if isinstance(self.spec, ModelSpec) else None

    @property
    def non_commercial(self) -> bool:
        """Whether the licence of any of its files forbids commercial use."""
        return any(file.weights.non_commercial for file in self.files)


def entries(cache: WeightsCache, models: Models) -> list[Entry]:
    """Models, detectors, attributes and anti-spoofing methods, in this order."""
    specs: list[tuple[Kind, Iterable[Spec]]] = [
        ("model", models.specs.values()),
        ("detector", registry.DETECTORS.values()),
        ("attribute", registry.ATTRIBUTES.values()),
        ("anti-spoofing", registry.ANTI_SPOOFING.values()),
    ]
    return [_entry(kind, spec, cache) for kind, some in specs for spec in some]


def named(cache: WeightsCache, models: Models, names: Sequence[str]) -> list[Entry]:
    """Those of these names; a model and a detector may share one. Raises UnknownName."""
    every = entries(cache, models)
    known = tuple(dict.fromkeys(entry.name for entry in every))
    for name in names:
        if name not in known:
            raise UnknownName("model, detector, attribute or anti-spoofing method", name, known)
    return [entry for entry in every if entry.name in names]


def weights_of(some: Iterable[Entry]) -> list[Weights]:
    """Each file once."""
    return list({f.path: f.weights for entry in some for f in entry.files}.values())


def _entry(kind: Kind, spec: Spec, cache: WeightsCache) -> Entry:
    return Entry(
        kind,
        spec,
        _files(spec.weights, cache),
        _files(chain.from_iterable(alternatives(spec)), cache),
        available=available(spec, cache),
        refused=not all(map(cache.permits, spec.weights)),
    )


def _files(some: Iterable[Weights], cache: WeightsCache) -> tuple[File, ...]:
    return tuple(File(w, cache.place(w), cache.present(w)) for w in some)
