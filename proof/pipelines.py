"""Whole pipelines with `align` deepface against DeepFace's, by detector: the same photograph, the same embedding.

`python -m proof pipelines [--only DETECTOR]`; model Dlib with its own weights. The photographs are the sample people,
at their size and small, and the .jpg files that somebody puts into SCRATCH/photographs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from indexer.settings import Settings
from proof import models_environment, pipelines_peer, rows
from proof.models_environment import say
from proof.peers import Peer, photographs
from proof.rows import Row
from recognition import geometry
from recognition.detectors import centerface, ssd, yunet
from recognition.landmarks import WEIGHTS as LANDMARKS
from recognition.models.dlib import WEIGHTS as DLIB
from recognition.pipeline import Face, Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.samples import SAMPLES
from recognition.spec import Resources
from recognition.types import Box, Rgb
from recognition.weights import Weights, WeightsCache

DETECTORS = (
    "opencv", "dlib", "mtcnn", "fastmtcnn", "mediapipe", "ssd", "yunet", "centerface", "skip",
)  # fmt: skip
"""Those whose weights can be had. RetinaFace's and YOLO's decoding is proved by itself, on made-up weights."""
MEDIAPIPE = Peer(
    name="deepface-mediapipe",
    packages=(
        f"deepface=={models_environment.DEEPFACE}",
        "werkzeug",  # it imports that without asking for it
        "mediapipe==0.10.21",  # the last with the interface that DeepFace calls
        "dlib-bin",
        "opencv-contrib-python-headless<5",
    ),
    script=Path(pipelines_peer.__file__),
)
HEADS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {"sample_obama": (307, 65, 687, 471), "sample_biden": (352, 185, 769, 631)}
)
"""Left, top, right, bottom of heads that fill the picture: DeepFace's mediapipe sees no smaller ones."""
SMALL = 250
"""Pixels of the longer side: as in LFW."""
SAME_FACE = 0.5
"""IoU from which on a face of ours is the one that DeepFace found."""
CANONICAL = Path(__file__).parents[1] / "tests" / "recognition" / "canonical" / "pipelines.json"
KEPT = 24
"""Values of each embedding that are kept for the ordinary tests."""
NAMES: Mapping[str, tuple[Weights, str]] = {
    "yunet": (yunet.CHOICES[2][0], yunet.ZOO.name),
    "centerface": (centerface.CARRIED, centerface.PUBLISHED.name),
}
"""Files of the same networks, and the names under which DeepFace looks for them."""


def prove(scratch: Path, only: Sequence[str] = ()) -> Iterator[Row]:
    """A row for each detector; one without its weights here is left out, and said so."""
    folder = scratch / "pipelines"
    seen = pictures(folder / "photographs", scratch / "photographs")
    cache = WeightsCache(Settings().weights_folder)
    ours = Recognizer(Resources(beside(folder / "weights", cache), Runtime(threads=2)))
    models_environment.install(scratch)
    for detector in only or DETECTORS:
        if not given(detector, cache, models_environment.weights(scratch)):
            say(f"{detector} is left out: its weights are not here")
            continue
        say(f"pipeline with {detector}")
        run(scratch, folder, detector)
        told = json.loads((folder / f"{detector}.json").read_text())
        remember(detector, told)
        yield compared(ours, detector, seen, told)


def pictures(folder: Path, more: Path) -> dict[str, Rgb]:
    """By the name of the file, which is written for the peer."""
    files = sorted(more.rglob("*.jpg"))
    seen = photographs(files, folder) if files else {}
    people = photographs((), folder)
    small = {f"{name}_small": geometry.shrink(image, SMALL)[0] for name, image in people.items()}
    close = {f"{name}_close": cut(people[name], box) for name, box in HEADS.items()}
    seen = {**seen, **people, **small, **close}
    for name, image in seen.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(image[..., ::-1]))
    return seen


