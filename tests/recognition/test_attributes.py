"""Age, gender and emotion against their reference implementations; Keras files that are damaged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from recognition.attributes import age_gender, emotion
from recognition.detectors import mediapipe
from recognition.errors import BadWeights
from recognition.formats import keras_h5, mini_xception
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Attribute, Attributes, Box, Detection, Rgb

CANONICAL = json.loads((Path(__file__).parent / "canonical" / "attributes.json").read_text())
PORTRAITS = CANONICAL["portraits"]
SPECS = {spec.name: spec for spec in (*age_gender.SPECS, *emotion.SPECS)}
YEARS = {"obama.jpg": 51, "obama2.jpg": 49, "obama3.jpg": 50, "biden.jpg": 70}
"""Age of the person when the picture was taken, give or take a year."""


def rgb(data: bytes) -> Rgb:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def waves(side: int) -> list[Rgb]:
    y, x, c = np.indices((side, side, 3))
    values = (127.5 + 127.5 * np.sin(0.13 * x * (1 + c) + 0.21 * y + k) for k in range(3))
    return [value.round().astype(np.uint8) for value in values]


def build(name: str, resources: Resources) -> Attribute:
    return SPECS[name].build(resources)


@pytest.fixture(scope="module")
def faces(resources: Resources, portraits: dict[str, bytes]) -> dict[str, tuple[Rgb, Detection]]:
    detector = mediapipe.SPECS[0].build(resources)
    images = {name: rgb(portraits[name]) for name in PORTRAITS}
    return {name: (image, detector.detect([image])[0][0]) for name, image in images.items()}


def analyzed(
    attribute: Attribute, faces: dict[str, tuple[Rgb, Detection]]
) -> dict[str, Attributes]:
    found = attribute.predict([attribute.crop(*face) for face in faces.values()])
    return dict(zip(faces, found, strict=True))


def values(found: Attributes) -> list[float]:
    """The one field that is set, as numbers."""
    (field,) = (v for v in (found.age, found.gender, found.race, found.emotion) if v is not None)
    return list(field.values()) if isinstance(field, dict) else [field]


def test_age_gives_the_numbers_of_the_reference_implementation(resources: Resources):
    found = build("age", resources).predict(waves(64))
    np.testing.assert_allclose([f.age for f in found], CANONICAL["waves"]["age"], atol=2e-3)


def test_gender_gives_the_numbers_of_the_reference_implementation(resources: Resources):
    found = build("gender", resources).predict(waves(32))
    expected = 100 * np.array(CANONICAL["waves"]["gender"])
    np.testing.assert_allclose([values(f) for f in found], expected, atol=2e-3)


def test_the_emotion_network_gives_the_numbers_of_keras(resources: Resources, tmp_path: Path):
    path = tmp_path / "emotion.onnx"
    path.write_bytes(mini_xception.convert(weights(resources)))
    y, x = np.indices((64, 64))
    faces = np.stack([np.sin(0.13 * x + 0.21 * y + k) for k in range(3)])[:, None]
    (found,) = Runtime(threads=1).session(path)(faces.astype(np.float32))
    np.testing.assert_allclose(found, CANONICAL["waves"]["emotion"], rtol=0, atol=1e-5)


def test_ages_of_people_whose_birthday_is_known(
    resources: Resources, faces: dict[str, tuple[Rgb, Detection]]
):
    found = analyzed(build("age", resources), faces)
    for name, years in YEARS.items():
        assert found[name].age == pytest.approx(years, abs=7)


def test_gender_of_the_portraits_is_that_of_the_reference_implementation(
    resources: Resources, faces: dict[str, tuple[Rgb, Detection]]
):
    found = analyzed(build("gender", resources), faces)
    for name in PORTRAITS:
        assert list(found[name].gender or {}) == ["Woman", "Man"]
        expected = 100 * np.array(PORTRAITS[name]["gender"])
        np.testing.assert_allclose(values(found[name]), expected, atol=3)


def test_emotions_of_the_portraits(resources: Resources, faces: dict[str, tuple[Rgb, Detection]]):
    found = analyzed(build("emotion", resources), faces)
    assert list(found["obama.jpg"].emotion or {}) == list(emotion.CLASSES)
    smile = dict(zip(emotion.CLASSES, values(found["obama.jpg"]), strict=True))
    assert smile["happy"] > 95
    assert (
        max(found["obama2.jpg"].emotion or {}, key=dict(found["obama2.jpg"].emotion or {}).get)
        == "angry"
    )  # type: ignore[arg-type]


def test_placed_like_the_reference_crop_emotions_are_those_of_keras(
    resources: Resources, portraits: dict[str, bytes]
):
    """fer grows Haar's box by 10 pixels; it samples single pixels where this project averages areas."""
    attribute, shares = build("emotion", resources), []
    for name, expected in PORTRAITS.items():
        x, y, w, h = expected["haar"]
        # A box that the crop's growth and lift turn into fer's square.
        side = (w + 20) / emotion.GROWTH
        centre = x + w / 2, y + h / 2 + emotion.LIFT * side
        box = Box(centre[0] - side / 2, centre[1] - side / 2, side, side)
        crop = attribute.crop(rgb(portraits[name]), Detection(box, 1.0))
        found = np.array(values(attribute.predict([crop])[0])) / 100
        shares.append(float(np.minimum(found, expected["emotion"]).sum()))
    assert np.mean(shares) > 0.7


