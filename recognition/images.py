"""Bytes to pixels: named formats only, limits checked on the header, the right way up, always RGB."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from recognition.errors import ImageTooLarge, UndecodableImage
from recognition.types import Rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
HEIF_SUFFIXES = frozenset({".heic", ".heif"})
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image taken: bytes of the file, and pixels as the header states them."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A file's pixels, perhaps fewer than it has, and the size of the whole, the right way up."""

    pixels: Rgb
    width: int
    height: int

    @property
    def factors(self) -> tuple[float, float]:
        """What x and y among the pixels are to be multiplied with to be those of the file."""
        height, width = self.pixels.shape[:2]
        return self.width / width, self.height / height


def heif_available() -> bool:
    """Whether the optional HEIC plug-in is installed; it is registered with Pillow if so."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def suffixes() -> frozenset[str]:
    """File name endings, in lower case, of the images that a tree may hold."""
    return SUFFIXES | HEIF_SUFFIXES if heif_available() else SUFFIXES


def decode(data: bytes, limits: ImageLimits) -> Rgb:
    """All pixels of `read`."""
    return read(data, limits).pixels


def read(data: bytes, limits: ImageLimits, enough: int | None = None) -> Picture:
    """Pixels of the first frame, EXIF orientation applied, transparency laid on white.

    A JPEG whose longer side has at least 2, 4 or 8 times `enough` pixels is decoded at that fraction of its size, which
    takes as much less time. Raises ImageTooLarge before anything is decoded, UndecodableImage for all that is not a
    whole image.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken"
        )
    if not data:
        raise UndecodableImage("the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise ImageTooLarge(_too_large(width, height, limits))
            if enough is not None:
                image.draft(None, _reduced(width, height, enough))
            return _picture(image, width, height)
    except (ImageTooLarge, UndecodableImage):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(
            f"the image has too many pixels; at most {limits.max_pixels} are taken"
        ) from error
    except UnidentifiedImageError as error:
        raise UndecodableImage(
            f"not an image in one of the formats taken ({', '.join(FORMATS)})"
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise UndecodableImage(f"the image is damaged: {error}") from error


def _formats(data: bytes) -> tuple[str, ...]:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and heif_available():
        return (*FORMATS, "HEIF")
    return FORMATS


def _too_large(width: int, height: int, limits: ImageLimits) -> str:
    return f"the image has {width} x {height} pixels; at most {limits.max_pixels} are taken"


def _reduced(width: int, height: int, enough: int) -> tuple[int, int]:
    """The least size that is asked of a decoder."""
    share = min(1.0, enough / max(width, height))
    return max(1, int(width * share)), max(1, int(height * share))


def _picture(image: Image.Image, width: int, height: int) -> Picture:
    """The right way up; width and height are those of the file."""
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    upright = ImageOps.exif_transpose(image) if orientation in range(2, 9) else image
    pixels = np.ascontiguousarray(_rgb(upright))
    if orientation in range(5, 9):
        width, height = height, width
    return Picture(pixels, width, height)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        flat.alpha_composite(rgba)
        image = flat
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _eight_bits(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit and float greys to 0..255; floats up to 1 are taken as fractions."""
    values = np.nan_to_num(np.asarray(grey, dtype=np.float64))
    if np.issubdtype(grey.dtype, np.integer):
        top = 255.0 if values.max(initial=0) <= 255 else 65535.0
    else:
        top = 1.0 if values.max(initial=0) <= 1 else 255.0
    return np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)
