"""The Dlib model beside dlib's own, and what damaged files do to its reader."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import dlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition import registry
from recognition.errors import BadWeights, WeightsMissing
from recognition.formats import dlib_dat
from recognition.images import ImageLimits, decode
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import DlibPredictor
from recognition.models.dlib import BATCH, SPECS, WEIGHTS
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Box, Detection, Embedder, Rgb
from recognition.weights import WeightsCache

LAYER = re.compile(rb"\x01[\x04\x05\x07](con_4|affine_|fc_2)")


@pytest.fixture(scope="module")
def data(weights_cache: WeightsCache) -> bytes:
    return weights_cache.path(WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def images(portraits: dict[str, bytes]) -> dict[str, Rgb]:
    return {name: decode(data, ImageLimits()) for name, data in portraits.items()}


@pytest.fixture(scope="module")
def chips(images: dict[str, Rgb], weights_cache: WeightsCache) -> list[Rgb]:
    """dlib's own chips of the portraits, dlib's own disturbed copies of them, and noise."""
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(weights_cache.path(LANDMARK_WEIGHTS)))
    found: list[Rgb] = []
    for image in images.values():
        face = max(detector(image, 0), key=lambda r: r.area())
        found.append(dlib.get_face_chip(image, predictor(image, face), 150, 0.25))
        found += dlib.jitter_image(found[-1], num_jitters=2)
    noise = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    flat = [np.full((150, 150, 3), value, np.uint8) for value in (0, 255)]
    return [*found, *noise, *flat]


@pytest.fixture(scope="module")
def expected(chips: list[Rgb], weights_cache: WeightsCache) -> np.ndarray:
    network = dlib.face_recognition_model_v1(str(weights_cache.path(WEIGHTS)))
    return np.array([network.compute_face_descriptor(chip) for chip in chips])


@pytest.fixture(scope="module")
def embedder(resources: Resources) -> Embedder:
    return SPECS[0].build(resources)


def test_equals_dlib(embedder: Embedder, chips: list[Rgb], expected: np.ndarray) -> None:
    for chip, row in zip(chips, expected, strict=True):
        found = embedder.embed([chip], "native", "base")
        assert found.shape == (1, 128)
        assert found.dtype == np.float32
        assert np.abs(found[0] - row).max() < 1e-5


@pytest.mark.parametrize("size", [2, 7, BATCH, BATCH + 1, 3 * BATCH - 5])
def test_equals_dlib_in_batches(
    size: int, embedder: Embedder, chips: list[Rgb], expected: np.ndarray
) -> None:
    order = [i % len(chips) for i in range(size)]
    found = embedder.embed([chips[i] for i in order], "native", "base")
    assert found.shape == (size, 128)
    assert np.abs(found - expected[order]).max() < 1e-5


def test_threads_do_not_change_the_result(
    weights_cache: WeightsCache, chips: list[Rgb], expected: np.ndarray
) -> None:
    for threads in (1, 2):
        embedder = SPECS[0].build(Resources(weights_cache, Runtime(threads)))
        assert np.abs(embedder.embed(chips, "native", "base") - expected).max() < 1e-5


def test_no_crops(embedder: Embedder) -> None:
    assert embedder.embed([], "native", "base").shape == (0, 128)


def run(graph: bytes, folder: Path, chip: Rgb) -> np.ndarray:
    path = folder / "network.onnx"
    path.write_bytes(graph)
    return Runtime(1).session(path, ["embeddings"])(chip[None])[0][0]


def test_every_weight_counts(
    data: bytes, tmp_path: Path, chips: list[Rgb], expected: np.ndarray
) -> None:
    """A few weights set to zero, in the first, a middle and the last layer of each kind, change the result."""
    assert np.abs(run(dlib_dat.convert(data), tmp_path, chips[0]) - expected[0]).max() < 1e-5
    places: dict[bytes, list[int]] = {b"con_4": [], b"affine_": [], b"fc_2": []}
    for match in LAYER.finditer(data):
        places[match[1]].append(match.end() + 100)
    assert [len(found) for found in places.values()] == [29, 29, 1]
    for found in places.values():
        for at in {found[0], found[len(found) // 2], found[-1]}:
            changed = data[:at] + bytes(40) + data[at + 40 :]
            difference = run(dlib_dat.convert(changed), tmp_path, chips[0]) - expected[0]
            assert np.abs(difference).max() > 1e-5


def test_truncation(data: bytes) -> None:
    """At both ends, at random, and in the middle of everything around the layers' names."""
    rng = np.random.default_rng(3)
    lengths = {0, 1, 2, 40, 0x120, 0x160, len(data) - 1, *rng.integers(0, len(data), 30).tolist()}
    for match in list(LAYER.finditer(data))[::9]:
        lengths |= {match.start() + step for step in (0, 1, 4, 9, 15, 60)}
    for length in lengths:
        with pytest.raises(BadWeights, match="dlib"):
            dlib_dat.read(data[:length])


def test_more_than_the_network(data: bytes) -> None:
    with pytest.raises(BadWeights, match="bytes follow"):
        dlib_dat.read(data + b"\0")