@pytest.mark.parametrize("name", SPECS)
def test_the_batch_does_not_matter(
    name: str, resources: Resources, faces: dict[str, tuple[Rgb, Detection]]
):
    attribute = build(name, resources)
    crops = [attribute.crop(*face) for face in faces.values()] * 9
    together = [values(found) for found in attribute.predict(crops)]
    alone = [values(attribute.predict([crop])[0]) for crop in crops[: len(faces)]]
    np.testing.assert_allclose(together, alone * 9, atol=1e-3)
    if name != "age":
        np.testing.assert_allclose(np.sum(together, axis=1), 100, atol=1e-6)


def test_a_mirrored_face_has_the_same_emotion(
    resources: Resources, faces: dict[str, tuple[Rgb, Detection]]
):
    attribute = build("emotion", resources)
    crop = attribute.crop(*faces["biden.jpg"])
    here, there = attribute.predict([crop, np.ascontiguousarray(crop[:, ::-1])])
    np.testing.assert_allclose(values(here), values(there), atol=1e-3)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    "box", [Box(0, 0, 40, 30), Box(-20, 10, 60, 60), Box(5, 5, 0, 0), Box(300, 300, 9, 9)]
)
def test_any_box_gives_a_crop_of_the_right_size(name: str, box: Box, resources: Resources):
    attribute = build(name, resources)
    crop = attribute.crop(np.full((30, 40, 3), 90, np.uint8), Detection(box, 1.0))
    side = {"age": 64, "gender": 32, "emotion": 64}[name]
    assert crop.shape == (side, side, 3)
    assert crop.dtype == np.uint8
    assert np.isfinite(values(attribute.predict([crop])[0])).all()


@pytest.mark.parametrize("name", SPECS)
def test_no_faces_no_answers(name: str, resources: Resources):
    assert build(name, resources).predict([]) == []


def test_the_crop_shows_the_box_from_edge_to_edge():
    box = Box(10, 20, 100, 80)
    matrix = emotion.placing(box)
    side = 100 * emotion.GROWTH
    left, top = 60 - side / 2, 60 - emotion.LIFT * 100 - side / 2
    # Integers are centres of pixels: the edges lie half a pixel before the first one.
    np.testing.assert_allclose(matrix @ [left - 0.5, top - 0.5, 1], [-0.5, -0.5], atol=1e-9)
    end = matrix @ [left + side - 0.5, top + side - 0.5, 1]
    np.testing.assert_allclose(end, [63.5, 63.5], atol=1e-9)


