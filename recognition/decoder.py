"""A process that decodes images for another: `python -m recognition.decoder DESCRIPTOR SIZE`.

Its standard input is a socket; the descriptor is that of the memory into which it puts pixels.

Before it reads the first byte it gives up what a decoder has no need of: root, the environment, further files,
writing to any, core dumps, and more memory than the largest image taken needs.
"""

from __future__ import annotations

import mmap
import os
import pwd
import resource
import socket
import sys
from contextlib import suppress

import numpy as np
from PIL import Image

from recognition.decoding import (
    ANSWER,
    DAMAGED,
    MAX_REASON,
    PIXELS,
    REQUEST,
    TOO_LARGE,
    Ended,
    received,
)
from recognition.errors import ImageTooLarge, UndecodableImage
from recognition.images import ImageLimits, heif_available, read

MEMORY = 2 << 30
BYTES_PER_PIXEL = 48
"""What the dearest of the formats needs while it is decoded."""
NOBODY = "nobody"


def main() -> None:
    pipe = socket.socket(fileno=0)
    pipe.setblocking(True)
    shared = mmap.mmap(int(sys.argv[1]), int(sys.argv[2]))
    os.close(int(sys.argv[1]))
    Image.init()  # all formats now: later no file can be opened
    heif_available()
    give_up()
    with suppress(Ended, OSError):
        while True:
            answer(pipe, shared)


def give_up() -> None:
    """Privileges and resources, for good."""
    os.chdir("/")
    if os.geteuid() == 0:
        with suppress(KeyError):
            account = pwd.getpwnam(NOBODY)
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def bound_memory(limits: ImageLimits) -> None:
    """Only ever downwards."""
    most = MEMORY + BYTES_PER_PIXEL * limits.max_pixels
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > most:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def answer(pipe: socket.socket, shared: mmap.mmap) -> None:
    """One file in, its pixels or a reason out. Raises Ended when nobody asks any more."""
    size, max_bytes, max_pixels, enough = REQUEST.unpack(received(pipe, REQUEST.size))
    data = received(pipe, size)
    limits = ImageLimits(max_bytes, max_pixels)
    bound_memory(limits)
    try:
        picture = read(bytes(data), limits, enough or None)
    except (UndecodableImage, ImageTooLarge) as error:
        kind = TOO_LARGE if isinstance(error, ImageTooLarge) else DAMAGED
        reason = str(error).encode()[:MAX_REASON]
        pipe.sendall(ANSWER.pack(kind, len(reason), 0, 0, 0) + reason)
        return
    pixels = picture.pixels
    np.copyto(np.frombuffer(shared, np.uint8, pixels.size).reshape(pixels.shape), pixels)
    sizes = *pixels.shape[:2], picture.height, picture.width
    pipe.sendall(ANSWER.pack(PIXELS, *sizes))


if __name__ == "__main__":
    main()
