"""Decoding in processes of its own: a file that is made to break a decoder ends such a process, and nothing else.

A decoder process (`recognition.decoder`) knows no secrets, opens no files and is ended when it takes too long. It is
sent a file and its limits; pixels it puts into memory shared with it, or it says why there are none. What it answers
is checked.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import queue
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from recognition.errors import ImageTooLarge, UndecodableImage
from recognition.images import ImageLimits, Picture
from recognition.types import Rgb

Decoder: TypeAlias = Callable[[bytes, ImageLimits, int | None], Picture]
"""Pixels of a file, or UndecodableImage or ImageTooLarge: `images.read`, or `DecoderPool.read`."""

REQUEST = struct.Struct("<QQQQ")
"""Bytes that follow, the limits (bytes and pixels), and how many pixels of the longer side are enough (or 0)."""
ANSWER = struct.Struct("<BIIII")
"""PIXELS with height and width of them and of the file, or DAMAGED or TOO_LARGE with the length of the reason and 0."""
PIXELS, DAMAGED, TOO_LARGE = 0, 1, 2
MAX_REASON = 4096
STOP_S = 2.0
KEPT = 16 << 20
"""Bytes of shared memory that stay with a process; what a larger image took is given back."""
CHANNELS = 3

ENDED = "the image cannot be decoded: it ended the process that tried"
TOO_SLOW = "the image cannot be decoded within {seconds:g} s"


class Ended(EOFError):
    """The process at the other end is gone, or is not to be trusted any more."""


class DecoderPool:
    """As many processes as may decode at once, each started when it is first needed. For several threads."""

    def __init__(self, processes: int, max_pixels: int, *, timeout_s: float = 30.0) -> None:
        """`max_pixels`: of the largest image that will ever be taken."""
        self._timeout_s, self._max_pixels = timeout_s, max_pixels
        self._all = [_DecoderProcess(max_pixels * CHANNELS) for _ in range(processes)]
        self._idle: queue.SimpleQueue[_DecoderProcess] = queue.SimpleQueue()
        for process in self._all:
            self._idle.put(process)
        self.ended = 0
        """Processes that files have ended, or that were ended because they took too long."""

    @property
    def pids(self) -> Sequence[int]:
        """Of those that run."""
        return [pid for process in self._all if (pid := process.pid) is not None]

    def warm(self) -> None:
        """Start them all, so that no request waits for it."""
        for process in self._all:
            process.start()

    def read(self, data: bytes, limits: ImageLimits, enough: int | None = None) -> Picture:
        """As `images.read`; UndecodableImage too for a file that ends its process or takes too long."""
        if len(data) > limits.max_bytes:
            raise ImageTooLarge(
                f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken"
            )
        limits = ImageLimits(limits.max_bytes, min(limits.max_pixels, self._max_pixels))
        process = self._idle.get()
        try:
            return process.read(data, limits, enough, time.monotonic() + self._timeout_s)
        except TimeoutError as error:
            self._end(process)
            raise UndecodableImage(TOO_SLOW.format(seconds=self._timeout_s)) from error
        except (Ended, OSError) as error:
            self._end(process)
            raise UndecodableImage(ENDED) from error
        finally:
            self._idle.put(process)

    def close(self) -> None:
        for process in self._all:
            process.stop()

    def _end(self, process: _DecoderProcess) -> None:
        self.ended += 1
        process.stop()


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    process: subprocess.Popen[bytes]
    pipe: socket.socket
    memory: int
    pixels: mmap.mmap


class _DecoderProcess:
    """One process, started anew when it is gone. For one thread at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        return None if self._running is None else self._running.process.pid

    def start(self) -> _Running:
        if self._running is not None:
            if self._running.process.poll() is None:
                return self._running
            self.stop()
        memory = _memory(self._size)
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "recognition.decoder", str(memory), str(self._size)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[memory],
                cwd=Path(__file__).parents[1],
                env={
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                    "MALLOC_MMAP_THRESHOLD_": "33554432",
                    "MALLOC_TRIM_THRESHOLD_": "67108864",
                },
            )
        shared = mmap.mmap(memory, self._size, prot=mmap.PROT_READ)
        self._running = _Running(process, ours, memory, shared)
        return self._running

    def read(
        self, data: bytes, limits: ImageLimits, enough: int | None, deadline: float
    ) -> Picture:
        """Raises TimeoutError, Ended, OSError, UndecodableImage, ImageTooLarge."""
        running = self.start()
        pipe = running.pipe
        pipe.settimeout(_left(deadline))
        pipe.sendall(REQUEST.pack(len(data), limits.max_bytes, limits.max_pixels, enough or 0))
        pipe.sendall(data)
        answer = ANSWER.unpack(received(pipe, ANSWER.size, deadline))
        kind, first, second, height, width = answer
        whole = height * width <= limits.max_pixels and first <= height and second <= width
        if kind == PIXELS and first * second > 0 and whole:
            return Picture(_taken(running, first, second), width, height)
        if kind not in (DAMAGED, TOO_LARGE) or first > MAX_REASON:
            raise Ended
        reason = received(pipe, first, deadline).decode(errors="replace")
        raise (UndecodableImage if kind == DAMAGED else ImageTooLarge)(reason)

    def stop(self) -> None:
        if self._running is None:
            return
        running, self._running = self._running, None
        running.process.kill()
        running.process.wait(STOP_S)
        running.pipe.close()
        running.pixels.close()
        os.close(running.memory)


def _memory(size: int) -> int:
    """A file without a name in memory, which the process that it is shared with cannot cut short (reading it would
    then end this one)."""
    if sys.platform == "linux":
        memory = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
        return memory
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


def _taken(running: _Running, height: int, width: int) -> Rgb:
    """A copy of the shared pixels."""
    size = height * width * CHANNELS
    shared = np.frombuffer(running.pixels, np.uint8, size)
    pixels = shared.reshape(height, width, CHANNELS).copy()
    del shared
    if size > KEPT and sys.platform == "linux":
        running.pixels.madvise(mmap.MADV_REMOVE)
    return pixels


def _left(deadline: float) -> float:
    """Seconds, never none: a socket without a timeout would wait for ever."""
    return max(0.001, deadline - time.monotonic())


def received(pipe: socket.socket, size: int, deadline: float | None = None) -> bytearray:
    """So many bytes. Raises Ended; TimeoutError if there is a deadline."""
    data = bytearray(size)
    left = memoryview(data)
    while left:
        if deadline is not None:
            pipe.settimeout(_left(deadline))
        got = pipe.recv_into(left)
        if not got:
            raise Ended
        left = left[got:]
    return data