def cut(image: Rgb, box: tuple[int, int, int, int]) -> Rgb:
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def given(detector: str, cache: WeightsCache, theirs: Path) -> bool:
    """Puts the weights where DeepFace looks for them; False if there are none."""
    wanted: list[tuple[Weights, str]] = [(DLIB, DLIB.name), (LANDMARKS, LANDMARKS.name)]
    if detector == "ssd":
        wanted += [(weights, weights.name) for weights in ssd.TENSORFLOW]
    if detector in NAMES:
        wanted.append(NAMES[detector])
    if not all(weights.package or cache.present(weights) for weights, _ in wanted):
        return False
    for weights, name in wanted:
        shutil.copyfile(cache.path(weights), theirs / name)
    return True


def beside(folder: Path, cache: WeightsCache) -> WeightsCache:
    """The same weights without the forms of YuNet that DeepFace is not given, which were trained another time."""
    folder.mkdir(exist_ok=True)
    others = {weights.name for (weights,) in yunet.CHOICES[:2]}
    for source in Settings().weights_folder.glob("[!.]*"):
        target = folder / source.name
        if source.is_file() and source.name not in others and not target.exists():
            target.symlink_to(source)
    return WeightsCache(folder)


def run(scratch: Path, folder: Path, detector: str) -> None:
    if detector != "mediapipe":
        arguments = [str(folder), detector]
        backend = "tensorflow" if detector == "mtcnn" else "pytorch"  # both at once crash
        models_environment.run(scratch, pipelines_peer.__file__, arguments, backend)
        return
    settings = {"DEEPFACE_HOME": str(scratch), "DEEPFACE_LOG_LEVEL": "40"}
    peer = Peer(MEDIAPIPE.name, MEDIAPIPE.packages, MEDIAPIPE.script, settings=settings)
    peer.run(scratch, str(folder), detector)


def remember(detector: str, told: Mapping[str, Any]) -> None:
    """What DeepFace says of the sample people, for the ordinary tests."""
    known = json.loads(CANONICAL.read_text()) if CANONICAL.exists() else {}
    pictures: dict[str, tuple[int, int, int, int] | None] = {
        Path(sample.weights.name).stem: None for sample in SAMPLES
    }
    pictures |= {f"{name}_close": box for name, box in HEADS.items()}
    known[detector] = [
        {
            "file": f"{name.split('_')[1]}.jpg",
            "cut": box,
            "boxes": [face["box"] for face in told[name]],
            "embeddings": [
                [round(value, 5) for value in face["embedding"][:KEPT]] for face in told[name]
            ],
        }
        for name, box in pictures.items()
    ]
    CANONICAL.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def compared(
    ours: Recognizer, detector: str, seen: Mapping[str, Rgb], told: Mapping[str, Any]
) -> Row:
    """Every face that DeepFace found against ours at that place; one that is missing counts as a cosine of 0."""
    recipe = Recipe("Dlib", detector, "deepface")
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    missed = 0
    for name, image in seen.items():
        found = ours.represent([image], recipe, Selection())[0]
        for face in told[name]:
            # Of `skip` DeepFace gives height and width in the wrong order.
            same = found[0] if detector == "skip" else there(found, Box(*face["box"]))
            missed += same is None
            theirs = np.array(face["embedding"], np.float32)
            pairs.append((theirs, np.zeros_like(theirs) if same is None else same.embedding))
    expected, mine = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    alike = cosines(expected, mine)
    say(
        f"{detector}: {len(pairs)} faces, {missed} missed, {(alike <= rows.LEAST_PIPELINE).sum()} below"
    )
    return Row(
        name="Dlib",
        way=f"whole pipeline, {detector}, {len(pairs)} faces",
        single=float(alike.min()),
        difference=float(abs(expected - mine).max()),
        others=rows.between(expected),
        least=rows.LEAST_PIPELINE,
    )


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(axis=1) / np.maximum(lengths, 1e-12), np.float64)


def there(faces: Sequence[Face], box: Box) -> Face | None:
    """The face whose box overlaps most."""
    if not faces:
        return None
    boxes = np.array([_row(face.detection.box) for face in faces], np.float64)
    shares = geometry.overlap(boxes, np.array([_row(box)], np.float64))[:, 0]
    best = int(shares.argmax())
    return faces[best] if shares[best] >= SAME_FACE else None


def _row(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.w, box.h
