"""Our RetinaFace on weights made from a seed, against the retina-face package with the same weights.

    python -m proof.retinaface [--scratch FOLDER] [PHOTOGRAPH ...]

Exits with 1 if they differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from proof import seeded
from proof.peers import Peer, arguments, photographs, table
from recognition.detectors.retinaface import RetinaFace, Search
from recognition.formats import retinaface
from recognition.runtime import Runtime, Session, Tensor
from recognition.types import Detection, Rgb

PEER = Peer(
    "retina-face",
    ("retina-face==0.0.19", "tensorflow-cpu", "tf-keras", "torch", "onnx"),
    Path(__file__).with_name("retinaface_peer.py"),
)
SETTINGS = {"DEEPFACE_BACKEND_ENGINE": "tensorflow", "TF_USE_LEGACY_KERAS": "1"}
SMALL = 8
"""The raw outputs are those of every so many-th pixel."""
VALUES = 24
"""Of each output, about so many are kept for the tests."""
LEAST_COSINE = 0.9999
LARGEST_OFFSET = 1.0
"""Pixels of the photograph, of a box's corners, which the package cuts to whole pixels."""
POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
HEAD = (
    "graph",
    "photograph",
    "cosine",
    "largest",
    "faces",
    "theirs",
    "box px",
    "score",
    "points px",
)


def main() -> None:
    known = arguments("Our RetinaFace against the retina-face package")
    folder, out = known.scratch / "retinaface-photographs", known.scratch / "retinaface"
    images = photographs(known.photographs, folder)
    out.mkdir(exist_ok=True)
    arrays = seeded.retinaface(retinaface.shapes())
    flat = {f"{name}/{i}": a for name, values in arrays.items() for i, a in enumerate(values)}
    np.savez(out / "seeded.npz", **flat)  # type: ignore[arg-type] # of numpy: it takes arrays by name
    peer = replace(PEER, settings={**SETTINGS, "DEEPFACE_HOME": str(out)})
    peer.run(known.scratch, str(folder), str(out / "seeded.npz"), str(out))
    (out / "ours.onnx").write_bytes(
        retinaface.convert((out / ".deepface" / "weights" / "retinaface.h5").read_bytes())
    )
    told, raw = json.loads((out / "found.json").read_text()), np.load(out / "raw.npz")
    rows, good = [], True
    for graph in ("ours", "retinaface"):
        session = Runtime(threads=2).session(out / f"{graph}.onnx")
        for name, image in images.items():
            inner, near = outputs(
                session, image[::SMALL, ::SMALL], [raw[f"{name}/{i}"] for i in range(9)]
            )
            row, same = faces(session, image, told[name])
            rows.append((graph, name, *inner, *row))
            good = good and near and same
    table(HEAD, rows)
    name = next(iter(images))
    (out / "canonical.json").write_text(json.dumps(canonical(name, raw, told[name]["small"])))
    sys.exit(0 if good else 1)


def outputs(session: Session, small: Rgb, theirs: Sequence[Tensor]) -> tuple[tuple[str, ...], bool]:
    """The least cosine and the largest difference over the nine outputs for the small photograph."""
    ours = session(small[None].astype(np.float32))
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return ("shapes", "differ"), False
    cosine = min(
        float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
        for a, b in ((a.astype(np.float64), b) for a, b in zip(ours, theirs, strict=True))
    )
    largest = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    return (f"{cosine:.8f}", f"{largest:.6f}"), cosine > LEAST_COSINE


def canonical(name: str, raw: Mapping[str, Tensor], small: dict[str, Any]) -> dict[str, Any]:
    """For the tests: some values of the package's outputs for the small photograph, and what it finds in it."""
    found = []
    for i in range(9):
        flat = raw[f"{name}/{i}"].ravel()
        step = max(1, flat.size // VALUES)
        found.append(
            {"shape": raw[f"{name}/{i}"].shape, "step": step, "values": flat[::step].tolist()}
        )
    return {"photograph": name, "every": SMALL, "outputs": found, **small}


def faces(session: Session, image: Rgb, told: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Ours and theirs at their threshold, paired by their boxes."""
    search = replace(Search(), min_score=told["threshold"])
    ours = [f for f in RetinaFace(session, search).detect([image])[0] if visible(corners(f))]
    theirs = [face for face in told["faces"] if visible(face["facial_area"])]
    counts = str(len(ours)), str(len(theirs))
    if len(ours) != len(theirs) or not ours:
        return (*counts, "inf", "inf", "inf"), False
    a = np.array([corners(face) for face in ours])
    b = np.array([face["facial_area"] for face in theirs])
    apart = np.abs(np.trunc(a)[:, None] - b[None]).max(axis=2)
    pairs = list(zip(*linear_sum_assignment(apart), strict=True))
    box = max(float(apart[i, j]) for i, j in pairs)
    score = max(abs(ours[i].score - theirs[j]["score"]) for i, j in pairs)
    points = max(float(np.abs(ours[i].landmarks - landmarks(theirs[j])).max()) for i, j in pairs)
    same = max(box, points) <= LARGEST_OFFSET and score < 1e-3
    return (*counts, f"{box:.0f}", f"{score:.6f}", f"{points:.4f}"), same


def corners(face: Detection) -> tuple[float, float, float, float]:
    return face.box.x, face.box.y, face.box.x + face.box.w, face.box.y + face.box.h


def landmarks(face: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([face["landmarks"][name] for name in POINTS])


def visible(box: Sequence[float]) -> bool:
    """Whether the box, cut to whole pixels, has an inside: made-up weights also give slivers at the edges."""
    left, top, right, bottom = map(int, box)
    return right > left and bottom > top


if __name__ == "__main__":
    main()
