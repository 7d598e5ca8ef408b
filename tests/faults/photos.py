"""Photographs of the sample people, each a little different, so that no two embeddings are the same."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping

from PIL import Image, ImageEnhance

LONGEST = 360


class Photos:
    """Used by many threads: what is random comes from the caller."""

    def __init__(self, portraits: Mapping[str, bytes]) -> None:
        self._plain = [_smaller(data) for _, data in sorted(portraits.items())]

    def take(self, chance: random.Random) -> bytes:
        image = chance.choice(self._plain)
        left, top = chance.uniform(0, 0.04), chance.uniform(0, 0.04)
        box = (left * image.width, top * image.height, 0.97 * image.width, 0.97 * image.height)
        cut = image.crop(tuple(round(edge) for edge in box))
        bright = ImageEnhance.Brightness(cut).enhance(chance.uniform(0.85, 1.15))
        out = io.BytesIO()
        bright.save(out, "JPEG", quality=chance.randint(80, 95))
        return out.getvalue() + chance.randbytes(8)  # behind the image's end


def _smaller(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((LONGEST, LONGEST))
    return image
