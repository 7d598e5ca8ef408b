"""Anti-spoofing against DeepFace's: the same boxes of the same photographs, and the same waves into the networks.

    python -m proof.antispoofing --weights FOLDER [--scratch FOLDER] [--record FILE] PHOTOGRAPHS...

Installs DeepFace and PyTorch into an environment of their own below the scratch folder, prints a table, and ends with 1
where a verdict differs, or a score by more than 0.001. FOLDER holds the two .pth files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.settings import Settings
from proof import antispoofing_peer
from proof.peers import Peer
from recognition import antispoofing, geometry
from recognition.antispoofing import SCALES
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Authenticity, Detection, Rgb
from recognition.weights import WeightsCache

DEEPFACE = "deepface==0.0.103"
PEER = Peer(
    "antispoofing-env",
    ("torch>=2.1.2", "numpy", "opencv-python-headless<5", "gdown"),
    Path(antispoofing_peer.__file__),
    alone=(DEEPFACE,),
)
"""DeepFace's module for anti-spoofing needs these packages only."""
DETECTORS = ("mediapipe", "opencv")
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """`image` is the index of the photograph, `rank` the face's among those in it, most prominent first."""

    image: int
    rank: int
    room: float
    detector: str
    detection: Detection
    ours: Authenticity


def main() -> int:
    asked = _arguments()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    images = [decode(path.read_bytes(), ImageLimits()) for path in asked.photographs]
    recognizer = Recognizer(_resources(asked.weights, asked.scratch))
    faces = [face for detector in DETECTORS for face in _judged(recognizer, images, detector)]
    theirs = _reference(asked, images, faces)
    if asked.record is not None:
        asked.record.write_text(_recorded(asked.photographs, faces, theirs) + "\n")
    apart = [
        _row(asked.photographs[face.image].name, face, told)
        for face, told in zip(faces, theirs["faces"], strict=True)
    ]
    for detector in DETECTORS:
        _summary(detector, [f for f in faces if f.detector == detector])
    waves = _waves_apart(recognizer, theirs["waves"])
    wrong = sum(not (same and apart_by <= TOLERANCE) for same, apart_by in apart)
    print(f"{len(faces)} faces in {len(images)} photographs; {wrong} differ; tolerance {TOLERANCE}")
    print(f"scores at most {max(by for _, by in apart):.2e} apart, networks on waves {waves:.2e}")
    return 1 if wrong or waves > TOLERANCE else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Anti-spoofing compared with DeepFace's.")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the .pth files")
    parser.add_argument("--scratch", type=Path, default=Settings().home / "proof" / "antispoofing")
    parser.add_argument("--record", type=Path, help="write what DeepFace gives as JSON")
    parser.add_argument("photographs", nargs="+", type=Path)
    return parser.parse_args()


def _resources(weights: Path, scratch: Path) -> Resources:
    """Of a folder that has the detectors' weights from the machine's cache, and the two files."""
    folder = scratch / "weights"
    folder.mkdir(exist_ok=True)
    for path in [*Settings().weights_folder.glob("[!.]*"), *weights.glob("*.pth")]:
        if path.is_file() and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    return Resources(weights=WeightsCache(folder), runtime=Runtime(threads=2))


def _judged(recognizer: Recognizer, images: Sequence[Rgb], detector: str) -> list[Face]:
    found = [recognizer.detect([image], detector, Selection())[0] for image in images]
    recognizer.anti_spoofing()
    started = time.perf_counter()
    verdicts = recognizer.judge(images, found, detector)
    count = max(1, sum(map(len, found)))
    each = 1000 * (time.perf_counter() - started) / count
    print(f"{detector}: {each:.2f} ms for each of {count} faces, in batches, on two threads")
    return [
        Face(index, rank, _room(detection, images[index]), detector, detection, verdict)
        for index in range(len(images))
        for rank, (detection, verdict) in enumerate(zip(found[index], verdicts[index], strict=True))
    ]


