"""Images decoded by other processes: the same pixels, and no file takes more with it than such a process."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recognition.decoding import DecoderPool
from recognition.errors import ImageTooLarge, UndecodableImage
from recognition.images import ImageLimits, decode, read
from tests.recognition.test_images import encoded

LIMITS = ImageLimits()


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(1, LIMITS.max_pixels)
    made.warm()
    yield made
    made.close()


@pytest.fixture(scope="module")
def slow() -> bytes:
    """An image that takes a second or so to decode."""
    noise = np.random.default_rng(1).integers(0, 256, (500, 500, 3), np.uint8)
    return encoded(Image.fromarray(np.tile(noise, (13, 13, 1))), "PNG", compress_level=1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG", "GIF"])
def test_the_same_pixels(pool: DecoderPool, portraits: dict[str, bytes], kind: str) -> None:
    with Image.open(io.BytesIO(portraits["obama.jpg"])) as image:
        data = encoded(image.convert("RGB"), kind)
    assert np.array_equal(pool.read(data, LIMITS).pixels, decode(data, LIMITS))
    assert pool.ended == 0


def test_the_same_fraction(pool: DecoderPool, portraits: dict[str, bytes]) -> None:
    data = portraits["obama.jpg"]
    for enough in (None, 400, 100):
        there, here = pool.read(data, LIMITS, enough), read(data, LIMITS, enough)
        assert np.array_equal(there.pixels, here.pixels)
        assert (there.width, there.height) == (here.width, here.height)
    assert here.pixels.shape[0] < here.height
    assert pool.ended == 0


def test_the_same_reasons(pool: DecoderPool, portraits: dict[str, bytes]) -> None:
    whole = portraits["obama.jpg"]
    for data in (b"", b"no image", whole[: len(whole) // 2]):
        with pytest.raises(UndecodableImage) as here:
            decode(data, LIMITS)
        with pytest.raises(UndecodableImage) as there:
            pool.read(data, LIMITS)
        assert str(there.value) == str(here.value)
    for limits in (ImageLimits(max_bytes=100), ImageLimits(max_pixels=100)):
        with pytest.raises(ImageTooLarge) as large:
            pool.read(whole, limits)
        assert "at most 100 are taken" in str(large.value)
    assert pool.ended == 0


def test_the_files_to_hand(pool: DecoderPool, shared_data: Path) -> None:
    for file in sorted((shared_data / "edge").iterdir()):
        data, told = file.read_bytes(), []
        for way in (read, pool.read):
            try:
                told.append(way(data, LIMITS).pixels.tobytes())
            except (UndecodableImage, ImageTooLarge) as error:
                told.append(str(error).encode())
        assert told[0] == told[1], file.name
    assert pool.ended == 0


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_file_that_ends_the_process(slow: bytes, signum: int) -> None:
    pool = DecoderPool(1, LIMITS.max_pixels)
    small = encoded(Image.new("RGB", (9, 9), "red"), "PNG")
    pool.read(small, LIMITS)
    (pid,) = pool.pids
    blow = threading.Timer(0.1, os.kill, (pid, signum))
    blow.start()
    with pytest.raises(UndecodableImage, match="ended the process"):
        pool.read(slow, LIMITS)
    assert (pool.read(small, LIMITS).pixels == [255, 0, 0]).all()
    assert pool.ended == 1
    assert pool.pids != [pid]
    pool.close()


def test_a_process_that_died_unasked_harms_nobody(slow: bytes) -> None:
    pool = DecoderPool(1, LIMITS.max_pixels)
    pool.warm()
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert pool.read(slow, LIMITS).pixels.shape == (6500, 6500, 3)
    assert pool.ended == 0
    pool.close()


def test_a_file_that_takes_too_long(slow: bytes) -> None:
    pool = DecoderPool(1, LIMITS.max_pixels, timeout_s=0.05)
    pool.warm()
    time.sleep(1)
    with pytest.raises(UndecodableImage, match=r"within 0\.05 s"):
        pool.read(slow, LIMITS)
    assert pool.ended == 1
    pool.close()


def test_what_a_process_is_left_with(pool: DecoderPool) -> None:
    pool.read(encoded(Image.new("RGB", (9, 9)), "PNG"), LIMITS)
    (pid,) = pool.pids
    here = Path(f"/proc/{pid}")
    limits = {
        line[:25].strip(): line[25:].split() for line in (here / "limits").read_text().splitlines()
    }
    assert limits["Max open files"][0] == "3"
    assert limits["Max file size"][0] == "0"
    assert limits["Max core file size"][0] == "0"
    assert limits["Max address space"][0] != "unlimited"
    status = dict(line.split(":\t") for line in (here / "status").read_text().splitlines())
    if os.geteuid() == 0:
        assert "0" not in status["Uid"].split()
        assert status["Groups"].strip() == ""
    held = {link.readlink().name.split(":")[0] for link in (here / "fd").iterdir()}
    assert held in ({"socket", "null", "memfd"}, {"socket", "null", "pixels (deleted)"})
    assert b"FACESEARCH" not in (here / "environ").read_bytes()
