"""Every kind of input file, made here from a real photograph."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from recognition.errors import ImageTooLarge, UndecodableImage
from recognition.images import ImageLimits, decode, read
from recognition.types import Rgb

LIMITS = ImageLimits()


@pytest.fixture(scope="module")
def photo(portraits: dict[str, bytes]) -> Image.Image:
    image = Image.open(io.BytesIO(portraits["obama.jpg"])).convert("RGB")
    image.thumbnail((300, 300))
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def difference(a: Rgb, b: Image.Image) -> float:
    return float(np.abs(a.astype(int) - np.asarray(b.convert("RGB")).astype(int)).mean())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG", "GIF"])
def test_formats(photo: Image.Image, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encoded(photo, kind, **options), LIMITS)
    assert decoded.shape == (*photo.size[::-1], 3)
    assert decoded.dtype == np.uint8
    assert difference(decoded, photo) < (12 if kind in ("JPEG", "GIF") else 0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo: Image.Image, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo if orientation == 1 else photo.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, "JPEG", quality=95, exif=exif), LIMITS)
    assert decoded.shape[:2] == photo.size[::-1]
    assert difference(decoded, photo) < 6


def test_modes_become_rgb(photo: Image.Image) -> None:
    grey = photo.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    cases = {
        "grey": (encoded(grey, "PNG"), grey, 0.01),
        "16 bit": (encoded(wide, "PNG"), grey, 0.6),
        "cmyk": (encoded(photo.convert("CMYK"), "JPEG", quality=95), photo, 12),
        "palette": (encoded(photo.convert("P"), "PNG"), photo.convert("P"), 0.01),
        "one bit": (encoded(photo.convert("1"), "PNG"), photo.convert("1"), 0.01),
        "grey and alpha": (encoded(photo.convert("LA"), "PNG"), grey, 0.01),
    }
    for name, (data, expected, tolerance) in cases.items():
        assert difference(decode(data, LIMITS), expected) <= tolerance, name


def test_transparency_lies_on_white(photo: Image.Image) -> None:
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    assert decode(encoded(clear, "PNG"), LIMITS).min() == 255


def test_the_first_frame_of_an_animation_counts(photo: Image.Image) -> None:
    black = Image.new("RGB", photo.size)
    data = encoded(photo, "GIF", save_all=True, append_images=[black])
    assert difference(decode(data, LIMITS), photo) < 12


def test_the_name_of_a_format_does_not_matter_but_its_content_does(photo: Image.Image) -> None:
    for data in (b"", b"hello, I am text", encoded(photo, "PPM"), b"%PDF-1.4 ..."):
        with pytest.raises(UndecodableImage):
            decode(data, LIMITS)


def test_damage_is_refused(photo: Image.Image) -> None:
    jpeg, png = encoded(photo, "JPEG", quality=95), encoded(photo, "PNG")
    noise = np.random.default_rng(1).bytes(3000)
    for data in (
        jpeg[: len(jpeg) // 2],
        png[: len(png) // 2],
        png[:2000] + noise + png[5000:],
        jpeg[:100] + noise + jpeg[3100:],
        jpeg[:20],
    ):
        with pytest.raises(UndecodableImage):
            decode(data, LIMITS)


def bomb(width: int, height: int) -> bytes:
    """A PNG of one bit per pixel: huge, and small when compressed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_000, 12_000, 20_000])
def test_a_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    data = bomb(side, side)
    tracemalloc.start()
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(data, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_too_many_bytes_are_refused(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode(data, ImageLimits(max_bytes=len(data) - 1))
    assert decode(data, ImageLimits(max_bytes=len(data))).shape[2] == 3


@pytest.mark.parametrize(
    ("enough", "fraction"), [(None, 1), (300, 1), (151, 1), (150, 2), (76, 2), (75, 4), (1, 8)]
)
def test_a_jpeg_is_decoded_at_a_fraction_that_leaves_enough(
    photo: Image.Image, enough: int | None, fraction: int
) -> None:
    image = photo.resize((300, 240))
    picture = read(encoded(image, "JPEG", quality=95), LIMITS, enough)
    assert (picture.width, picture.height) == (300, 240)
    assert picture.pixels.shape == (-(-240 // fraction), -(-300 // fraction), 3)
    small = image.resize(picture.pixels.shape[1::-1], Image.Resampling.BOX)
    assert difference(picture.pixels, small) < 8
    assert picture.factors == pytest.approx((fraction, fraction), rel=0.02)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_fraction_is_the_right_way_up(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo.resize((300, 240)), "JPEG", exif=exif)
    whole, half = read(data, LIMITS), read(data, LIMITS, 150)
    assert (half.width, half.height) == (whole.pixels.shape[1], whole.pixels.shape[0])
    assert half.pixels.shape == (half.height // 2, half.width // 2, 3)
    small = Image.fromarray(whole.pixels).resize(half.pixels.shape[1::-1], Image.Resampling.BOX)
    assert difference(half.pixels, small) < 6


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_come_whole(photo: Image.Image, kind: str) -> None:
    data = encoded(photo, kind)
    assert np.array_equal(read(data, LIMITS, 10).pixels, decode(data, LIMITS))


def test_the_limit_is_for_the_pixels_of_the_file(photo: Image.Image) -> None:
    data = encoded(photo.resize((300, 240)), "JPEG")
    with pytest.raises(ImageTooLarge, match="300 x 240"):
        read(data, ImageLimits(max_pixels=300 * 240 - 1), 10)
