"""From pixels to answer: HTTP services side by side, indexing, cold start, and the bare networks as the limit.

    python -m benchmarks.endtoend [--seconds 10] [--tree FOLDER] [--page PAGE]

The photographs are the sample people, 480 pixels high; FOLDER is a tree of people for the rates of indexing (the sample
people many times over, each time another file, if it is left out). DeepFace runs in an environment of its own.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import deepface_api
from benchmarks.deepface_env import (
    SERVICE,
    TENSORFLOW,
    VERSION,
    environment_of,
    install,
    interpreter,
)
from benchmarks.machine import ROOT, memory, say, this_machine
from benchmarks.serving import free_port, running, temporary_home
from benchmarks.timing import Rows, many
from indexer.settings import Settings
from indexer.store.engine import Database
from indexer.weights import weights_cache
from recognition.detectors import mediapipe
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.samples import SAMPLES
from recognition.spec import Resources
from recognition.types import Rgb
from recognition.weights import WeightsCache
from service.settings import ServiceSettings, environment

CLIENTS = (1, 8, 32)
SIDE = 480
COPIES = 128
FULL_COPIES = 16
HEADING = """## End to end

`python -m benchmarks.endtoend`. Photographs of the sample people, 480 pixels high, as base64 in JSON; the clients
run on the same cores. DeepFace's service is gunicorn with one worker, as its image starts it: without TensorFlow, which
it does not need for these models, and with it, as its image has it. It embeds the face only, facesearch the mean of the
face's and its mirror image's. MiB: what the process grew by meanwhile (the first one, where there are several). Index
rates: with the start of the command and of the database, which is there already, and less what the unchanged tree
takes; DeepFace's are without its start."""
MARKS = ("<!-- end to end: begin -->", "<!-- end to end: end -->")
START_S = 600.0


@dataclass(frozen=True, slots=True)
class Way:
    """What a photograph is described with."""

    model: str
    detector: str

    def __str__(self) -> str:
        return f"{self.model} + {self.detector}"


OURS = (Way("Dlib", "mediapipe"), Way("Dlib_int8", "mediapipe"), Way("Dlib", "opencv"))
THEIRS = (Way("Dlib", "opencv"),)
"""DeepFace's mediapipe sees none of these portraits' faces: its border makes them too small for it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`p50` and `p99` in ms; `grown`: MiB by which the process grew meanwhile."""

    service: str
    what: str
    clients: int
    rate: float
    p50: float
    p99: float
    grown: float

    def row(self) -> str:
        return (
            f"| {self.what} | {self.service} | {self.clients} | {self.rate:.1f} |"
            f" {self.p50:.0f} | {self.p99:.0f} | {self.grown:.0f} |"
        )


def photographs(weights: WeightsCache) -> list[bytes]:
    """JPEG, 480 pixels high at most."""
    made = []
    for path in weights.ensure([sample.weights for sample in SAMPLES]):
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        out = BytesIO()
        small.save(out, "JPEG", quality=92)
        made.append(out.getvalue())
    return made


def bodies(folder: Path, photos: Sequence[bytes], what: str, way: Way) -> Path:
    """Requests that both services understand, a line each; `find` is ours only."""
    coded = [f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}" for photo in photos]
    common = {"model_name": way.model, "detector_backend": way.detector}
    if what == "verify":
        pairs = zip(coded, [*coded[1:], coded[0]], strict=True)
        asked = [{"img1": a, "img2": b, **common} for a, b in pairs]
    elif what == "find":
        asked = [{"img": a, "detector_backend": way.detector} for a in coded]
    else:
        asked = [{"img": a, **common} for a in coded]
    path = folder / f"{what}.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)))
    return path


