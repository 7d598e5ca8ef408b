"""Images as they come: turned, grey, deep, transparent, damaged, huge."""

from __future__ import annotations

import io
import os
import signal
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import Server, encoded, enrol, problem

TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def upright(photos: dict[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(photos["obama2"])).convert("RGB")


def face(client: httpx.Client, image: bytes) -> dict[str, object]:
    response = client.post("/represent", files={"img": image})
    assert response.status_code == 200, response.text
    (found,) = response.json()["results"]
    return found


def distance(a: dict[str, object], b: dict[str, object]) -> float:
    x, y = np.array(a["embedding"]), np.array(b["embedding"])
    return float(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientations(
    client: httpx.Client, photos: dict[str, bytes], orientation: int
) -> None:
    image = upright(photos)
    expected = face(client, encoded(image, "PNG"))
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if turn is None else image.transpose(turn)
    found = face(client, encoded(stored, "PNG", exif=exif))
    assert found["facial_area"] == expected["facial_area"]
    assert distance(found, expected) < 1e-5


def sixteen_bits(image: Image.Image) -> bytes:
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    return encoded(Image.fromarray(grey), "PNG")


def palette(image: Image.Image) -> bytes:
    return encoded(image.quantize(256), "PNG")


def transparent(image: Image.Image) -> bytes:
    image = image.convert("RGBA")
    image.putalpha(255)
    return encoded(image, "PNG")


KINDS = {
    "grey": lambda image: encoded(image.convert("L"), "JPEG", quality=95),
    "grey alpha": lambda image: encoded(image.convert("LA"), "PNG"),
    "16 bits": sixteen_bits,
    "cmyk": lambda image: encoded(image.convert("CMYK"), "JPEG", quality=95),
    "alpha": transparent,
    "palette": palette,
    "gif": lambda image: encoded(image, "GIF"),
    "bmp": lambda image: encoded(image, "BMP"),
    "tiff": lambda image: encoded(image, "TIFF"),
    "webp": lambda image: encoded(image, "WEBP", quality=95),
    "progressive": lambda image: encoded(image, "JPEG", quality=95, progressive=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images(client: httpx.Client, photos: dict[str, bytes], kind: str) -> None:
    image = upright(photos)
    found = face(client, KINDS[kind](image))
    assert distance(found, face(client, encoded(image, "PNG"))) < 0.03


def damaged(photos: dict[str, bytes]) -> dict[str, bytes]:
    jpeg, png = photos["obama"], encoded(upright(photos), "PNG")
    return {
        "empty": b"",
        "text": b"this is not an image",
        "half a jpeg": jpeg[: len(jpeg) // 2],
        "half a png": png[: len(png) // 2],
        "a png without data": png[:33],
        "broken png": png[:2000] + bytes(500) + png[2500:],
        "only a header": jpeg[:20],
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "pdf": b"%PDF-1.4 \n",
        "zip": b"PK\x03\x04" + bytes(100),
    }


NAMES = [
    "empty", "text", "half a jpeg", "half a png", "a png without data", "broken png",
    "only a header", "svg", "pdf", "zip",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_damaged_images(client: httpx.Client, photos: dict[str, bytes], name: str) -> None:
    response = client.post("/represent", files={"img": damaged(photos)[name]})
    document = problem(response, 422, "undecodable-image")
    assert document["detail"].startswith("img: ")


def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels: huge when decoded, small as a file."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def peak(server: Server) -> int:
    """Most resident memory that the process ever had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc on this system")
    (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_bombs(
    client: httpx.Client, server: Server, photos: dict[str, bytes], gallery: str
) -> None:
    image = bomb(20_000)
    assert len(image) < 200_000
    client.post("/represent", files={"img": photos["obama"]})
    before = peak(server)
    for _ in range(3):
        response = client.post("/represent", files={"img": image})
        assert "too many pixels" in problem(response, 413, "image-too-large")["detail"]
    document = problem(enrol(client, gallery, "Ada", image), 413, "nothing-enrolled-too-large")
    assert document["files"][0]["status"] == "rejected"
    assert peak(server) - before < 20 * 2**20


def test_a_file_over_the_limit(client: httpx.Client) -> None:
    data = b"\xff\xd8" + bytes(21 * 2**20)
    problem(client.post("/represent", files={"img": data}), 413, "image-too-large")


EDGE = {
    200: [
        "exif_orientation_3.jpg", "exif_orientation_6.jpg", "exif_orientation_8.jpg", "grey.jpg",
        "grey16.png", "cmyk.jpg", "alpha.png", "la.png", "palette.png", "wrong_extension.png",
        "large_6000px.jpg", "cf_einstein.bmp", "cf_einstein.gif", "cf_einstein.tiff",
        "cf_einstein.webp", "group_3.jpg", "group_8faces.jpg", "group_bald_guys.jpg",
        "group_solvay1927_grey.jpg", "ag_32bit_alpha.png",
    ],
    413: ["bomb_20000x20000.png"],
    422: [
        "truncated_half.jpg", "empty.jpg", "not_an_image.jpg", "cf_empty.png", "cf_truncated.jpg",
        "cf_corrupted.png", "tiny_1x1.png", "blank_white.png", "noface_dogs.jpg",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "name"), [(status, name) for status, names in EDGE.items() for name in names]
)
def test_edge_files(client: httpx.Client, shared_data: Path, status: int, name: str) -> None:
    data = (shared_data / "edge" / name).read_bytes()
    response = client.post("/represent", files={"img": data})
    assert response.status_code == status, response.text[:300]
    least = {"group_3.jpg": 3, "group_8faces.jpg": 7, "group_bald_guys.jpg": 5,
             "group_solvay1927_grey.jpg": 20}  # fmt: skip
    if status == 200:
        assert len(response.json()["results"]) >= least.get(name, 1)


def test_a_file_that_ends_its_decoder(client: httpx.Client, server: Server) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (500, 500, 3), np.uint8)
    slow = encoded(Image.fromarray(np.tile(noise, (13, 13, 1))), "PNG", compress_level=1)
    before = decoders(server.process.pid)
    assert before
    with ThreadPoolExecutor(1) as pool:
        hostile = pool.submit(client.post, "/represent", files={"img": slow})
        while not hostile.done():
            for pid in decoders(server.process.pid):
                if busy(pid):
                    os.kill(pid, signal.SIGSEGV)
            time.sleep(0.02)
    told = problem(hostile.result(), 422, "undecodable-image")
    assert "ended the process" in str(told["detail"])
    assert client.get("/readyz").status_code == 200
    assert server.process.poll() is None
    assert "facesearch_decoders_ended 0.0" not in client.get("/metrics").text


def decoders(parent: int) -> list[int]:
    """Decoder processes of a server."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            command = (folder / "cmdline").read_bytes()
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if ppid == parent and b"recognition.decoder" in command:
                found.append(int(folder.name))
    return found


def busy(pid: int) -> bool:
    """Whether it has more memory than an idle one."""
    with suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 > 120 << 20
    return False
