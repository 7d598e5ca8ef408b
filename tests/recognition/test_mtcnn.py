"""The MTCNN cascade against its reference implementation, and its reader against damaged files."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from PIL import Image

from recognition import geometry
from recognition.detectors import mtcnn
from recognition.errors import BadWeights
from recognition.formats import mtcnn_layout, mtcnn_lz4
from recognition.spec import Resources
from recognition.types import Detection, Detector, Rgb

CANONICAL = Path(__file__).parent / "canonical" / "mtcnn.json"
IMAGES = json.loads(CANONICAL.read_text())["images"]


def rgb(data: bytes) -> Rgb:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rows(faces: tuple[Detection, ...]) -> geometry.Boxes:
    found = [(f.box.x, f.box.y, f.box.w, f.box.h) for f in faces]
    return np.array(found, np.float32).reshape(-1, 4)


@pytest.fixture(scope="module")
def detector(resources: Resources) -> Detector:
    return mtcnn.SPECS[0].build(resources)


@pytest.fixture(scope="module")
def obama(portraits: dict[str, bytes]) -> Rgb:
    return rgb(portraits["obama.jpg"])


@pytest.fixture(scope="module")
def pnet(resources: Resources) -> bytes:
    """The smallest dump, decompressed."""
    path = resources.weights.path(mtcnn.SPECS[0].weights[0])
    return lz4.frame.decompress(path.read_bytes())


@pytest.mark.parametrize("name", IMAGES)
def test_finds_what_the_reference_implementation_finds(
    name: str, portraits: dict[str, bytes], detector: Detector
):
    image = rgb(portraits[name])
    found = detector.detect([image])[0]
    expected = IMAGES[name]["faces"]
    stretch = np.array(image.shape[1::-1]) / IMAGES[name]["size"]
    assert len(found) == len(expected)
    for face, reference in zip(found, expected, strict=True):
        box = np.array([reference["box"]], np.float32) * np.tile(stretch, 2)
        assert geometry.overlap(rows((face,)), box)[0, 0] > 0.95
        assert face.landmarks is not None
        assert (face.landmarks.shape, face.landmarks.dtype) == ((5, 2), np.float32)
        assert face.landmarks / stretch == pytest.approx(np.array(reference["points"]), abs=1)
        assert face.score == pytest.approx(reference["score"], abs=0.005)


def test_left_and_right_are_the_persons_own(detector: Detector, obama: Rgb):
    (face,) = detector.detect([obama])[0]
    (mirrored,) = detector.detect([obama[:, ::-1].copy()])[0]
    points, others = face.landmarks, mirrored.landmarks
    assert points is not None
    assert others is not None
    assert points[0, 0] < points[2, 0] < points[1, 0]
    assert points[3, 0] < points[2, 0] < points[4, 0]
    assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()
    assert others[0, 0] == pytest.approx(obama.shape[1] - points[1, 0], abs=0.05 * face.box.w)
    assert others[0, 1] == pytest.approx(points[1, 1], abs=0.05 * face.box.w)


def test_a_batch_of_different_sizes_gives_what_single_images_give(
    detector: Detector, portraits: dict[str, bytes]
):
    images = [rgb(data)[::3, ::3].copy() for data in portraits.values()]
    together = detector.detect(images)
    assert [len(faces) for faces in together] == [1, 1, 1, 1]
    for image, faces in zip(images, together, strict=True):
        assert (rows(faces) == rows(detector.detect([image])[0])).all()
    assert detector.detect([]) == []


def test_threads_do_not_disturb_each_other(detector: Detector, portraits: dict[str, bytes]):
    images = [rgb(data)[::3, ::3].copy() for data in portraits.values()] * 4
    alone = [rows(faces) for faces in detector.detect(images)]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda image: rows(detector.detect([image])[0]), images))
    for a, b in zip(alone, shared, strict=True):
        assert b == pytest.approx(a, abs=1e-3)


@pytest.mark.parametrize(
    "shape", [(1, 1), (11, 11), (12, 12), (20, 20), (24, 18), (1, 4000), (4000, 21), (300, 5)]
)
def test_tiny_and_thin_images_have_no_faces(detector: Detector, shape: tuple[int, int]):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert detector.detect([image, np.full_like(image, 255)]) == [(), ()]


def test_a_huge_picture_is_searched_at_the_working_size(detector: Detector, obama: Rgb):
    (face,) = detector.detect([obama])[0]
    tall = np.full((obama.shape[0] * 4, obama.shape[1] * 4, 3), 90, np.uint8)
    tall[: obama.shape[0] * 3, : obama.shape[1] * 3] = obama.repeat(3, 0).repeat(3, 1)
    (found,) = detector.detect([tall])[0]
    assert geometry.overlap(rows((found,)), rows((face,)) * 3)[0, 0] > 0.85


def test_boxes_stay_inside_the_image_and_scores_inside_their_range(detector: Detector, obama: Rgb):
    (face,) = detector.detect([obama])[0]
    x, y, w, h = (round(v) for v in rows((face,))[0])
    (cut,) = detector.detect([obama[:, x + w // 8 :].copy()])[0]
    assert cut.box.x == 0
    assert cut.box.x + cut.box.w == pytest.approx(w - w // 8, abs=w / 8)
    assert cut.box.y == pytest.approx(y, abs=h / 8)
    assert 0.8 < cut.score <= 1


def test_work_is_bounded_on_a_wall_of_faces(detector: Detector, obama: Rgb):
    (face,) = detector.detect([obama])[0]
    x, y, w, h = (round(v) for v in rows((face,))[0])
    tile = geometry.resize(obama[y - h // 4 : y + h + h // 4, x - w // 4 : x + w + w // 4], 30, 40)
    (faces,) = detector.detect([np.tile(tile, (19, 34, 1))])
    assert 100 < len(faces) <= mtcnn.Cascade().most_refined
    scores = [f.score for f in faces]
    assert scores == sorted(scores, reverse=True)


def test_a_dropped_box_still_drops_others():
    chain = np.array([(0, 0, 10, 10), (4, 0, 10, 10), (8, 0, 10, 10), (6, 6, 3, 3)], np.float32)
    scores = np.array([0.7, 0.8, 0.9, 0.6], np.float32)
    order = mtcnn.ranking(scores, later_first=False)
    assert mtcnn.unsuppressed(chain, order, 0.3).tolist() == [2, 3]
    assert mtcnn.unsuppressed(chain, order, 0.7, over="smaller").tolist() == [2, 1, 0]
    assert mtcnn.unsuppressed(chain, order, 0.5, over="smaller").tolist() == [2]


def test_of_equal_scores_the_package_takes_the_later_one():
    scores = np.array([0.5, 1.0, 1.0], np.float32)
    assert mtcnn.ranking(scores, later_first=False).tolist() == [1, 2, 0]
    assert mtcnn.ranking(scores, later_first=True).tolist() == [2, 1, 0]


def test_exact_crops_are_the_usual_ones_but_for_their_weights_and_the_edge():
    noise = np.random.default_rng(5).integers(0, 255, (90, 120, 3)).astype(np.float32)
    boxes = np.array([(10.3, 20.8, 50.1, 33.7), (60, 40, 23, 29)], np.float32)
    exact, usual = mtcnn.exact_crops(noise, boxes, 24), mtcnn.crops(noise, boxes, 24)
    assert exact.shape == usual.shape == (2, 24, 24, 3)
    assert 0 < np.abs(exact - usual).max() < 255 / 16
    (beyond,) = mtcnn.exact_crops(noise, np.array([(-20, 10, 40, 40)], np.float32), 24)
    assert (beyond[:, :12] == 127.5).all()
    assert (beyond[:, 13:] != 127.5).any()


def test_crops_reach_the_edges_of_their_boxes_and_are_grey_outside_the_image():
    ramp = np.tile(np.arange(100, dtype=np.float32)[None, :, None], (100, 1, 3))
    boxes = np.array([(10, 20, 47, 47), (-60, 40, 47, 47)], np.float32)
    inside, outside = mtcnn.crops(ramp, boxes, 48)
    assert inside[:, 0] == pytest.approx(9.9, abs=0.05)
    assert inside[:, -1] == pytest.approx(57 * 0.99, abs=0.05)
    assert (outside == 127.5).all()


@pytest.mark.parametrize(
    ("file", "faces"),
    [
        ("group_8faces.jpg", 8),
        ("group_3.jpg", 4),
        ("group_solvay1927_grey.jpg", 29),
        ("noface_dogs.jpg", 0),
        ("noface_background.jpg", 0),
        ("noface_compreface_017_0.jpg", 0),
    ],
)
def test_groups_and_pictures_without_people(
    file: str, faces: int, detector: Detector, shared_data: Path
):
    assert len(detector.detect([rgb((shared_data / "edge" / file).read_bytes())])[0]) == faces


def test_the_dump_is_read_as_joblib_writes_it(pnet: bytes):
    arrays = mtcnn_lz4.read_arrays(lz4.frame.compress(pnet))
    shapes = [(3, 3, 3, 10), (10,), (1, 1, 10), (3, 3, 10, 16), (16,), (1, 1, 16)]
    shapes += [(3, 3, 16, 32), (32,), (1, 1, 32), (1, 1, 32, 4), (4,), (1, 1, 32, 2), (2,)]
    assert [a.shape for a in arrays] == shapes
    slopes = [-0.6254063, -0.2116809, 1.0116835, 0.4411206, -1.0347496]
    assert arrays[2].ravel()[:5] == pytest.approx(slopes)


def test_every_cut_is_noticed(pnet: bytes):
    whole = lz4.frame.compress(pnet)
    for length in (0, 3, 20, len(whole) // 2, len(whole) - 1):
        with pytest.raises(BadWeights):
            mtcnn_lz4.read_arrays(whole[:length])
    for length in (0, 1, 100, 231, 1319, len(pnet) // 2, len(pnet) - 1):
        with pytest.raises(BadWeights):
            mtcnn_lz4.read_arrays(lz4.frame.compress(pnet[:length]))
    with pytest.raises(BadWeights):
        mtcnn_lz4.read_arrays(lz4.frame.compress(pnet + b"."))
    with pytest.raises(BadWeights):
        mtcnn_lz4.read_arrays(whole + b"x")


def test_no_damaged_byte_gets_past_the_error_type(pnet: bytes):
    """Structure is at the start and between arrays; each byte there takes several wrong values."""
    random = np.random.default_rng(0)
    refused = 0
    for at in [*range(240), *range(1320, 1380), *range(len(pnet) - 60, len(pnet))]:
        for value in random.integers(0, 256, 4):
            damaged = pnet[:at] + bytes([value]) + pnet[at + 1 :]
            try:
                mtcnn_lz4.convert(lz4.frame.compress(damaged), mtcnn_layout.PNET)
            except BadWeights:
                refused += 1
    assert refused > 900


@pytest.mark.parametrize(
    "body",
    [
        b"\x8c\x08builtins\x8c\x05print\x93\x8c\x03run\x85R.",
        b"cbuiltins\nprint\n\x8c\x03run\x85R.",
        b"](\x8c\x05numpy\x8c\x05dtype\x93\x8c\x01O\x88\x89\x87Re.",
        b"}.",
        b"].",
        b"](K\x01K\x02e.",
        b"](G\x3f\xf8\0\0\0\0\0\0e.",
        b"\x8c\x04text.",
        b"h\x00.",
        b"t.",
        b"b.",
        b"]" * 20_000 + b".",
    ],
)
def test_other_pickles_are_refused_and_nothing_of_them_is_run(
    body: bytes, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(BadWeights):
        mtcnn_lz4.read_arrays(lz4.frame.compress(b"\x80\x04" + body))
    assert capsys.readouterr().out == ""


def test_a_decompression_bomb_is_stopped():
    with pytest.raises(BadWeights, match="too large"):
        mtcnn_lz4.read_arrays(lz4.frame.compress(bytes(mtcnn_lz4.LARGEST_DUMP * 8)))


def test_weights_of_another_network_are_refused(pnet: bytes):
    for other in (mtcnn_layout.RNET, mtcnn_layout.ONET):
        with pytest.raises(BadWeights):
            mtcnn_lz4.convert(lz4.frame.compress(pnet), other)