@pytest.mark.parametrize("value", [b"\0\0\xc0\x7f", b"\0\0\x80\xff"], ids=["nan", "-inf"])
def test_weights_that_are_no_numbers(data: bytes, value: bytes) -> None:
    head = dlib_dat.read(data).head.tobytes()
    at = data.index(head) + 4000
    with pytest.raises(BadWeights, match="not a number"):
        dlib_dat.read(data[:at] + value + data[at + 4 :])


@pytest.mark.parametrize(
    "lengths",
    [b"\x08" + b"\xff" * 7 + b"\x7f", b"\x88" + b"\xff" * 7 + b"\x7f", b"\x04\xff\xff\xff\x7f"],
    ids=["2**63", "-2**63", "2**31"],
)
def test_absurd_lengths_take_no_memory(data: bytes, lengths: bytes) -> None:
    """In place of a tensor's first dimension, of an integer, and of a name's length."""
    match = next(LAYER.finditer(data))
    name, dimension = match.start(), match.end() + 2
    for at, size in ((dimension, 3), (name, 2), (0, 2)):
        changed = data[:at] + lengths + data[at + size :]
        tracemalloc.start()
        with pytest.raises(BadWeights):
            dlib_dat.read(changed)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


def test_integers_and_numbers_out_of_range(data: bytes) -> None:
    """A control byte with unknown bits; an exponent beyond any float, for the mean of red."""
    with pytest.raises(BadWeights, match="length"):
        dlib_dat.read(b"\x11" + data[1:])
    exponent = data.index(b"input_rgb_image_sized") + len("input_rgb_image_sized") + 4
    assert data[exponent : exponent + 2] == b"\x81\x11"
    with pytest.raises(BadWeights, match="range"):
        dlib_dat.read(data[:exponent] + b"\x02\xff\x7f" + data[exponent + 2 :])


@given(st.data())
def test_one_wrong_byte(data: bytes, draw: st.DataObject) -> None:
    """Anywhere outside the weights: refused, or of no consequence; never another exception."""
    starts = [0, 0x120, *(match.start() for match in list(LAYER.finditer(data))[:3])]
    at = draw.draw(st.sampled_from(starts)) + draw.draw(st.integers(0, 24))
    changed = bytearray(data)
    changed[at] ^= draw.draw(st.integers(1, 255))
    try:
        network = dlib_dat.read(bytes(changed))
    except BadWeights:
        return
    assert network.head.shape == (256, 128)


@given(st.binary(max_size=400))
def test_other_files(content: bytes) -> None:
    with pytest.raises(BadWeights):
        dlib_dat.convert(content)


def test_a_damaged_predictor_is_bad_weights(tmp_path: Path) -> None:
    path = tmp_path / "predictor.dat"
    path.write_bytes(b"\x01\x01 not a predictor")
    with pytest.raises(BadWeights, match=r"predictor\.dat"):
        DlibPredictor(dlib, str(path))


def test_plain_crops_show_the_square_around_the_box(embedder: Embedder) -> None:
    """With align none: nothing is stretched, and outside the image it is black."""
    image = np.full((400, 600, 3), (0, 0, 255), np.uint8)
    image[100:200, 250:300] = (255, 0, 0)
    crop = embedder.crop(image, Detection(Box(250, 100, 50, 100), 1.0), "none")
    assert crop.shape == (150, 150, 3)
    red = crop[..., 0] > 127
    assert np.flatnonzero(red.any(axis=0))[[0, -1]] == pytest.approx([37, 112], abs=1.5)
    assert np.flatnonzero(red.any(axis=1))[[0, -1]] == pytest.approx([0, 149], abs=1.5)
    corner = embedder.crop(image, Detection(Box(-50, -50, 100, 100), 1.0), "none")
    assert corner[:73].max() == corner[:, :73].max() == 0
    assert corner[77:, 77:, 2].min() == 255


def usable_detectors(recognizer: Recognizer) -> Iterator[str]:
    """Those that look for faces and whose weights can be had here."""
    for name in registry.DETECTORS:
        try:
            recognizer.detector(name)
        except WeightsMissing:
            continue
        if name != "skip":
            yield name


def test_all_detectors_lead_to_the_same_chip(resources: Resources, images: dict[str, Rgb]) -> None:
    """And so does a loose crop of the face without any detector."""
    recognizer, one = Recognizer(resources), Selection(max_faces=1)
    for image in images.values():
        found = {
            name: recognizer.represent([image], Recipe("Dlib", name), one)[0][0]
            for name in usable_detectors(recognizer)
        }
        box = found["mtcnn"].detection.box
        rows = [face.embedding for face in found.values()]
        for margin in (0.05, 0.3, 0.6):
            x, y = int(box.x - margin * box.w), int(box.y - margin * box.h)
            x1, y1 = int(box.x + (1 + margin) * box.w), int(box.y + (1 + margin) * box.h)
            part = np.ascontiguousarray(image[max(y, 0) : y1, max(x, 0) : x1])
            rows.append(recognizer.represent([part], Recipe("Dlib", "skip"), one)[0][0].embedding)
        for row in rows[1:]:
            assert np.linalg.norm(row - rows[0]) < 0.15