def _reference(
    asked: argparse.Namespace, images: Sequence[Rgb], faces: Sequence[Face]
) -> dict[str, Any]:
    scratch: Path = asked.scratch.resolve()
    files = [scratch / f"image-{index}.npy" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        np.save(file, image[..., ::-1], allow_pickle=False)
    boxes = [_box(face, images) for face in faces]
    job = {
        "faces": [
            {"image": str(files[face.image]), "box": box}
            for face, box in zip(faces, boxes, strict=True)
        ]
    }
    (scratch / "job.json").write_text(json.dumps(job))
    home = scratch / ".deepface" / "weights"
    home.mkdir(parents=True, exist_ok=True)
    for weights in antispoofing.WEIGHTS:
        shutil.copyfile(asked.weights / weights.name, home / weights.name)
    peer = replace(PEER, settings={"DEEPFACE_HOME": str(scratch)})
    peer.run(scratch, str(scratch / "job.json"), str(scratch / "out.json"))
    told: dict[str, Any] = json.loads((scratch / "out.json").read_text())
    for file in files:
        file.unlink()
    return told


def _box(face: Face, images: Sequence[Rgb]) -> list[int]:
    """x, y, w, h in whole pixels, as DeepFace's detectors give them."""
    height, width = images[face.image].shape[:2]
    box = geometry.pixels(face.detection.box, width, height)
    return [int(value) for value in (box.x, box.y, box.w, box.h)]


def _row(photograph: str, face: Face, told: Mapping[str, Any]) -> tuple[bool, float]:
    """Whether the verdicts agree, and how far the scores are apart; printed."""
    same, apart = face.ours.is_real == told["is_real"], abs(face.ours.score - told["score"])
    verdicts = f"{_word(face.ours.is_real)} {face.ours.score:.6f}  {_word(told['is_real'])} {told['score']:.6f}"
    mark = "" if same and apart <= TOLERANCE else "  DIFFERS"
    print(f"{photograph[:36]:36}  {face.detector:10}  {verdicts}  {apart:.1e}{mark}")
    return same, apart


def _summary(detector: str, faces: Sequence[Face]) -> None:
    """How many look live to us: all faces, the most prominent one of each photograph, and those by their room."""
    first = [face for face in faces if face.rank == 0]
    _line(f"{detector}, all", faces)
    _line(f"{detector}, first", first)
    for low, high in ((0.0, SCALES[0]), SCALES, (SCALES[1], float("inf"))):
        some = [face for face in first if low <= face.room < high]
        _line(f"{detector}, first, room from {low} to {high}", some)


def _line(what: str, faces: Sequence[Face]) -> None:
    for is_real in (True, False):
        scores = [face.ours.score for face in faces if face.ours.is_real is is_real]
        if scores:
            quantiles = ", ".join(f"{q:.3f}" for q in np.quantile(scores, (0.05, 0.25, 0.5, 0.75)))
            share = 100 * len(scores) / len(faces)
            print(
                f"{what}: {len(scores)} of {len(faces)} ({share:.1f} %) {_word(is_real).strip()}; "
                f"their scores at 5, 25, 50, 75 %: {quantiles}"
            )


def _room(face: Detection, image: Rgb) -> float:
    """How many times its own size the image around a face has; the networks would see 2.7 and 4 times."""
    height, width = image.shape[0] - 1, image.shape[1] - 1
    return float(min(height / face.box.h, width / face.box.w))


def _word(is_real: bool) -> str:
    return "real " if is_real else "spoof"


def _waves_apart(recognizer: Recognizer, theirs: object) -> float:
    """Largest difference of a probability of either network on the waves."""
    method = recognizer.anti_spoofing()
    assert isinstance(method, antispoofing.Fasnet)
    crops = antispoofing_peer.waves().transpose(0, 2, 3, 1)[..., ::-1].astype(np.uint8)
    ours = method.probabilities([np.stack([crop, crop]) for crop in crops])
    return float(np.abs(ours - np.asarray(theirs)).max())


def _recorded(photographs: Sequence[Path], faces: Sequence[Face], theirs: Mapping[str, Any]) -> str:
    told = [
        {
            "photograph": photographs[face.image].name,
            "box": [float(getattr(face.detection.box, name)) for name in ("x", "y", "w", "h")],
            **verdict,
        }
        for face, verdict in zip(faces, theirs["faces"], strict=True)
        if face.detector == DETECTORS[0]
    ]
    return json.dumps({"source": DEEPFACE, "faces": told, "waves": theirs["waves"]}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
