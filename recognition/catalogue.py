"""Everything that can be recognised with, and what of its weights is here: one record for each, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from recognition import registry
from recognition.errors import UnknownName
from recognition.registry import Models
from recognition.spec import AttributeSpec, DetectorSpec, ModelSpec
from recognition.weights import Weights, WeightsCache

Spec: TypeAlias = ModelSpec | DetectorSpec | AttributeSpec
Kind = Literal["model", "detector", "attribute"]


@dataclass(frozen=True, slots=True)
class File:
    """One weights file, and where it is or belongs. `present` is about its name; its hash was not looked at."""

    weights: Weights
    path: Path
    present: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """`refused`: the settings do not allow its licence."""

    kind: Kind
    spec: Spec
    files: tuple[File, ...]
    refused: bool

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

    @property
    def available(self) -> bool:
        """Whether all its files are here."""
        return all(file.present for file in self.files)


def entries(cache: WeightsCache, models: Models) -> list[Entry]:
    """Models, detectors and attributes, in this order."""
    specs: list[tuple[Kind, Iterable[Spec]]] = [
        ("model", models.specs.values()),
        ("detector", registry.DETECTORS.values()),
        ("attribute", registry.ATTRIBUTES.values()),
    ]
    return [_entry(kind, spec, cache) for kind, some in specs for spec in some]


def named(cache: WeightsCache, models: Models, names: Sequence[str]) -> list[Entry]:
    """Those of these names; a model and a detector may share one. Raises UnknownName."""
    every = entries(cache, models)
    known = tuple(dict.fromkeys(entry.name for entry in every))
    for name in names:
        if name not in known:
            raise UnknownName("model, detector or attribute", name, known)
    return [entry for entry in every if entry.name in names]


def weights_of(some: Iterable[Entry]) -> list[Weights]:
    """Each file once."""
    return list({f.path: f.weights for entry in some for f in entry.files}.values())


def _entry(kind: Kind, spec: Spec, cache: WeightsCache) -> Entry:
    files = tuple(File(w, cache.place(w), cache.present(w)) for w in spec.weights)
    return Entry(kind, spec, files, refused=not all(map(cache.permits, spec.weights)))
