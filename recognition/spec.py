"""Everything that is known about a set of weights, a detector, a model, an attribute: one frozen spec each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import acos, pi, sin, sqrt
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from recognition.decoding import Decoder
from recognition.errors import NoThreshold
from recognition.idle import IdleCores
from recognition.images import read
from recognition.runtime import Runtime
from recognition.types import (
    Align,
    AntiSpoofing,
    Attribute,
    Detector,
    Embedder,
    Metric,
    Normalization,
)
from recognition.weights import Weights, WeightsCache


@dataclass(frozen=True, slots=True)
class Resources:
    """What a builder needs: where weights come from, what runs networks, on which cores, and what decodes images."""

    weights: WeightsCache
    runtime: Runtime
    decoder: Decoder = read
    idle: IdleCores = field(default_factory=IdleCores)

    def held(self, *choices: tuple[Weights, ...]) -> tuple[Weights, ...]:
        """The first choice of which all files are in the cache; the first of all if none is."""
        for choice in choices:
            if all(self.weights.present(weights) for weights in choice):
                return choice
        return choices[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Largest distance at which two faces count as one person.

    `data` names the pairs it was chosen on, or who published it; `accuracy` is the share of those pairs
    that it gets right, None where nobody measured it here.
    """

    metric: Metric
    value: float
    data: str
    accuracy: float | None = None
    slope: float | None = None
    """Of the logistic that turns a distance into a probability, per unit of distance, on the same pairs."""


Thresholds = Mapping[Metric, Threshold]


def completed(known: Thresholds) -> Thresholds:
    """With those of cosine, euclidean_l2 and angular that follow from another one: they order pairs alike."""
    every = dict(known)
    alike: tuple[Metric, ...] = ("cosine", "euclidean_l2", "angular")
    origin = next((known[metric] for metric in alike if metric in known), None)
    if origin is None:
        return MappingProxyType(every)
    angle = _angle(origin)
    # Distance by metric, and how it grows with the angle between the embeddings.
    metrics: tuple[tuple[Metric, float, float], ...] = (
        ("cosine", 2 * sin(angle / 2) ** 2, sin(angle)),
        ("euclidean_l2", 2 * sin(angle / 2), sqrt(1 - sin(angle / 2) ** 2)),
        ("angular", angle / pi, 1 / pi),
    )
    growth = {metric: grows for metric, _, grows in metrics}
    for metric, value, grows in metrics:
        slope = origin.slope and origin.slope * growth[origin.metric] / max(grows, 1e-9)
        data = f"{origin.data}; follows from {origin.metric}"
        follows = replace(origin, metric=metric, value=value, slope=slope, data=data)
        every.setdefault(metric, follows)
    return MappingProxyType(every)


def _angle(threshold: Threshold) -> float:
    """Radians between embeddings at that distance."""
    if threshold.metric == "angular":
        return pi * min(1.0, threshold.value)
    share = threshold.value if threshold.metric == "cosine" else threshold.value**2 / 2
    return acos(max(-1.0, 1.0 - share))


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec:
    name: str
    summary: str
    licence: str
    origin: str
    landmarks: bool
    weights: tuple[Weights, ...]
    build: Callable[[Resources], Detector]
    alternatives: tuple[tuple[Weights, ...], ...] = ()
    """Sets of files that do as well as `weights`."""
    enough: int | None = None
    """Pixels of an image's longer side with which it finds what it finds with more; None: it wants them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """`thresholds` is keyed by detector, or by detector/alignment where it is not the native one; "" and "/none" hold
    the values for detectors that have none of their own."""

    name: str
    summary: str
    licence: str
    origin: str
    dimension: int
    input_size: tuple[int, int]
    version: int
    """Part of every space: raise it when the same face would get another embedding."""
    weights: tuple[Weights, ...]
    build: Callable[[Resources], Embedder]
    alternatives: tuple[tuple[Weights, ...], ...] = ()
    """Sets of files that do as well as `weights`."""
    mirrored: bool = False
    """Whether the embedding is the mean of the face's and of its mirror image's; never with `align` deepface."""
    default_align: Align = "native"
    """What `align=true` means: the alignment that the thresholds belong to."""
    normalizations: tuple[Normalization, ...] = ("base",)
    """What can be asked for with `align` deepface; everything else gives a network what it was trained on."""
    thresholds: Mapping[str, Thresholds] = field(default_factory=lambda: MappingProxyType({}))
    described_in: Path | None = None
    """The user's file that it comes from; None: it is built in."""

    def threshold(
        self,
        detector: str,
        metric: Metric,
        align: Align = "native",
        otherwise: float | None = None,
    ) -> Threshold:
        """`otherwise`: the caller's own, for when nobody has chosen one. Raises NoThreshold."""
        for key in (f"{detector}/{align}", f"/{align}", detector, ""):
            if key in self.thresholds:
                known = self.thresholds[key].get(metric)
                break
        else:
            known = None
        if known is not None:
            return known
        if otherwise is None:
            raise NoThreshold(
                f"no threshold is known of {self.name} for the metric {metric!r} and faces aligned "
                f"as {align!r}; send one, or ask for what one is known for"
            )
        return Threshold(metric=metric, value=otherwise, data="the request's")


Action = Literal["age", "gender", "race", "emotion"]
"""What can be estimated; each is a field of `Attributes`."""
ACTIONS: tuple[Action, ...] = ("age", "gender", "race", "emotion")

Collection = Literal["packaged", "deepface"]
"""Which attribute networks: those that come in packages, or DeepFace's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeSpec:
    """Several may serve one `action`, one in each `collection`."""

    name: str
    action: Action
    summary: str
    licence: str
    origin: str
    classes: tuple[str, ...]
    weights: tuple[Weights, ...]
    build: Callable[[Resources], Attribute]
    collection: Collection = "packaged"
    alternatives: tuple[tuple[Weights, ...], ...] = ()
    """Sets of files that do as well as `weights`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AntiSpoofingSpec:
    name: str
    summary: str
    licence: str
    origin: str
    weights: tuple[Weights, ...]
    build: Callable[[Resources], AntiSpoofing]


Spec: TypeAlias = ModelSpec | DetectorSpec | AttributeSpec | AntiSpoofingSpec


def alternatives(spec: Spec) -> tuple[tuple[Weights, ...], ...]:
    """Sets of files that do as well as the spec's `weights`."""
    return () if isinstance(spec, AntiSpoofingSpec) else spec.alternatives


def available(spec: Spec, cache: WeightsCache) -> bool:
    """Whether all files of it are there, or of an alternative."""
    return any(all(map(cache.present, files)) for files in (spec.weights, *alternatives(spec)))
