"""Every detector, model, attribute and anti-spoofing method by name. A new one is its file and one entry here.

The built-in ones are constants; `Models` is these with the user's own, which are read when a process starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar

from recognition import antispoofing
from recognition.attributes import age_gender, emotion
from recognition.attributes import deepface as deepface_attributes
from recognition.detectors import (
    centerface,
    fastmtcnn,
    mediapipe,
    mtcnn,
    opencv,
    retinaface,
    skip,
    ssd,
    yolo,
    yunet,
)
from recognition.detectors import dlib as dlib_detector
from recognition.errors import ModelUnavailable, UnknownName
from recognition.models import (
    arcface,
    buffalo_l,
    deepid,
    facenet,
    fb_deepface,
    foreign,
    ghostfacenet,
    openface,
    sface,
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
    ssd.SPECS,
    dlib_detector.SPECS,
    mtcnn.SPECS,
    fastmtcnn.SPECS,
    mediapipe.SPECS,
    retinaface.SPECS,
    yolo.SPECS,
    yunet.SPECS,
    centerface.SPECS,
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
    sface.SPECS,
    ghostfacenet.SPECS,
    buffalo_l.SPECS,
)
ATTRIBUTES: Mapping[str, AttributeSpec] = _by_name(
    age_gender.SPECS, emotion.SPECS, deepface_attributes.SPECS
)
ANTI_SPOOFING: Mapping[str, AntiSpoofingSpec] = _by_name(antispoofing.SPECS)


@dataclass(frozen=True, slots=True)
class Broken:
    """A user's model that cannot be used, and why."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Models:
    """The recognition models of a process: built in, and the user's own from `folder`."""

    specs: Mapping[str, ModelSpec]
    broken: tuple[Broken, ...] = ()
    folder: Path | None = None

    def named(self, name: str) -> ModelSpec:
        """What somebody asks for, in any case. Raises UnknownName, and ModelUnavailable for a broken one."""
        wanted = name.strip().casefold()
        for known, spec in self.specs.items():
            if known.casefold() == wanted:
                return spec
        self._refuse_broken(wanted)
        raise UnknownName("model", name, tuple(self.specs))

    def installed(self, name: str) -> ModelSpec:
        """What the settings or the database name: it ought to be here. Raises ModelUnavailable."""
        if name in self.specs:
            return self.specs[name]
        elsewhere = foreign.spec(name)
        if elsewhere is not None:
            return elsewhere
        self._refuse_broken(name.casefold())
        where = "" if self.folder is None else f" and no file {self.folder}/*.toml describes it"
        raise ModelUnavailable(
            f"the model {name!r} is not here: it is not built in{where}; known: {', '.join(self.specs)}"
        )

    def _refuse_broken(self, wanted: str) -> None:
        for broken in self.broken:
            if broken.name.casefold() == wanted:
                raise ModelUnavailable(f"{broken.path}: {broken.reason}")


BUILT_IN = Models(MODELS)


def detector(name: str) -> DetectorSpec:
    return _get(DETECTORS, "detector", name)


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
