"""Age, gender, race and emotion by DeepFace's networks, which see a face as DeepFace shows it.

Weights by S. I. Serengil (MIT for his part): age, gender and race were trained on the trunk of VGG-Face, whose authors
allow research only; emotion on FER2013. Race names appearances that a network was taught to tell apart, not origins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import deepface
from recognition.errors import BadWeights
from recognition.keras import vgg
from recognition.keras.published import Published, released
from recognition.runtime import Session
from recognition.spec import Action, AttributeSpec, Resources
from recognition.types import Attributes, Detection, Rgb
from recognition.weights import Weights

Tensor = Any
Shares = NDArray[np.float64]
"""(n, classes), rows summing to 1."""

YEARS = np.arange(101)
GENDERS = ("Woman", "Man")
RACES = ("asian", "indian", "black", "white", "middle eastern", "latino hispanic")
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
GREY_SIDE = 48
BATCH = 8
"""Faces per run: the trunk of VGG-Face takes much memory."""


class Estimate:
    """One of the four networks; may be used from several threads at once."""

    def __init__(
        self,
        network: Session,
        classes: int,
        tensor: Callable[[Sequence[Rgb]], NDArray[np.float32]],
        told: Callable[[NDArray[np.float64]], Attributes],
    ) -> None:
        self._network, self._classes, self._tensor, self._told = network, classes, tensor, told
        self._batch = 1 if network.shape[0] == 1 else BATCH

    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """(224, 224, 3) uint8 RGB: the face with level eyes, letterboxed in black."""
        return deepface.crop(image, face, (vgg.SIDE, vgg.SIDE))

    def predict(self, crops: Sequence[Rgb]) -> list[Attributes]:
        """Raises BadWeights if the graph answers with something else than probabilities."""
        found: list[Attributes] = []
        for start in range(0, len(crops), self._batch):
            part = crops[start : start + self._batch]
            found += map(self._told, self._shares(self._tensor(part)))
        return found

    def _shares(self, faces: NDArray[np.float32]) -> Shares:
        (out, *_) = self._network(faces)
        if out.shape != (len(faces), self._classes):
            raise BadWeights(f"the network gives {out.shape}, not {self._classes} values each")
        shares = out.astype(np.float64)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def colours(crops: Sequence[Rgb]) -> NDArray[np.float32]:
    """(n, 224, 224, 3) float32 BGR in 0..1."""
    return np.ascontiguousarray(deepface.tensor(crops, "base"))


def greys(crops: Sequence[Rgb]) -> NDArray[np.float32]:
    """(n, 48, 48, 1) float32 in 0..1."""
    side = (GREY_SIDE, GREY_SIDE)
    pictures = [cv2.cvtColor(face, cv2.COLOR_BGR2GRAY) for face in colours(crops)]
    return np.stack([cv2.resize(picture, side) for picture in pictures])[..., None]


def _age(shares: Shares) -> Attributes:
    """The expectation over the years."""
    return Attributes(age=float(shares @ YEARS))


def _gender(shares: Shares) -> Attributes:
    return Attributes(gender=_percentages(GENDERS, shares))


def _race(shares: Shares) -> Attributes:
    return Attributes(race=_percentages(RACES, shares))


def _emotion(shares: Shares) -> Attributes:
    return Attributes(emotion=_percentages(EMOTIONS, shares))


def _percentages(names: Sequence[str], shares: Shares) -> dict[str, float]:
    return dict(zip(names, (100 * shares).tolist(), strict=True))


def age_network() -> Tensor:
    return vgg.classifier(len(YEARS))


def gender_network() -> Tensor:
    return vgg.classifier(len(GENDERS))


def race_network() -> Tensor:
    return vgg.classifier(len(RACES))


def emotion_network() -> Tensor:
    """Of (n, 48, 48, 1)."""
    from recognition.keras import layers as k

    inputs = k.Input((GREY_SIDE, GREY_SIDE, 1))
    x = k.MaxPooling2D(5, strides=2)(k.Conv2D(64, 5, activation="relu")(inputs))
    for filters in (64, 128):
        for _ in range(2):
            x = k.Conv2D(filters, 3, activation="relu")(x)
        x = k.AveragePooling2D(3, strides=2)(x)
    x = k.Flatten()(x)
    for _ in range(2):
        x = k.Dropout(0.2)(k.Dense(1024, activation="relu")(x))
    return k.Model(inputs, k.Dense(len(EMOTIONS), activation="softmax")(x))


TRUNK_LICENCE = "for research, not commercial (VGG-Face of the Visual Geometry Group, Oxford)"


def _published(action: Action, file: str, *, trunk: bool) -> Published:
    onnx = Weights(
        name=f"{file}.onnx",
        sha256=None,
        licence=TRUNK_LICENCE if trunk else "MIT",
        origin="DeepFace by Sefik Ilkin Serengil",
        urls=released(f"{file}.onnx"),
        non_commercial=trunk,
    )
    return Published(
        onnx=onnx,
        keras=replace(onnx, name=f"{file}.h5", urls=released(f"{file}.h5")),
        network=f"recognition.attributes.deepface:{action}_network",
        shape=(vgg.SIDE, vgg.SIDE, 3) if trunk else (GREY_SIDE, GREY_SIDE, 1),
    )


AGE = _published("age", "age_model_weights", trunk=True)
GENDER = _published("gender", "gender_model_weights", trunk=True)
RACE = _published("race", "race_model_single_batch", trunk=True)
EMOTION = _published("emotion", "facial_expression_model_weights", trunk=False)


def _build_age(resources: Resources) -> Estimate:
    return Estimate(AGE.session(resources), len(YEARS), colours, _age)


def _build_gender(resources: Resources) -> Estimate:
    return Estimate(GENDER.session(resources), len(GENDERS), colours, _gender)


def _build_race(resources: Resources) -> Estimate:
    return Estimate(RACE.session(resources), len(RACES), colours, _race)


def _build_emotion(resources: Resources) -> Estimate:
    return Estimate(EMOTION.session(resources), len(EMOTIONS), greys, _emotion)


_spec = partial(AttributeSpec, collection="deepface", origin=AGE.onnx.origin)

SPECS: tuple[AttributeSpec, ...] = (
    _spec(
        name="age_deepface",
        action="age",
        summary="Years from 0 to 100, by VGG-16",
        licence=AGE.onnx.licence,
        classes=(),
        weights=(AGE.onnx,),
        alternatives=((AGE.keras,),),
        build=_build_age,
    ),
    _spec(
        name="gender_deepface",
        action="gender",
        summary="Woman or man, by VGG-16",
        licence=GENDER.onnx.licence,
        classes=GENDERS,
        weights=(GENDER.onnx,),
        alternatives=((GENDER.keras,),),
        build=_build_gender,
    ),
    _spec(
        name="race",
        action="race",
        summary="Six appearances, by VGG-16",
        licence=RACE.onnx.licence,
        classes=RACES,
        weights=(RACE.onnx,),
        alternatives=((RACE.keras,),),
        build=_build_race,
    ),
    _spec(
        name="emotion_deepface",
        action="emotion",
        summary="Seven expressions, by a small network trained on FER2013",
        licence=EMOTION.onnx.licence,
        classes=EMOTIONS,
        weights=(EMOTION.onnx,),
        alternatives=((EMOTION.keras,),),
        build=_build_emotion,
    ),
)
