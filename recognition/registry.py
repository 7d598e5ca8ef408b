"""Every detector, model, attribute and anti-spoofing method by name. A new one is its file and one entry here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from recognition import antispoofing
from recognition.attributes import age_gender, emotion
from recognition.attributes import deepface as deepface_attributes
from recognition.detectors import dlib as dlib_detector
from recognition.detectors import mediapipe, mtcnn, opencv, retinaface, skip, yolo
from recognition.errors import UnknownName
from recognition.models import (
    arcface,
    deepid,
    facenet,
    fb_deepface,
    ghostfacenet,
    openface,
    vgg_face,
)
from recognition.models import dlib as dlib_model
from recognition.spec import (
    Action,
    AntiSpoofingSpec,
    AttributeSpec,
    Collection,
    DetectorSpec,
    ModelSpec,
)


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
    dlib_detector.SPECS,
    mtcnn.SPECS,
    mediapipe.SPECS,
    retinaface.SPECS,
    yolo.SPECS,
    skip.SPECS,
)
MODELS: Mapping[str, ModelSpec] = _by_name(
    dlib_model.SPECS,
    vgg_face.SPECS,
    facenet.SPECS,
    openface.SPECS,
    fb_deepface.SPECS,
    deepid.SPECS,
    arcface.SPECS,
    ghostfacenet.SPECS,
)
ATTRIBUTES: Mapping[str, AttributeSpec] = _by_name(
    age_gender.SPECS, emotion.SPECS, deepface_attributes.SPECS
)
ANTI_SPOOFING: Mapping[str, AntiSpoofingSpec] = _by_name(antispoofing.SPECS)


def detector(name: str) -> DetectorSpec:
    return _get(DETECTORS, "detector", name)


def model(name: str) -> ModelSpec:
    return _get(MODELS, "model", name)


def attribute(name: str) -> AttributeSpec:
    return _get(ATTRIBUTES, "attribute", name)


def for_action(action: Action, collection: Collection) -> AttributeSpec:
    """The attribute of the collection that serves an action, or the only one that does."""
    serving = [spec for spec in ATTRIBUTES.values() if spec.action == action]
    return next((spec for spec in serving if spec.collection == collection), serving[0])


def anti_spoofing(name: str) -> AntiSpoofingSpec:
    return _get(ANTI_SPOOFING, "anti-spoofing method", name)


def _get(specs: Mapping[str, Spec], kind: str, name: str) -> Spec:
    if name not in specs:
        raise UnknownName(kind, name, tuple(specs))
    return specs[name]
