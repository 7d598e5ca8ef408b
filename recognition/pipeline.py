"""From images to typed faces: detect, crop, embed, in batches. Safe to share between threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import antispoofing, deepface, deepface_detectors, geometry, registry
from recognition.errors import CannotJudge, ModelUnavailable, SpoofDetected, WeightsMissing
from recognition.images import ImageLimits, Picture
from recognition.landmarks import LandmarkPredictor
from recognition.models import foreign
from recognition.quality import Measures, measure, overall
from recognition.registry import Models
from recognition.spec import (
    ACTIONS,
    Action,
    AntiSpoofingSpec,
    AttributeSpec,
    Collection,
    DetectorSpec,
    ModelSpec,
    Resources,
    available,
)
from recognition.stages import Observe, timed, unobserved
from recognition.types import (
    Align,
    AntiSpoofing,
    Attribute,
    Attributes,
    Authenticity,
    Detection,
    Detector,
    Embedder,
    Normalization,
    Rgb,
)

PIPELINE_VERSION = 1
"""Part of every space: raise it when embeddings made before and after are not to be compared any more. What moves them
no more than another detector does, which may search the same space, is measured across both instead (ADR 0013)."""

FOREIGN_VERSION = -1
"""In place of a version: the embeddings were made by another program and imported."""

MOST_VERSIONS = 2**31
"""What the database's column holds."""

NO_BOX = (
    "anti_spoofing needs to know where the face is, and the detector {name!r} does not look for it"
)
SPOOF = (
    "the face at x {x:.0f}, y {y:.0f} in {name} looks like a picture of a face, not like a live one; "
    "extract gives the score of every face"
)

T = TypeVar("T")


def space_version(spec: ModelSpec) -> int:
    """Differs for every version of the pipeline and of the model; the latter is a hash where the model is a user's."""
    return (PIPELINE_VERSION + 1009 * (spec.version - 1)) % MOST_VERSIONS


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes two embeddings comparable."""

    model: str
    detector: str
    align: Align = "native"
    normalization: Normalization = "base"
    version: int = PIPELINE_VERSION

    @classmethod
    def usual(cls, spec: ModelSpec, detector: str) -> Recipe:
        """With the alignment that the model's thresholds belong to. Raises UnknownName."""
        name = registry.detector(detector).name
        return cls(spec.name, name, spec.default_align, version=space_version(spec))

    def with_names(self, models: Models, model: str | None, detector: str | None) -> Recipe:
        """As of now; with another detector; with another model its own alignment too. Embeddings of another program
        stay what they are unless another model or detector is named.

        Raises UnknownName, ModelUnavailable.
        """
        if self.version == FOREIGN_VERSION and model is None and detector in (None, self.detector):
            return self
        found = registry.detector(detector or self.detector).name
        spec = models.installed(self.model) if model is None else models.named(model)
        if spec.name == self.model:
            return replace(self, detector=found, version=space_version(spec))
        return Recipe.usual(spec, found)

    def __str__(self) -> str:
        return f"{self.model} + {self.detector} (align {self.align}, {self.normalization})"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which detections count: the `max_faces` most prominent, boxes grown by `expand_percentage`."""

    max_faces: int | None = None
    expand_percentage: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face with its embedding ((dimension,) float32, not normalised)."""

    detection: Detection
    quality: float
    embedding: NDArray[np.float32]
    measures: Measures | None = None
    """None where the photograph was not seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A file's pixels, perhaps fewer than it has, and the faces where they are among these."""

    picture: Picture
    faces: tuple[Detection, ...]


