"""Boxes, suppression and canvases, on numbers worked out by hand and on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition import geometry
from recognition.types import Box


def boxes(*rows: tuple[float, float, float, float]) -> geometry.Boxes:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def random_boxes(seed: int, count: int) -> tuple[geometry.Boxes, geometry.Floats]:
    random = np.random.default_rng(seed)
    found = random.uniform(0, 60, (count, 4)).astype(np.float32)
    return found, random.permutation(count).astype(np.float32)


def test_overlap_is_the_shared_part_of_the_union_or_of_the_smaller_box():
    a, b = boxes((0, 0, 10, 10)), boxes((5, 0, 10, 10), (2, 2, 4, 4), (20, 20, 5, 5), (3, 3, 0, 0))
    assert geometry.overlap(a, b)[0] == pytest.approx([1 / 3, 0.16, 0, 0])
    assert geometry.overlap(a, b, over="smaller")[0] == pytest.approx([0.5, 1, 0, 0])


def test_nms_keeps_a_box_that_only_a_dropped_one_overlaps():
    row = boxes((0, 0, 10, 10), (4, 0, 10, 10), (8, 0, 10, 10))
    assert geometry.nms(row, np.array([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]
    assert geometry.nms(row, np.array([0.7, 0.9, 0.8]), 0.3).tolist() == [1]
    assert geometry.nms(row, np.array([0.7, 0.8, 0.9]), 0.5).tolist() == [2, 1, 0]


def test_nms_of_nothing_is_nothing():
    assert geometry.nms(boxes(), np.zeros(0, np.float32), 0.5).shape == (0,)


@given(seed=st.integers(0, 1000), count=st.integers(1, 40), iou=st.floats(0.05, 0.95))
def test_nms_leaves_no_overlap_explains_every_loss_and_ignores_the_order(
    seed: int, count: int, iou: float
):
    found, scores = random_boxes(seed, count)
    kept = geometry.nms(found, scores, iou)
    assert (np.diff(scores[kept]) < 0).all()
    among = geometry.overlap(found[kept], found[kept])
    np.fill_diagonal(among, 0)
    assert (among <= iou).all()
    for lost in set(range(count)) - set(kept.tolist()):
        better = kept[scores[kept] > scores[lost]]
        assert (geometry.overlap(found[lost : lost + 1], found[better]) > iou).any()
    order = np.random.default_rng(seed + 1).permutation(count)
    assert order[geometry.nms(found[order], scores[order], iou)].tolist() == kept.tolist()


def test_clip_cuts_at_the_edges():
    cut = geometry.clip(boxes((-5, -5, 10, 20), (2, 3, 4, 5), (50, 50, 9, 9)), 10, 12)
    assert cut.tolist() == [[0, 0, 5, 12], [2, 3, 4, 5], [10, 12, 0, 0]]


def test_square_keeps_the_centre():
    assert geometry.square(boxes((10, 10, 20, 40), (0, 0, 6, 2))).tolist() == [
        [0, 10, 40, 40],
        [0, -2, 6, 6],
    ]


def test_boxes_of_rows_and_images():
    assert geometry.to_box(boxes((1, 2, 3, 4))[0]) == Box(1, 2, 3, 4)
    assert geometry.whole(np.zeros((7, 9, 3), np.uint8)) == Box(0, 0, 9, 7)


@pytest.mark.parametrize("size", [(480, 384), (301, 500), (1000, 90), (2001, 1999)])
@pytest.mark.parametrize("factor", [0.9, 0.5, 0.27, 0.11])
def test_reduce_is_close_to_the_mean_of_areas(size: tuple[int, int], factor: float):
    noise = np.random.default_rng(3).normal(0, 20, size)
    y, x = np.indices(size)
    waves = 120 + 40 * np.sin(x / 40 + 1) + 40 * np.cos(y / 50)
    image = np.repeat(np.clip(waves + noise, 0, 255)[..., None], 3, axis=2).astype(np.uint8)
    target = round(size[1] * factor), round(size[0] * factor)
    reduced = geometry.reduce(image, *target)
    assert reduced.shape == (target[1], target[0], 3)
    assert reduced.dtype == np.uint8
    away = np.abs(reduced.astype(int) - geometry.resize(image, *target))
    assert away.mean() < 4
    thinned = image[:: round(1 / factor), :: round(1 / factor)][: target[1], : target[0]]
    if factor < 0.3:  # what taking every n-th pixel would have cost
        known = geometry.resize(image, thinned.shape[1], thinned.shape[0]).astype(int)
        assert away.mean() < 0.4 * np.abs(thinned - known).mean()


def test_reduce_enlarges_as_resize_does():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(geometry.reduce(image, 9, 8), geometry.resize(image, 9, 8))
    np.testing.assert_array_equal(geometry.reduce(image, 5, 4), image)


def test_shrink_bounds_the_longer_side_and_never_enlarges():
    small, scale = geometry.shrink(np.zeros((100, 400, 3), np.uint8), 200)
    assert (small.shape, scale) == ((50, 200, 3), 0.5)
    same, scale = geometry.shrink(np.zeros((100, 400, 3), np.uint8), 400)
    assert (same.shape, scale) == ((100, 400, 3), 1.0)
    thin, _ = geometry.shrink(np.zeros((1, 4000, 3), np.uint8), 100)
    assert thin.shape == (1, 100, 3)


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (64, 64), (20, 10), (500, 300)])
def test_letterbox_puts_a_point_where_it_says(height: int, width: int):
    image = np.zeros((height, width, 3), np.uint8)
    top, left, side = height // 4, width // 4, height // 2
    image[top : top + side, left : left + width // 2] = 255
    canvas, scale, offset = geometry.letterbox(image, 64, fill=9)
    assert canvas.shape == (64, 64, 3)
    ys, xs = np.nonzero(canvas[..., 0] > 127)
    found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    corners = np.array([left, top, left + width // 2, top + side])
    assert found == pytest.approx(corners * scale + np.array(offset * 2), abs=1)
    if height != width:
        assert canvas[0, 0].tolist() == [9, 9, 9] if width > height else canvas[0, 0, 0] == 9


def test_letterbox_takes_extreme_shapes():
    canvas, _, _ = geometry.letterbox(np.full((1, 5000, 3), 200, np.uint8), 128)
    assert canvas[63:65].max() == 200
    assert canvas[0].max() == 0
