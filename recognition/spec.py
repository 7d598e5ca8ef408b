"""Everything that is known about a set of weights, a detector, a model, an attribute: one frozen spec each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from recognition.runtime import Runtime
from recognition.types import Align, Attribute, Detector, Embedder, Metric, Normalization
from recognition.weights import Weights, WeightsCache


@dataclass(frozen=True, slots=True)
class Resources:
    """What a builder needs: where weights come from, and what runs networks."""

    weights: WeightsCache
    runtime: Runtime

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec:
    name: str
    summary: str
    licence: str
    origin: str
    landmarks: bool
    weights: tuple[Weights, ...]
    build: Callable[[Resources], Detector]
    as_deepface: Callable[[Resources], Detector] | None = None
    """The same detector with DeepFace's settings, where those differ: for `align` deepface."""


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
    weights: tuple[Weights, ...]
    build: Callable[[Resources], Embedder]
    mirrored: bool = False
    """Whether the embedding is the mean of the face's and of its mirror image's; never with `align` deepface."""
    default_align: Align = "native"
    """What `align=true` means: the alignment that the thresholds belong to."""
    normalizations: tuple[Normalization, ...] = ("base",)
    """What can be asked for with `align` deepface; everything else gives a network what it was trained on."""
    thresholds: Mapping[str, Thresholds] = field(default_factory=lambda: MappingProxyType({}))

    def threshold(self, detector: str, metric: Metric, align: Align = "native") -> Threshold:
        for key in (f"{detector}/{align}", f"/{align}", detector):
            if key in self.thresholds:
                return self.thresholds[key][metric]
        return self.thresholds[""][metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeSpec:
    name: str
    summary: str
    licence: str
    origin: str
    classes: tuple[str, ...]
    weights: tuple[Weights, ...]
    build: Callable[[Resources], Attribute]
