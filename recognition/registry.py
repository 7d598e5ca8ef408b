"""Every detector, model and attribute by name. A new one is its file and one entry here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from recognition.attributes import age_gender, emotion
from recognition.detectors import centerface, fastmtcnn, mediapipe, mtcnn, opencv, skip, ssd, yunet
from recognition.detectors import dlib as dlib_detector
from recognition.errors import UnknownName
from recognition.models import dlib as dlib_model
from recognition.spec import AttributeSpec, DetectorSpec, ModelSpec


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Spec = TypeVar("Spec", bound=_Named)


def _by_name(*groups: Iterable[Spec]) -> Mapping[str, Spec]:
    found: dict[str, Spec] = {}
    for spec in (spec for group in groups for spec in group):
        if spec.name in found:
            raise ValueError(f"two specs are called {spec.name}")
        found[spec.name] = spec
    return MappingProxyType(found)


DETECTORS: Mapping[str, DetectorSpec] = _by_name(
    opencv.SPECS,
    ssd.SPECS,
    dlib_detector.SPECS,
    mtcnn.SPECS,
    fastmtcnn.SPECS,
    mediapipe.SPECS,
    yunet.SPECS,
    centerface.SPECS,
    skip.SPECS,
)
MODELS: Mapping[str, ModelSpec] = _by_name(dlib_model.SPECS)
ATTRIBUTES: Mapping[str, AttributeSpec] = _by_name(age_gender.SPECS, emotion.SPECS)


def detector(name: str) -> DetectorSpec:
    return _get(DETECTORS, "detector", name)


def model(name: str) -> ModelSpec:
    return _get(MODELS, "model", name)


def attribute(name: str) -> AttributeSpec:
    return _get(ATTRIBUTES, "attribute", name)


def _get(specs: Mapping[str, Spec], kind: str, name: str) -> Spec:
    if name not in specs:
        raise UnknownName(kind, name, tuple(specs))
    return specs[name]
