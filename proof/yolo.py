"""Our YOLO detector on networks that Ultralytics exported, against its own `predict`.

    python -m proof.yolo [--scratch FOLDER] [PHOTOGRAPH ...]

Exits with 1 if they differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from proof.peers import Peer, arguments, photographs, table
from recognition.detectors.yolo import Yolo
from recognition.runtime import Runtime, Session, Tensor
from recognition.types import Detection, Rgb

PEER = Peer(
    "ultralytics",
    ("ultralytics==8.4.190", "onnx", "onnxslim", "onnxruntime"),
    Path(__file__).with_name("yolo_peer.py"),
)
WAYS = {"torch": "dynamic", "dynamic": "dynamic", "fixed": "fixed", "finished": "finished"}
"""What `predict` ran, and the ONNX file that we run."""
LIMITS = {
    "torch": (5.0, 0.01),
    "dynamic": (0.1, 1e-4),
    "fixed": (0.1, 1e-4),
    "finished": (0.1, 1e-4),
}
"""Pixels, and of a score. With made-up weights, PyTorch's own arithmetic shows."""
CANONICAL = (("yolov8n-pose", "dynamic"), ("yolov8n-pose", "finished"), ("yolo12n", "fixed"))
CUT = 0.22
"""Cells with a lower score are left out of what is kept for the tests: the detector's limit is above it."""
HEAD = ("network", "export", "predict with", "faces", "theirs", "box px", "score", "points px")


def main() -> None:
    known = arguments("Our decoding of YOLO networks against that of Ultralytics")
    images = photographs(known.photographs, known.scratch / "yolo-photographs")
    out = known.scratch / "yolo"
    PEER.run(known.scratch, str(known.scratch / "yolo-photographs"), str(out))
    told = json.loads((out / "found.json").read_text())
    rows, good = [], True
    for name, theirs in told.items():
        for way, limits in LIMITS.items():
            file = out / f"{name}-{WAYS[way]}.onnx"
            row, same = compare(Yolo(Runtime(threads=2).session(file)), images, theirs[way], limits)
            rows.append((name, WAYS[way], way, *row))
            good = good and same
    table(HEAD, rows)
    (out / "canonical.json").write_text(json.dumps(canonical(out, images, told)))
    sys.exit(0 if good else 1)


def compare(
    detector: Yolo,
    images: dict[str, Rgb],
    theirs: dict[str, list[dict[str, Any]]],
    limits: tuple[float, float],
) -> tuple[tuple[str, ...], bool]:
    """Numbers of faces, the largest differences, and whether all is the same."""
    ours = dict(zip(images, detector.detect(list(images.values())), strict=True))
    theirs = {name: visible(faces) for name, faces in theirs.items()}
    counts = sum(map(len, ours.values())), sum(map(len, theirs.values()))
    offsets = [differences(ours[name], theirs[name]) for name in images]
    box, score, points = (float(value) for value in np.max(np.array(offsets), axis=0))
    same = counts[0] == counts[1] > 0 and max(box, points) < limits[0] and score < limits[1]
    return (str(counts[0]), str(counts[1]), f"{box:.4f}", f"{score:.6f}", f"{points:.4f}"), same


def canonical(
    out: Path, images: dict[str, Rgb], told: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """For the tests: what the networks say of the first photograph, without most of its empty cells, and its faces."""
    name, image = next(iter(images.items()))
    found = []
    for network, way in CANONICAL:
        session = Recorder(Runtime().session(out / f"{network}-{way}.onnx"))
        Yolo(session).detect([image])
        output = session.output[0]
        scores = output[:, 4] if way == "finished" else output[4]
        kept = np.flatnonzero(scores > CUT)
        output = output[kept] if way == "finished" else output[:, kept]
        faces = visible(told[network][way][name])
        found.append(
            {
                "network": network,
                "way": way,
                "photograph": list(image.shape[:2]),
                "input": list(session.input),
                "output": output.tolist(),
                "faces": faces,
            }
        )
    return found


class Recorder(Session):
    """A session that keeps what went through it."""

    def __init__(self, session: Session) -> None:
        self._inner, self.shape = session, session.shape
        self.input: tuple[int, ...] = ()
        self.output: Tensor = np.zeros(0)

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        outputs = self._inner(tensor)
        self.input, self.output = tensor.shape, outputs[0]
        return outputs


def differences(
    ours: Sequence[Detection], theirs: Sequence[dict[str, Any]]
) -> tuple[float, float, float]:
    """The largest of a box's corners, of a score, and of a key point; infinite if one side has more faces.

    Faces are paired by their boxes: where scores differ by less than what arithmetic does, their order says nothing.
    """
    if len(ours) != len(theirs) or not ours:
        return (np.inf,) * 3 if len(ours) != len(theirs) else (0.0,) * 3
    a = np.array([(f.box.x, f.box.y, f.box.x + f.box.w, f.box.y + f.box.h) for f in ours])
    b = np.array([face["corners"] for face in theirs])
    apart = np.abs(a[:, None] - b[None]).max(axis=2)
    rows, columns = linear_sum_assignment(apart)
    pairs = [(ours[i], theirs[j]) for i, j in zip(rows, columns, strict=True)]
    scores = max(abs(one.score - two["score"]) for one, two in pairs)
    if any((one.landmarks is None) != (two["points"] is None) for one, two in pairs):
        return (np.inf,) * 3
    points = [
        float(np.abs(one.landmarks - np.array(two["points"])).max())
        for one, two in pairs
        if one.landmarks is not None
    ]
    return float(apart[rows, columns].max()), scores, max(points, default=0.0)


def visible(faces: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without boxes that lie outside the photograph, which Ultralytics cuts to nothing and keeps."""
    corners = [face["corners"] for face in faces]
    return [
        face
        for face, (left, top, right, bottom) in zip(faces, corners, strict=True)
        if right > left and bottom > top
    ]


if __name__ == "__main__":
    main()
