"""The only place that runs networks: ONNX Runtime on the CPU, mute, with the number of threads set on purpose."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.errors import BadWeights

# Its wheels report to their maker over the network unless this is set when they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251 - set, not read

import onnxruntime as ort

Tensor = NDArray[Any]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
CPU_AVX512_SKX = 256
"""Of OpenCV's cvdef.h."""
INTEL = frozenset({"x86_64", "AMD64"})
KEPT_BYTES, MAPPED_BYTES = 64 << 20, 32 << 20


class Session:
    """A loaded network. `run` may be called from several threads at once."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs: tuple[str, ...] = tuple(i.name for i in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in session.get_outputs())
        self.shape: tuple[int | None, ...] = tuple(
            side if isinstance(side, int) else None for side in session.get_inputs()[0].shape
        )
        """Of the first input; None where any size will do."""

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """All outputs, in the order of `outputs`."""
        return [np.asarray(out) for out in self._session.run(None, dict(feeds))]

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        """`run` for a network with one input."""
        return self.run({self.inputs[0]: tensor})


def keep_memory() -> None:
    """Let the C library keep what is freed for the next image: a page that was given back costs more than it is worth.

    Up to KEPT_BYTES in each of its arenas; blocks of more than MAPPED_BYTES are given back as ever.
    """
    with suppress(OSError, AttributeError):  # another library than glibc
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def lanes() -> int:
    """Channels of a block in the layout that ONNX Runtime's fast convolutions use here."""
    wide = platform.machine() not in INTEL or cv2.checkHardwareSupport(CPU_AVX512_SKX)
    return 16 if wide else 8


class Runtime:
    """Makes sessions; `threads` is the number of cores that one `run` may use."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        keep_memory()
        cv2.setNumThreads(threads)  # for the whole process: OpenCV knows no other way

    def session(
        self, path: Path, outputs: Sequence[str] = (), sides: Mapping[str, int] | None = None
    ) -> Session:
        """Load the graph at `path`; raises BadWeights if ONNX Runtime cannot.

        `outputs`, if given, must be the names of the graph's outputs: a guard against a stale file. `sides` fixes
        dimensions that the graph leaves open.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for name, side in (sides or {}).items():
            options.add_free_dimension_override_by_name(name, side)
        try:
            loaded = Session(
                ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise BadWeights(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
        if outputs and tuple(outputs) != loaded.outputs:
            raise BadWeights(f"{path} has outputs {loaded.outputs}, expected {tuple(outputs)}")
        return loaded
