"""Anti-spoofing: the networks against plain arithmetic and against DeepFace, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from recognition import antispoofing
from recognition.antispoofing import Fasnet
from recognition.errors import BadWeights, CannotJudge, SpoofDetected, WeightsMissing
from recognition.formats import minifasnet
from recognition.formats.minifasnet import Layout
from recognition.pipeline import Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Box, Detection, Rgb
from recognition.weights import WeightsCache
from tests.torch_files import saved

CANONICAL = json.loads((Path(__file__).parent / "canonical" / "antispoofing.json").read_text())
LAYOUTS = [minifasnet.V2, minifasnet.V1SE]
Array = NDArray[np.float32]
Store = dict[str, NDArray[np.generic]]


def rgb(data: bytes) -> Rgb:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class Plain:
    """The network layer by layer, nothing folded; every array is made up when it is first asked for."""

    def __init__(self, layout: Layout) -> None:
        self.random = np.random.default_rng(5)
        self.arrays: Store = {}
        self.layout = layout

    def get(self, name: str, shape: tuple[int, ...], low: float, high: float) -> Array:
        made = self.random.uniform(low, high, shape).astype(np.float32)
        return self.arrays.setdefault(f"module.{name}", made)  # type: ignore[return-value]

    def norm(self, x: Array, name: str) -> Array:
        shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
        scale, shift, mean, var = (
            self.get(f"{name}.{part}", x.shape[1:2], low, high).reshape(shape)
            for part, low, high in (
                ("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 2),
            )
        )  # fmt: skip
        self.arrays[f"module.{name}.num_batches_tracked"] = np.array(9, np.int64)
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    def conv(self, x: Array, name: str, shape: tuple[int, ...], stride: int, pad: int) -> Array:
        _, inside, side, _ = shape
        bound = (3 / (inside * side * side)) ** 0.5
        kernel = self.get(f"{name}.weight", shape, -bound, bound)
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        view = np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))
        view = view[:, :, ::stride, ::stride]
        if inside == 1:
            return np.einsum("nchwij,cij->nchw", view, kernel[:, 0], optimize=True)
        return np.einsum("nchwij,ocij->nohw", view, kernel, optimize=True)

    def unit(self, x: Array, name: str, out: int, side: int, *, deep: bool = False, stride: int = 1,
             pad: int | None = None, active: bool = True) -> Array:  # fmt: skip
        shape = (out, 1 if deep else x.shape[1], side, side)
        pad = side // 2 if pad is None else pad
        x = self.norm(self.conv(x, f"{name}.conv", shape, stride, pad), f"{name}.bn")
        if not active:
            return x
        slope = self.get(f"{name}.prelu.weight", (out,), 0.1, 0.4).reshape(1, -1, 1, 1)
        return np.where(x > 0, x, x * slope)

    def block(self, x: Array, name: str, width: int, out: int, stride: int = 1) -> Array:
        x = self.unit(x, f"{name}.conv", width, 1)
        x = self.unit(x, f"{name}.conv_dw", width, 3, deep=True, stride=stride)
        return self.unit(x, f"{name}.project", out, 1, active=False)

    def excite(self, x: Array, name: str) -> Array:
        few = x.shape[1] // 4
        y = x.mean((2, 3), keepdims=True)
        y = self.norm(self.conv(y, f"{name}.fc1", (few, x.shape[1], 1, 1), 1, 0), f"{name}.bn1")
        y = np.maximum(y, 0)
        y = self.norm(self.conv(y, f"{name}.fc2", (x.shape[1], few, 1, 1), 1, 0), f"{name}.bn2")
        return x / (1 + np.exp(-y))

    def __call__(self, faces: Array) -> Array:
        x = self.unit(faces, "conv1", 32, 3, stride=2)
        x = self.unit(x, "conv2_dw", 32, 3, deep=True)
        names = (("conv_23", "conv_3"), ("conv_34", "conv_4"), ("conv_45", "conv_5"))
        for stage, (entry, group) in zip(self.layout.stages, names, strict=True):
            x = self.block(x, entry, stage.entry, stage.out, 2)
            for index, width in enumerate(stage.inner):
                y = self.block(x, f"{group}.model.{index}", width, stage.out)
                if self.layout is minifasnet.V1SE and index == len(stage.inner) - 1:
                    y = self.excite(y, f"{group}.model.{index}.se_module")
                x = x + y
        x = self.unit(x, "conv_6_sep", 512, 1)
        x = self.unit(x, "conv_6_dw", 512, 5, deep=True, pad=0, active=False).reshape(-1, 512)
        x = self.norm(x @ self.get("linear.weight", (128, 512), -0.08, 0.08).T, "bn")
        x = np.exp(x @ self.get("prob.weight", (3, 128), -0.1, 0.1).T)
        return x / x.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout.name)
def network(request: pytest.FixtureRequest) -> tuple[Layout, Store, Array, Array]:
    """A layout with random arrays, an input, and what plain arithmetic makes of it."""
    plain = Plain(request.param)
    faces = np.random.default_rng(6).uniform(0, 255, (2, 3, 80, 80)).astype(np.float32)
    expected = plain(faces / 255)
    return request.param, plain.arrays, faces / 255, expected


def test_the_graph_computes_what_the_layers_do(
    network: tuple[Layout, Store, Array, Array], tmp_path: Path
) -> None:
    layout, arrays, faces, expected = network
    path = tmp_path / "net.onnx"
    path.write_bytes(minifasnet.convert(saved(arrays), layout))
    (found,) = Runtime(threads=1).session(path, ["probabilities"])(faces)
    assert np.ptp(expected) > 0.05, "the test would not tell networks apart"
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    np.testing.assert_allclose(found, expected, atol=2e-5)


def without(name: str) -> Callable[[Store], object]:
    return lambda arrays: arrays.pop(name)


def with_(name: str, array: NDArray[np.generic]) -> Callable[[Store], object]:
    return lambda arrays: arrays.update({name: array})


@pytest.mark.parametrize(
    "change",
    [
        without("module.conv1.conv.weight"),
        without("module.conv_4.model.3.conv_dw.prelu.weight"),
        with_("module.more", np.zeros(3, np.float32)),
        with_("module.conv_34.conv.conv.weight", np.zeros((230, 64, 1, 1), np.float32)),
        with_("module.bn.bias", np.zeros(128, np.float16)),
        with_("module.bn.bias", np.full(128, np.nan, np.float32)),
        with_("module.linear.weight", np.full((128, 512), 3e38, np.float32)),
        with_("module.bn.running_var", np.full(128, -1, np.float32)),
    ],
)
def test_files_of_other_networks_are_refused(
    change: Callable[[Store], object], network: tuple[Layout, Store, Array, Array]
) -> None:
    layout, arrays, _, _ = network
    changed = dict(arrays)
    change(changed)
    with pytest.raises(BadWeights):
        minifasnet.convert(saved(changed), layout)


def test_a_file_is_not_taken_for_the_other_network(
    network: tuple[Layout, Store, Array, Array],
) -> None:
    layout, arrays, _, _ = network
    (other,) = (known for known in LAYOUTS if known is not layout)
    with pytest.raises(BadWeights):
        minifasnet.convert(saved(arrays), other)


@pytest.mark.parametrize(
    ("box", "scale", "rows", "columns"),
    [
        (Box(80, 60, 20, 20), 2.7, (43, 98), (63, 118)),  # inside: 54 pixels, and one
        (Box(0, 0, 20, 20), 2.7, (0, 55), (0, 55)),  # moved in from the corner
        (Box(180, 130, 20, 20), 2.7, (95, 150), (145, 200)),  # from the other one
        (Box(50, 20, 100, 100), 4.0, (0, 150), (25, 175)),  # 1.49 times: no more fits
        (Box(0, 0, 200, 150), 4.0, (0, 150), (0, 200)),
    ],
)
def test_crops_show_the_surroundings(
    box: Box, scale: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = np.zeros((150, 200, 3), np.uint8)
    found = antispoofing.surrounding(box, image, scale)
    assert found == (slice(*rows), slice(*columns))


def test_each_network_has_its_own_crop() -> None:
    image = np.full((800, 900, 3), 255, np.uint8)
    image[350:450, 400:500] = 0
    near, far = Fasnet([]).crop(image, Detection(Box(400, 350, 100, 100), 1.0))
    assert (near < 128).mean() == pytest.approx(1 / 2.7**2, abs=0.01)
    assert (far < 128).mean() == pytest.approx(1 / 4**2, abs=0.01)


def test_networks_see_blue_first_and_unscaled() -> None:
    crop = np.zeros((2, 80, 80, 3), np.uint8)
    crop[1] = (255, 100, 7)
    faces = antispoofing.tensor([crop])
    assert faces.shape == (1, 2, 3, 80, 80)
    assert faces.dtype == np.float32
    assert faces[0, 1, :, 40, 40].tolist() == [7, 100, 255]


@pytest.mark.parametrize(
    "box", [Box(0, 0, 40, 30), Box(-20, 10, 60, 60), Box(5, 5, 0, 0), Box(300, 300, 9, 9)]
)
@pytest.mark.parametrize("shape", [(30, 40, 3), (1, 1, 3), (1, 90, 3)])
def test_any_box_gives_a_crop(box: Box, shape: tuple[int, int, int]) -> None:
    crop = Fasnet([]).crop(np.full(shape, 90, np.uint8), Detection(box, 1.0))
    assert crop.shape == (2, 80, 80, 3)
    assert (crop == 90).all()


def test_no_faces_no_answers() -> None:
    assert Fasnet([]).judge([]) == []


def test_missing_weights_say_what_to_put_where(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path / "weights", download=False)
    with pytest.raises(WeightsMissing) as caught:
        antispoofing.SPECS[0].build(Resources(cache, Runtime(threads=1)))
    wanted = antispoofing.V2_WEIGHTS
    for part in (wanted.name, wanted.urls[0], wanted.sha256, str(tmp_path / "weights")):
        assert str(part) in str(caught.value)


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    for weights in antispoofing.WEIGHTS:
        (tmp_path / weights.name).write_bytes(b"something else")
    with pytest.raises(BadWeights, match=antispoofing.V2_WEIGHTS.sha256):
        antispoofing.SPECS[0].build(Resources(WeightsCache(tmp_path), Runtime(threads=1)))


@pytest.fixture(scope="module")
def recognizer(spoof_home: Path) -> Recognizer:
    cache = WeightsCache(spoof_home / "weights")
    return Recognizer(Resources(weights=cache, runtime=Runtime(threads=2)))


@pytest.fixture(scope="module")
def method(recognizer: Recognizer) -> Fasnet:
    found = recognizer.anti_spoofing()
    assert isinstance(found, Fasnet)
    return found


def test_the_networks_give_the_numbers_of_deepface(method: Fasnet) -> None:
    k, c, y, x = np.indices((3, 3, 80, 80))
    values = 127.5 + 127.5 * np.sin(0.13 * x * (1 + c) + 0.21 * y + k)
    waves = values.round().astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
    found = method.probabilities([np.stack([wave, wave]) for wave in waves])
    np.testing.assert_allclose(found, CANONICAL["waves"], atol=1e-5)


def test_verdicts_and_scores_are_those_of_deepface(
    method: Fasnet, portraits: dict[str, bytes]
) -> None:
    for told in CANONICAL["faces"]:
        face = Detection(Box(*told["box"]), 1.0)
        (found,) = method.judge([method.crop(rgb(portraits[told["photograph"]]), face)])
        assert found.is_real is told["is_real"]
        assert found.score == pytest.approx(told["score"], abs=1e-3)


def test_the_batch_does_not_matter(method: Fasnet, portraits: dict[str, bytes]) -> None:
    crops = [
        method.crop(rgb(portraits[told["photograph"]]), Detection(Box(*told["box"]), 1.0))
        for told in CANONICAL["faces"]
    ]
    together = [found.score for found in method.judge(crops * 9)]
    alone = [method.judge([crop])[0].score for crop in crops]
    np.testing.assert_allclose(together, alone * 9, atol=1e-5)


def test_faces_of_several_images_are_judged_together(
    recognizer: Recognizer, portraits: dict[str, bytes], cut_outs: dict[str, bytes]
) -> None:
    white = np.full((90, 120, 3), 255, np.uint8)
    images = [rgb(portraits["obama.jpg"]), white, rgb(cut_outs["obama.jpg"])]
    faces = recognizer.detect(images, "mediapipe", Selection())
    live, nobody, cut = recognizer.judge(images, faces, "mediapipe")
    assert [found.is_real for found in live] == [True]
    assert nobody == ()
    assert [found.is_real for found in cut] == [False]
    assert cut[0].score > 0.9, "the score is the verdict's, also of a spoof"


def test_spoofs_are_refused_by_name(recognizer: Recognizer, cut_outs: dict[str, bytes]) -> None:
    image = rgb(cut_outs["biden.jpg"])
    (faces,) = recognizer.detect([image], "mediapipe", Selection())
    with pytest.raises(SpoofDetected, match=r"biden\.jpg"):
        recognizer.refuse_spoofs(image, faces, "mediapipe", "biden.jpg")


def test_whole_images_are_not_judged(recognizer: Recognizer, portraits: dict[str, bytes]) -> None:
    image = rgb(portraits["obama.jpg"])
    (faces,) = recognizer.detect([image], "skip", Selection())
    with pytest.raises(CannotJudge, match="skip"):
        recognizer.judge([image], [faces], "skip")
