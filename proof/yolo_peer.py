"""Ultralytics with seeded weights; runs in an environment of its own, with nothing of this project.

    python yolo_peer.py PHOTOGRAPHS OUT

Builds each network for one class, sets its statistics on the photographs and the bias of its score so that some cells
take faces for found, writes it as ONNX files, and what `predict` finds in every photograph with them as JSON.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

NETWORKS = ("yolov8n-pose", "yolov8n", "yolo11n", "yolo12n")
CONFIDENCE = 0.25
"""DeepFace's."""
SHARE = 0.985
"""Of the cells, below that confidence."""
POINTS = (5, 3)


def build(name: str, photographs: dict[str, Any]) -> Any:  # of another environment
    """The network, seeded and set."""
    torch = importlib.import_module("torch")
    tasks = importlib.import_module("ultralytics.nn.tasks")
    torch.manual_seed(1)
    if name.endswith("pose"):
        network = tasks.PoseModel(f"{name}.yaml", nc=1, data_kpt_shape=POINTS, verbose=False)
    else:
        network = tasks.DetectionModel(f"{name}.yaml", nc=1, verbose=False)
    network.names = {0: "face"}
    batch = torch.stack([square(image) for image in photographs.values()])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(batch)
    network.eval()
    spread(torch, network, batch)
    return network


def square(image: Any) -> Any:
    """(3, 320, 320) in 0..1 of a BGR photograph."""
    torch, cv2 = importlib.import_module("torch"), importlib.import_module("cv2")
    small = cv2.resize(image, (320, 320))[:, :, ::-1].copy()
    return torch.from_numpy(small).permute(2, 0, 1).float() / 255


def spread(torch: Any, network: Any, batch: Any) -> None:
    """Scores that differ: logits of variance 4, of which a few are above the confidence; key points near the cells."""
    head = network.model[-1]
    for branch in head.cv3:
        branch[-1].bias.data.zero_()
    with torch.no_grad():
        scores = network(batch)[0][:, 4].double().clamp(1e-9, 1 - 1e-9)
    logits = torch.logit(scores)
    factor = 2 / logits.std()
    target = math.log(CONFIDENCE / (1 - CONFIDENCE))
    shift = target - float(torch.quantile(logits.flatten() * factor, SHARE))
    for branch in head.cv3:
        branch[-1].weight.data.mul_(factor.float())
        branch[-1].bias.data.fill_(shift)


def export(network: Any, name: str, out: Path) -> list[str]:
    """Three ONNX files: any size, the fixed size, and the fixed size with suppression inside."""
    ways: dict[str, dict[str, Any]] = {
        "dynamic": {"dynamic": True},
        "fixed": {},
        "finished": {"nms": True},
    }
    for way, options in ways.items():
        model = wrapped(network, out / f"{name}-{way}.pt")
        model.export(format="onnx", imgsz=640, conf=CONFIDENCE, verbose=False, **options)
    return list(ways)


def wrapped(network: Any, path: Path) -> Any:
    """As the PyTorch file that an operator has: saved, and loaded again."""
    torch = importlib.import_module("torch")
    ultralytics = importlib.import_module("ultralytics")
    task = "pose" if hasattr(network.model[-1], "kpt_shape") else "detect"
    network.args, network.task, network.pt_path = {"task": task, "imgsz": 640}, task, str(path)
    torch.save({"model": network, "train_args": {"task": task, "imgsz": 640}}, path)
    return ultralytics.YOLO(str(path))


def found(model: Any, image: Any) -> list[dict[str, Any]]:
    """What `predict` finds: corners, score and key points of each face."""
    result = model.predict(image, verbose=False, conf=CONFIDENCE)[0]
    faces = []
    for i in range(len(result.boxes)):
        points = None if result.keypoints is None else result.keypoints.xy[i].tolist()
        corners, score = result.boxes.xyxy[i].tolist(), float(result.boxes.conf[i])
        faces.append({"corners": corners, "score": score, "points": points})
    return faces


def main() -> None:
    cv2 = importlib.import_module("cv2")
    ultralytics = importlib.import_module("ultralytics")
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    photographs = {path.stem: cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))}
    told: dict[str, Any] = {}
    for name in NETWORKS:
        network = build(name, photographs)
        ways = export(network, name, out)
        models = {"torch": wrapped(network, out / f"{name}.pt")}
        task = models["torch"].task
        for way in ways:
            models[way] = ultralytics.YOLO(str(out / f"{name}-{way}.onnx"), task=task)
        told[name] = {
            way: {key: found(model, image) for key, image in photographs.items()}
            for way, model in models.items()
        }
    (out / "found.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
