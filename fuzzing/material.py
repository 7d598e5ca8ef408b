"""What hostile input is made of: real photographs, what is left of them, and values at the edges."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from recognition.samples import SAMPLES
from recognition.weights import WeightsCache

SIDES = (64, 96, 120)
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
NAMES = (
    "Ada", "", " ", ".", "..", "a/b", "a\x00b", "é", "e\u0301", "名前", "\u202eabc", "x" * 255, "x" * 256,
    "x" * 5000, "%2e%2e%2f", "'; DROP TABLE face; --", "{}", "\U0001f600", "-1", "NaN", "null",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 1e308, -1e308, 1e-320, float("nan"), float("inf"), 0.5)


def photographs(weights: WeightsCache) -> tuple[bytes, ...]:
    """The sample people, small, in every format."""
    made: list[bytes] = []
    for path in weights.ensure([sample.weights for sample in SAMPLES]):
        with Image.open(path) as image:
            made += _sizes(image.convert("RGB"))
    return tuple(made)


def _sizes(image: Image.Image) -> list[bytes]:
    made = []
    for side, kind in zip(SIDES * 2, KINDS, strict=True):
        small = image.copy()
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, kind)
        made.append(out.getvalue())
    return made


def damaged(data: bytes, dice: random.Random) -> bytes:
    """The same with a few bytes changed, cut out, doubled, or its end gone."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        if not out:
            break
        at, length = dice.randrange(len(out)), dice.randint(1, 40)
        change = dice.randrange(5)
        if change == 0:
            out[at] = dice.randrange(256)
        elif change == 1:
            del out[at : at + length]
        elif change == 2:
            out[at:at] = out[at : at + length]
        elif change == 3:
            out[at : at + length] = dice.randbytes(min(length, len(out) - at))
        else:
            del out[at:]
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Material:
    photographs: Sequence[bytes]

    def image(self, dice: random.Random) -> bytes:
        """Mostly a photograph, whole or damaged."""
        data = dice.choice(self.photographs)
        share = dice.random()
        if share < 0.5:
            return data
        if share < 0.9:
            return damaged(data, dice)
        return dice.randbytes(dice.randint(0, 400))

    def text(self, dice: random.Random) -> str:
        """An image as JSON and forms carry it: base64, a data URI, and what is like them."""
        coded = base64.b64encode(self.image(dice)).decode()
        share = dice.random()
        if share < 0.5:
            return coded
        if share < 0.7:
            return f"data:image/jpeg;base64,{coded}"
        odd = (coded[:-1], coded + "=", "data:,", "data:image/png,abc", "http://127.0.0.1/a.jpg",
               "file:///etc/passwd", "../../etc/passwd", "https://[::1]/x.png", "\n".join(coded))  # fmt: skip
        return dice.choice(odd)