def call(url: str, path: Path, clients: int, seconds: float) -> tuple[float, list[float]]:
    """How long it took until the last answer, and the seconds of every request, shortest first."""
    command = [sys.executable, "-m", "benchmarks.callers", url, str(path), str(clients)]
    ran = subprocess.run(
        [*command, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    told = json.loads(ran.stdout)
    return told["taken"], sorted(told["requests"])


def load(
    service: tuple[str, str, int], path: Path, what: str, seconds: float
) -> Iterator[Measured]:
    """`service`: name, address, process."""
    name, url, process = service
    for clients in CLIENTS:
        before = memory(process).own
        taken, told = call(f"{url}/{what}", path, clients, seconds)
        p50, p99 = (1000 * told[int(share * (len(told) - 1))] for share in (0.5, 0.99))
        grown = memory(process).own - before
        found = Measured(name, what, clients, len(told) / taken, p50, p99, grown)
        say(found.row())
        yield found


@contextmanager
def deepface(scratch: Path) -> Iterator[tuple[str, int, float]]:
    """Its service: address, process, and the seconds until it answered."""
    port = free_port()
    began = time.perf_counter()
    with (scratch / "deepface.log").open("wb") as log:
        process = subprocess.Popen(
            [str(interpreter(scratch)), deepface_api.__file__, "serve", str(port)],
            env=environment_of(scratch), stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(port, process)
        yield url, process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("DeepFace's service does not start")


def bare(weights: WeightsCache, photos: Sequence[bytes], seconds: float, model: str) -> float:
    """Images a second of the decoder and the networks alone, on every core: what nothing can be faster than."""
    recognizer = Recognizer(Resources(weights, Runtime(1)))
    embedder = recognizer.embedder(model)
    wide, close = (
        mediapipe.load(recognizer.resources, n) for n in (mediapipe.BACK, mediapipe.SHORT)
    )
    limits = ImageLimits()
    views = [np.zeros((1, *_shape(decode(photo, limits)), 3), np.uint8) for photo in photos]
    chip = np.zeros((150, 150, 3), np.uint8)
    near = np.zeros((1, close.size, close.size, 3), np.uint8)

    def work(number: int) -> Rows:
        decode(photos[number % len(photos)], limits)
        wide.run(views[number % len(photos)])
        close.run(near)
        embedder.embed([chip, chip], "native", "base")
        return ()

    return many(work, sys.maxsize, seconds, Settings().threads).per_second


def _shape(image: Rgb) -> tuple[int, int]:
    """Of the wide network's input."""
    return mediapipe.frame(mediapipe.whole(image, mediapipe.BACK), mediapipe.BACK)


def tree(folder: Path, photos: Sequence[bytes], copies: int = COPIES) -> Path:
    """The sample people, each photograph as many different files."""
    for number, photo in enumerate(photos):
        place = folder / f"person {number}"
        place.mkdir(parents=True)
        for copy in range(copies):
            (place / f"{copy}.jpg").write_bytes(photo + bytes([copy]))
    return folder


def index(home: Path, people: Path, way: Way) -> tuple[float, float]:
    """Seconds of `facesearch index`, start included: of a new tree, and of the same again."""
    gallery = f"{people.name}, {way}"
    command = [sys.executable, "-m", "indexer.cli", "index", str(people), "--gallery", gallery]
    command += ["--model", way.model, "--detector", way.detector, "--json"]
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run(
            command,
            env=environment(ServiceSettings(home=home)), cwd=ROOT, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        taken.append(time.perf_counter() - began)
    return taken[0], taken[1]


def index_deepface(scratch: Path, people: Path, detector: str) -> float:
    """Seconds, without its start."""
    flat = scratch / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(people.rglob("*.jpg"))):
        (flat / f"{number}.jpg").write_bytes(path.read_bytes())
    ran = subprocess.run(
        [str(interpreter(scratch)), deepface_api.__file__, "index", str(flat), detector],
        env=environment_of(scratch), stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return float(json.loads(ran.stdout.splitlines()[-1])["seconds"])


def page(rows: Sequence[str]) -> str:
    head = f"{HEADING}\n\nMeasured on {this_machine()}.\n"
    return "\n".join([head, *rows])


def write(path: Path, text: str) -> None:
    """Between the marks, or at the end of the page."""
    old = path.read_text() if path.exists() else ""
    begin, end = MARKS
    block = f"{begin}\n{text}\n{end}"
    if begin in old:
        before, _, rest = old.partition(begin)
        path.write_text(before + block + rest.partition(end)[2])
    else:
        path.write_text(f"{old.rstrip()}\n\n{block}\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endtoend", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tree", type=Path)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "benchmarks")
    parser.add_argument("--skip", default="", help="deepface")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    given = parser.parse_args()
    given.scratch.mkdir(parents=True, exist_ok=True)
    weights = weights_cache(Settings(), addresses=True)
    photos = photographs(weights)
    full = [path.read_bytes() for path in weights.ensure([s.weights for s in SAMPLES])]
    with tempfile.TemporaryDirectory(prefix="facesearch-bench-") as name:
        trees = [given.tree or tree(Path(name) / "480 pixels", photos)]
        trees.append(tree(Path(name) / "full size", full, FULL_COPIES))
        rows = _ours(given, weights, photos, trees)
        if "deepface" not in given.skip:
            for more in ((), TENSORFLOW):
                rows += _theirs(given, weights, photos, trees, more)
    write(given.page, page(rows))


LIMIT = "Decoder, detector's networks and embedding in a loop, all cores,"
HEAD = "| request | service | clients | requests/s | p50 ms | p99 ms | MiB |\n|---|---|---|---|---|---|---|"


def _ours(
    given: argparse.Namespace, weights: WeightsCache, photos: Sequence[bytes], trees: Sequence[Path]
) -> list[str]:
    cores = Settings().threads
    with temporary_home(weights.folder) as folder:
        rows = ["### facesearch\n"]
        for model in dict.fromkeys(way.model for way in OURS):
            limit = bare(weights, photos, given.seconds, model)
            rows.append(f"{LIMIT} {model}: {limit:.1f} images/s.\n")
        rows.append(f"A new database: {_prepared(folder):.1f} s.\n")
        for people in trees:
            rows += [_indexed(folder, people, way) for way in OURS]
        for workers in (1, cores):
            with running(folder, workers) as service:
                processes = f"{workers} process{'es' * (workers > 1)}"
                rows.append(
                    f"Cold start until ready, {processes}: {service.started:.1f} s.\n\n{HEAD}"
                )
                told = ("facesearch", f"http://127.0.0.1:{service.port}", service.process)
                for way in OURS:
                    rows += _table(given, photos, way, told, ("represent", "verify"))
                rows += _table(given, photos, OURS[0], told, ("find",))
                rows.append("")
    return rows


def _prepared(home: Path) -> float:
    """Seconds that the first start of a database takes."""
    began = time.perf_counter()
    database = Database.open(ServiceSettings(home=home))
    try:
        database.upgrade()
    finally:
        database.close()
    return time.perf_counter() - began


def _indexed(home: Path, people: Path, way: Way) -> str:
    first, again = index(home, people, way)
    files = sum(1 for _ in people.rglob("*.*"))
    row = (
        f"`index`, {way}, {files} files, {people.name}: {first:.1f} s, {files / first:.1f} images/s, start included;"
        f" the unchanged tree again {again:.1f} s, less which it is {files / (first - again):.1f} images/s.\n"
    )
    say(row)
    return row


def _theirs(
    given: argparse.Namespace,
    weights: WeightsCache,
    photos: Sequence[bytes],
    trees: Sequence[Path],
    more: tuple[str, ...],
) -> list[str]:
    """`more`: packages besides those that it needs, in an environment of their own."""
    name = f"DeepFace {VERSION}" + (" with TensorFlow" if more else "")
    scratch = given.scratch / name
    scratch.mkdir(exist_ok=True)
    install(scratch, weights, (*SERVICE, *more))
    with deepface(scratch) as (url, process, started):
        rows = [f"\n### {name}\n\nCold start until it answers: {started:.1f} s.\n\n{HEAD}"]
        for way in THEIRS:
            told = (name, url, process)
            rows += _table(given, photos, way, told, ("represent", "verify"))
    for people in trees:
        files = sum(1 for _ in people.rglob("*.*"))
        for way in THEIRS:
            with _emptied(scratch / "flat"):
                seconds = index_deepface(scratch, people, way.detector)
            rows.append(
                f"\nIndexing {files} files, {people.name}, {way}: {seconds:.1f} s, {files / seconds:.2f} images/s."
            )
            say(rows[-1])
    return rows


def _table(
    given: argparse.Namespace,
    photos: Sequence[bytes],
    way: Way,
    told: tuple[str, str, int],
    requests: Sequence[str],
) -> list[str]:
    """`told`: the service's name, address and process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what in requests:
            path = bodies(Path(folder), photos, what, way)
            service = (f"{told[0]}, {way}", *told[1:])
            rows += [m.row() for m in load(service, path, what, given.seconds)]
    return rows


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    def clear() -> None:
        for path in sorted(folder.rglob("*"), reverse=True) if folder.exists() else ():
            path.unlink()
        if folder.exists():
            folder.rmdir()

    clear()
    yield
    clear()


if __name__ == "__main__":
    main()