class Recognizer:
    """Builds each detector and network once, on first use, and runs the stages."""

    def __init__(
        self,
        resources: Resources,
        models: Models = registry.BUILT_IN,
        attributes: Collection = "packaged",
        *,
        observe: Observe = unobserved,
    ) -> None:
        """`attributes`: whose networks answer where several do the same; `observe` is told how long each stage took."""
        self._resources = resources
        self.models = models
        self._collection = attributes
        self._built: dict[tuple[str, str], object] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()
        self._observe = observe

    @property
    def resources(self) -> Resources:
        return self._resources

    def detector(self, name: str, align: Align = "native") -> Detector:
        spec = registry.detector(name)
        if align == "deepface" and name != "skip":
            return self._load(
                "as deepface", spec, partial(deepface_detectors.build, name, spec.build)
            )
        return self._load("detector", spec, spec.build)

    def spec(self, recipe: Recipe) -> ModelSpec:
        """The recipe's model, as it was when the recipe's embeddings were made. Raises ModelUnavailable."""
        spec = self.models.installed(recipe.model)
        if recipe.version == (FOREIGN_VERSION if _imported(recipe) else space_version(spec)):
            return spec
        what = "its input, its weights or the pipeline has"
        if spec.described_in is not None:
            what = f"what {spec.described_in} describes, or the pipeline, has"
        raise ModelUnavailable(
            f"{recipe.model} is no longer what these embeddings were made with: {what} changed; "
            "reindex the gallery, or put back what was there"
        )

    def usable(self, recipe: Recipe) -> bool:
        """Whether the recipe's model is as it was."""
        try:
            self.spec(recipe)
        except ModelUnavailable:
            return False
        return True

    def embedder(self, name: str) -> Embedder:
        spec = self.models.installed(name)
        return self._load("model", spec, spec.build)

    def attribute(self, action: Action) -> Attribute:
        spec = registry.for_action(action, self._collection)
        return self._load("attribute", spec, spec.build)

    def usual_actions(self) -> tuple[Action, ...]:
        """What is estimated unless somebody asks for more: what packages serve, and what has its weights here; all if
        that is nothing. Only where the licence is accepted."""
        return tuple(action for action in ACTIONS if self._usual(action)) or ACTIONS

    def permit(self, model: str | None, detector: str | None) -> None:
        """Raises LicenceRefused if the licence of either is not accepted."""
        if model is not None:
            self._resources.weights.permit(self.models.installed(model).weights, model)
        if detector is not None:
            self._resources.weights.permit(registry.detector(detector).weights, detector)

    def anti_spoofing(self, name: str = antispoofing.NAME) -> AntiSpoofing:
        spec = registry.anti_spoofing(name)
        return self._load("anti-spoofing", spec, spec.build)

    def decode(self, data: bytes, limits: ImageLimits) -> Rgb:
        """(height, width, 3) uint8. Raises UndecodableImage, ImageTooLarge."""
        return self._read(data, limits, None).pixels

    def _read(self, data: bytes, limits: ImageLimits, enough: int | None) -> Picture:
        with timed(self._observe, "decode"):
            return self._resources.decoder(data, limits, enough)

    def see(
        self,
        data: bytes,
        limits: ImageLimits,
        recipe: Recipe,
        selection: Selection,
        *,
        whole: bool = False,
    ) -> Sight:
        """The faces of a file that `represent` would describe, and pixels to describe them by: of a large JPEG no more
        than the detector and, for the smallest face, the network can use. All of them if `whole`, or as DeepFace does.

        Raises UndecodableImage, ImageTooLarge.
        """
        least = registry.detector(recipe.detector).enough
        picture = self._read(data, limits, None if whole or recipe.align == "deepface" else least)
        (faces,) = self.locate([picture.pixels], recipe, selection)
        wanted = _wanted(picture, faces, max(self.spec(recipe).input_size))
        if wanted is None:
            return Sight(picture, faces)
        larger = self._read(data, limits, wanted)
        (x, y), (larger_x, larger_y) = picture.factors, larger.factors
        factors = x / larger_x, y / larger_y
        return Sight(larger, tuple(geometry.scaled(face, factors) for face in faces))

    def describe_seen(self, sight: Sight, recipe: Recipe) -> tuple[Face, ...]:
        """Its faces with their embeddings, in pixels of the file."""
        (faces,) = self.describe([sight.picture.pixels], [sight.faces], recipe)
        return tuple(_enlarged(face, sight.picture.factors) for face in faces)

    def warm(self, recipe: Recipe) -> None:
        """Load what a recipe needs, so that the first request does not wait for it."""
        self.detector(recipe.detector, recipe.align)
        self.embedder(recipe.model)

    def detect(
        self, images: Sequence[Rgb], detector: str, selection: Selection
    ) -> list[tuple[Detection, ...]]:
        """Faces of each image, most prominent first, with landmarks where they can be had."""
        with timed(self._observe, "detect"):
            return self._detect(images, detector, selection)

    def _detect(
        self, images: Sequence[Rgb], detector: str, selection: Selection
    ) -> list[tuple[Detection, ...]]:
        found = self.detector(detector).detect(images)
        return [
            tuple(
                self._complete(image, face, detector) for face in _select(faces, image, selection)
            )
            for image, faces in zip(images, found, strict=True)
        ]

    def represent(
        self, images: Sequence[Rgb], recipe: Recipe, selection: Selection
    ) -> list[tuple[Face, ...]]:
        """Faces of each image, most prominent first."""
        return self.describe(images, self.locate(images, recipe, selection), recipe)

    def locate(
        self, images: Sequence[Rgb], recipe: Recipe, selection: Selection
    ) -> list[tuple[Detection, ...]]:
        """The faces that `represent` describes: those of `detect`, or with align=deepface those that DeepFace sees."""
        if recipe.align != "deepface":
            return self.detect(images, recipe.detector, selection)
        with timed(self._observe, "detect"):
            return self._detect_as_deepface(images, recipe.detector, selection)

    def describe(
        self, images: Sequence[Rgb], detected: Sequence[Sequence[Detection]], recipe: Recipe
    ) -> list[tuple[Face, ...]]:
        """The detected faces with their embeddings; one call of the network embeds them all."""
        pairs = [(i, f) for i, faces in zip(images, detected, strict=True) for f in faces]
        with timed(self._observe, "align"):
            crops = [self.crop(image, face, recipe) for image, face in pairs]
            measures = iter([measure(image, face) for image, face in pairs])
        with timed(self._observe, "embed"):
            rows = iter(self.embed(crops, recipe))
        return [
            tuple(_described(face, next(measures), next(rows)) for face in faces)
            for faces in detected
        ]

    def crop(self, image: Rgb, face: Detection, recipe: Recipe) -> Rgb:
        """The network's input for one face."""
        return self.embedder(self.spec(recipe).name).crop(image, face, recipe.align)

    def embed(self, crops: Sequence[Rgb], recipe: Recipe) -> NDArray[np.float32]:
        """(n, dimension) float32; n may be 0. The mean with the mirror image's where the spec says so."""
        spec = self.spec(recipe)
        if not crops:
            return np.zeros((0, spec.dimension), np.float32)
        embedder = self.embedder(spec.name)
        if not spec.mirrored or recipe.align == "deepface":
            return embedder.embed(crops, recipe.align, recipe.normalization)
        how = recipe.align, recipe.normalization
        mirrored = [np.asarray(cv2.flip(crop, 1), np.uint8) for crop in crops]
        other = self._resources.idle.start(lambda: embedder.embed(mirrored, *how))
        if other is not None:
            rows = embedder.embed(crops, *how)
            return np.asarray((rows + other.result()) / 2, np.float32)
        rows = embedder.embed([*crops, *mirrored], *how)
        return np.asarray((rows[: len(crops)] + rows[len(crops) :]) / 2, np.float32)

    def embeddings(self, faces: Sequence[Face], recipe: Recipe) -> NDArray[np.float32]:
        """(n, dimension) float32 of faces that have theirs; n may be 0."""
        empty = np.zeros((0, self.models.installed(recipe.model).dimension), np.float32)
        return np.stack([face.embedding for face in faces]) if faces else empty

    def analyze(
        self, image: Rgb, faces: Sequence[Detection], actions: Sequence[Action]
    ) -> list[Attributes]:
        """One record per face, with the fields of the actions set."""

        def estimated(action: Action) -> Sequence[Attributes]:
            attribute = self.attribute(action)
            return attribute.predict([attribute.crop(image, face) for face in faces])

        merged = [Attributes() for _ in faces]
        for found in self._resources.idle.each(estimated, actions if faces else ()):
            merged = [_merge(a, b) for a, b in zip(merged, found, strict=True)]
        return merged

    def judge(
        self, images: Sequence[Rgb], detected: Sequence[Sequence[Detection]], detector: str
    ) -> list[tuple[Authenticity, ...]]:
        """Whether each detected face looks live; one call of each network judges them all.

        Raises CannotJudge for a detector that does not look for faces: their surroundings would be missing.
        """
        if detector == "skip":
            raise CannotJudge(NO_BOX.format(name=detector))
        if not any(detected):
            return [() for _ in detected]
        method = self.anti_spoofing()
        pairs = zip(images, detected, strict=True)
        found = iter(method.judge([method.crop(image, f) for image, faces in pairs for f in faces]))
        return [tuple(next(found) for _ in faces) for faces in detected]

    def refuse_spoofs(
        self, image: Rgb, faces: Sequence[Detection], detector: str, name: str
    ) -> None:
        """Raises SpoofDetected, with the image's name, if any of the faces does not look live; CannotJudge."""
        (found,) = self.judge([image], [faces], detector)
        for face, authenticity in zip(faces, found, strict=True):
            if not authenticity.is_real:
                raise SpoofDetected(SPOOF.format(x=face.box.x, y=face.box.y, name=name))

    def _detect_as_deepface(
        self, images: Sequence[Rgb], detector: str, selection: Selection
    ) -> list[tuple[Detection, ...]]:
        """As `detect`, with DeepFace's border around the images, which lets it see other boxes; `skip` has none.

        If only some faces are wanted, they are the largest.
        """
        if detector == "skip":
            return self._detect(images, detector, selection)
        finder = self.detector(detector, "deepface")
        eyes = self._once(("eyes", "haar"), deepface_detectors.Eyes)
        located = []
        for image in images:
            padded, (x, y) = deepface.border(image)
            (found,) = finder.detect([padded])
            if not found and detector in deepface_detectors.SHORT_SIGHTED:
                (usual,) = self.detector(detector).detect([image])
                found = tuple(deepface.moved(face, x, y) for face in usual)
            faces = deepface.chosen(found, padded, selection.max_faces, selection.expand_percentage)
            complete = [eyes.complete(padded, face) for face in faces]
            whole = [deepface.moved(face, -x, -y) for face in complete]
            located.append(tuple(sorted(whole, key=lambda f: prominence(f, image), reverse=True)))
        return located

    def _complete(self, image: Rgb, face: Detection, detector: str) -> Detection:
        if face.landmarks is not None or detector == "skip":
            return face
        predictor = self._once(
            ("landmarks", "dlib"), lambda: LandmarkPredictor.build(self._resources)
        )
        return replace(face, landmarks=predictor.eyes_and_nose(image, face))

    def _usual(self, action: Action) -> bool:
        spec, weights = registry.for_action(action, self._collection), self._resources.weights
        comes = all(file.package for file in spec.weights)
        return all(map(weights.permits, spec.weights)) and (comes or available(spec, weights))

    def _load(
        self,
        kind: str,
        spec: ModelSpec | DetectorSpec | AttributeSpec | AntiSpoofingSpec,
        build: Callable[[Resources], T],
    ) -> T:
        """Built once. Raises LicenceRefused, BadWeights, and WeightsMissing with what to do about it."""

        def load() -> T:
            self._resources.weights.permit(spec.weights, spec.name)
            try:
                return build(self._resources)
            except WeightsMissing as error:
                cache = self._resources.weights
                if cache.policy.addresses or not cache.download:
                    raise
                raise WeightsMissing(
                    f"{error}; `facesearch models pull {spec.name}` fetches them"
                ) from error

        return self._once((kind, spec.name), load)

    def _once(self, key: tuple[str, str], build: Callable[[], T]) -> T:
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._built:
                self._built[key] = build()
            return self._built[key]  # type: ignore[return-value] # one type per key


