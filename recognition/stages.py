"""Where the time goes: the stages of an image's way, and who is told how long each took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

Stage = Literal["read", "decode", "detect", "align", "embed", "search", "serialize"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Observe: TypeAlias = Callable[[Stage, float], None]
"""Is told a stage and its seconds; from any thread."""


def unobserved(_stage: Stage, _seconds: float) -> None:
    """Nobody wants to know."""


@contextmanager
def timed(observe: Observe, stage: Stage) -> Iterator[None]:
    """Tells how long the block took, also if it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        observe(stage, time.perf_counter() - started)
