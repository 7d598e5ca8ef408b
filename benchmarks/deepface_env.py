"""An environment with DeepFace in it, made once, and what it does there: `find` timed, photographs embedded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import deepface_pairs, deepface_peer
from benchmarks.machine import say
from benchmarks.results import Outcome, Row
from benchmarks.timing import Latency
from indexer.settings import Settings
from recognition.models.dlib import WEIGHTS
from recognition.samples import SAMPLES
from recognition.weights import WeightsCache
from service.settings import ServiceSettings, environment

VERSION = "0.0.103"
PACKAGES = (
    f"deepface=={VERSION}",
    "werkzeug",  # it imports that without asking for it
    "dlib-bin",
    "opencv-contrib-python-headless<5",  # 5 has no Haar cascades
)
TENSORFLOW = ("tensorflow>=2.16", "tf-keras>=2.16")
"""What it loads at its start where they are, and needs for most of its models."""
MTCNN = ("mtcnn==1.0.0", "tensorflow>=2.16")
"""What DeepFace's detector mtcnn needs besides."""
SERVICE = (f"deepface[api]=={VERSION}",)
"""What its HTTP service needs besides."""
LARGEST = 10_000
SMALLEST = 1_000


def measure(scratch: Path, sizes: list[int]) -> dict[int, Outcome]:
    """`find` at 1,000 and 10,000 faces; what a larger folder would take, by the line through both."""
    weights = WeightsCache(Settings().weights_folder)
    install(scratch, weights)
    photo = weights.path(SAMPLES[0].weights)
    small, large = (_run(scratch, faces, photo) for faces in (SMALLEST, LARGEST))
    return {faces: _outcome(faces, small, large) for faces in sizes}


def embed(
    scratch: Path, weights: WeightsCache, detector: str, root: Path, files: Sequence[str]
) -> Path:
    """DeepFace's embeddings of all faces of the files, as `deepface_pairs` writes them."""
    install(scratch, weights, MTCNN if detector == "mtcnn" else ())
    say(f"DeepFace with {detector} over {len(files):,} files")
    out = scratch / f"deepface_{detector}.npz"
    ran = [str(interpreter(scratch)), deepface_pairs.__file__, str(root), detector, str(out)]
    subprocess.run(
        ran, env=environment_of(scratch), input="\n".join(files), text=True, check=True,
        stdout=sys.stderr,
    )  # fmt: skip
    return out


def install(scratch: Path, weights: WeightsCache, more: tuple[str, ...] = ()) -> None:
    done = scratch / "deepface" / ".installed"
    present = done.read_text().splitlines() if done.exists() else []
    wanted = [*PACKAGES, *more]
    if not present:
        say(f"installing DeepFace {VERSION} into an environment of its own")
        venv.create(scratch / "deepface" / "env", clear=True, with_pip=True)
    if not set(wanted) <= set(present):
        pip = [str(interpreter(scratch)), "-m", "pip", "install", "--quiet"]
        subprocess.run(
            [*pip, "--disable-pip-version-check", *wanted], check=True, stdout=sys.stderr
        )
        done.write_text("\n".join({*present, *wanted}))
    folder = scratch / "deepface" / ".deepface" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights.path(WEIGHTS), folder / WEIGHTS.name)


def _run(scratch: Path, faces: int, photo: Path) -> list[dict[str, Any]]:
    say(f"DeepFace over {faces:,} files")
    command = [
        str(interpreter(scratch)),
        deepface_peer.__file__,
        str(scratch / "deepface" / "faces"),
    ]
    ran = subprocess.run(
        [*command, str(faces), str(photo)],
        env=environment_of(scratch),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


def _outcome(faces: int, small: list[dict[str, Any]], large: list[dict[str, Any]]) -> Outcome:
    """The search alone: without the probe's detection and embedding, which is told beside it."""
    probe = 1000 * next(told["median_s"] for told in large if told["way"] == "probe")
    rows = []
    for at_small, at_large in zip(small, large, strict=True):
        if at_large["way"] != "find":
            continue
        slope = (at_large["median_s"] - at_small["median_s"]) / (LARGEST - SMALLEST)
        p50 = 1000 * (at_large["median_s"] + slope * (faces - LARGEST)) - probe
        found = Latency(p50, None, 1000 / p50, 0)
        if faces == LARGEST:
            found = replace(found, p99=1000 * at_large["longest_s"] - probe, calls=at_large["runs"])
        rows.append(
            Row(engine=f"DeepFace {VERSION}, find", alone=found, note=_note(faces, probe, at_large))
        )
    return Outcome(rows, {"deepface_probe_ms": probe})


def _note(faces: int, probe: float, told: dict[str, Any]) -> str:
    refresh = "" if told["refresh_database"] else ", refresh_database=False"
    asked = f"return_type={told['return_type']}{refresh}; the probe's {probe:.0f} ms not counted"
    return asked if faces == LARGEST else f"**extrapolated**; {asked}"


def environment_of(scratch: Path) -> dict[str, str]:
    own = {"DEEPFACE_HOME": str(scratch / "deepface"), "DEEPFACE_LOG_LEVEL": "40"}
    return environment(ServiceSettings()) | own


def interpreter(scratch: Path) -> Path:
    return scratch / "deepface" / "env" / "bin" / "python"