def _described(face: Detection, found: Measures, embedding: NDArray[np.float32]) -> Face:
    return Face(face, overall(found), embedding, found)


def _imported(recipe: Recipe) -> bool:
    """Whether its embeddings are another program's that are of use here: DeepFace's, made as `align` deepface does,
    or of a model that is known by its name only."""
    if recipe.version != FOREIGN_VERSION:
        return False
    return recipe.align == "deepface" or foreign.spec(recipe.model) is not None


def _wanted(picture: Picture, faces: Sequence[Detection], side: int) -> int | None:
    """Pixels of the longer side with which the smallest face has that side; None where they are there, or all."""
    height, width = picture.pixels.shape[:2]
    there = max(height, width)
    least = float(min((min(face.box.w, face.box.h) for face in faces), default=math.inf))
    if least >= side or there == max(picture.width, picture.height):
        return None
    return int(np.ceil(there * side / max(1.0, least)))


def _enlarged(face: Face, factors: tuple[float, float]) -> Face:
    if factors == (1.0, 1.0):
        return face
    measures = face.measures
    if measures is not None:
        measures = replace(measures, side=measures.side * math.sqrt(factors[0] * factors[1]))
    return replace(face, detection=geometry.scaled(face.detection, factors), measures=measures)


def _select(faces: Sequence[Detection], image: Rgb, selection: Selection) -> tuple[Detection, ...]:
    chosen = sorted(faces, key=lambda f: prominence(f, image), reverse=True)
    chosen = chosen[: selection.max_faces]
    if selection.expand_percentage <= 0:
        return tuple(chosen)
    return tuple(_grow(f, image, selection.expand_percentage) for f in chosen)


def prominence(face: Detection, image: Rgb) -> float:
    """The box's area, discounted towards the corners: who a photograph is of stands in its middle."""
    height, width = image.shape[:2]
    x, y = face.box.centre
    offset = math.hypot(x - width / 2, y - height / 2) / math.hypot(width, height)
    return face.box.area * max(0.05, 1.0 - 2.0 * offset) ** 2


def _grow(face: Detection, image: Rgb, percent: float) -> Detection:
    height, width = image.shape[:2]
    box = face.box
    w, h = box.w * (1 + percent / 100), box.h * (1 + percent / 100)
    x, y = max(0.0, box.x - (w - box.w) / 2), max(0.0, box.y - (h - box.h) / 2)
    grown = replace(box, x=x, y=y, w=min(width - x, w), h=min(height - y, h))
    return replace(face, box=grown)


def _merge(a: Attributes, b: Attributes) -> Attributes:
    return Attributes(
        age=a.age if b.age is None else b.age,
        gender=a.gender if b.gender is None else b.gender,
        race=a.race if b.race is None else b.race,
        emotion=a.emotion if b.emotion is None else b.emotion,
    )