@pytest.mark.parametrize("names", ["women", "men"])
def test_gender_on_photographs_of_people_known_by_first_name(
    names: str, resources: Resources, shared_data: Path
):
    known = {
        "women": ("Jennifer", "Maria", "Elizabeth", "Julie", "Michelle", "Catherine", "Laura"),
        "men": ("John", "James", "Robert", "Paul"),
    }
    detector, attribute = mediapipe.SPECS[0].build(resources), build("gender", resources)
    folders = [
        folder
        for folder in sorted((shared_data / "faces").iterdir())
        if folder.name.split("_")[0] in known[names]
    ][:40]
    images = [rgb(next(iter(sorted(folder.glob("*.jpg")))).read_bytes()) for folder in folders]
    found = [max(faces, key=lambda f: f.box.area) for faces in detector.detect(images)]
    crops = [attribute.crop(image, face) for image, face in zip(images, found, strict=True)]
    right = [(values(answer)[0] > 50) == (names == "women") for answer in attribute.predict(crops)]
    assert len(right) >= 20
    assert np.mean(right) > 0.9


def weights(resources: Resources) -> bytes:
    return resources.weights.path(emotion.WEIGHTS).read_bytes()


def changed(data: bytes, change: Callable[[h5py.Group], None]) -> bytes:
    """The file after something was done to its group of weights."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        change(file["model_weights"])
    return buffer.getvalue()


def replaced(array: NDArray[np.generic]) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        layer = group["conv2d_1"]
        name = layer.attrs["weight_names"][0]
        del layer[name]
        layer[name] = array

    return change


def forgotten(attribute: str) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        del group.attrs[attribute]

    return change


def dropped(group: h5py.Group) -> None:
    del group["conv2d_7"]


def shortened(group: h5py.Group) -> None:
    group.attrs["layer_names"] = group.attrs["layer_names"][:-3]


def repeated(group: h5py.Group) -> None:
    group.attrs["layer_names"] = [*group.attrs["layer_names"], b"conv2d_7"]


def linked(group: h5py.Group) -> None:
    layer = group["conv2d_1"]
    name = layer.attrs["weight_names"][0]
    del layer[name]
    layer[name] = h5py.ExternalLink("/etc/hostname", "/")


KERNEL = (3, 3, 1, 8)


@pytest.mark.parametrize(
    "change",
    [
        replaced(np.zeros((3, 3, 8, 1), np.float32)),
        replaced(np.zeros(KERNEL, np.float64)),
        replaced(np.zeros(KERNEL, np.int32)),
        replaced(np.full(KERNEL, np.nan, np.float32)),
        replaced(np.full(KERNEL, 3e38, np.float32)),
        forgotten("layer_names"),
        dropped,
        shortened,
        repeated,
        linked,
    ],
)
def test_files_that_are_not_this_network_are_refused(
    change: Callable[[h5py.Group], None], resources: Resources
):
    with pytest.raises(BadWeights):
        mini_xception.convert(changed(weights(resources), change))


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"nothing" * 100])
def test_what_is_no_keras_file_is_refused(data: bytes):
    with pytest.raises(BadWeights):
        keras_h5.read(data)


def test_truncated_keras_files_are_refused(resources: Resources):
    data = weights(resources)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        with pytest.raises(BadWeights):
            keras_h5.read(data[: int(len(data) * share)])


def test_layers_are_read_in_the_order_of_the_file(resources: Resources):
    layers = keras_h5.read(weights(resources))
    assert [layer.name for layer in layers[:3]] == [
        "conv2d_1",
        "batch_normalization_1",
        "conv2d_2",
    ]
    assert [array.shape for array in layers[-1].arrays] == [(3, 3, 128, 7), (7,)]
