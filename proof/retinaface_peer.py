"""retina-face with seeded weights; runs in an environment of its own, with nothing of this project.

    python retinaface_peer.py PHOTOGRAPHS WEIGHTS OUT

WEIGHTS is an .npz file of LAYER/NUMBER arrays. Saves them as the package's Keras file, loads that with the package,
and writes its raw outputs for each photograph made small, and the faces that it finds in each photograph; and the ONNX
graph that the package's PyTorch network becomes. DEEPFACE_HOME is OUT.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

CANDIDATES = 300
"""Before suppression, in one photograph: where the threshold is put."""
SMALL = 8
"""The raw outputs are those of every so many-th pixel."""


def layers(path: Path) -> dict[str, list[Any]]:
    """The arrays of each layer."""
    found: dict[str, list[Any]] = defaultdict(list)
    with np.load(path) as file:
        for key in sorted(file.files):
            found[key.rpartition("/")[0]].append(file[key])
    return found


def save_keras(arrays: dict[str, list[Any]], path: Path) -> None:
    """The package's own network, given the arrays, saved as its release is."""
    network: Any = importlib.import_module("retinaface.model.retinaface_model")
    load = network.load_weights
    network.load_weights = lambda model: model
    model = network.build_model()
    network.load_weights = load
    weighted = [layer for layer in model.layers if layer.weights]
    if {layer.name for layer in weighted} != set(arrays):
        raise ValueError("the layers differ")
    for layer in weighted:
        layer.set_weights(arrays[layer.name])
    model.save_weights(path)


def save_onnx(arrays: dict[str, list[Any]], path: Path) -> None:
    """As the release's graph was made: from the package's PyTorch network, with any batch, height and width."""
    torch = importlib.import_module("torch")
    model = importlib.import_module("retinaface.model.retinaface_pth_model").RetinaFace()
    state = model.state_dict()
    for key in state:
        name, index = place(key)
        if name:
            value = arrays[name][index]
            state[key] = torch.from_numpy(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)
    model.load_state_dict(state)
    sizes = {"data": {0: "n", 1: "height", 2: "width"}}
    torch.onnx.export(
        model.eval(),
        torch.zeros(1, 96, 128, 3),
        str(path),
        input_names=["data"],
        dynamic_axes=sizes,
        dynamo=False,
        opset_version=17,
    )


def place(key: str) -> tuple[str, int]:
    """Layer and number of an array, of its name in PyTorch."""
    *parts, kind = key.split(".")
    if kind == "num_batches_tracked":
        return "", 0
    if parts[0].startswith("face_rpn"):
        stride = parts[0].rpartition("_")[2]
        name = f"face_rpn_{parts[1]}_{stride}"
    else:
        name = "_".join(parts)
    norm = "bn" in parts[-1]
    order = ("weight", "bias", "running_mean", "running_var") if norm else ("weight", "bias")
    return name, order.index(kind)


def run(model: Any, tensor: Any) -> list[Any]:
    return [output.numpy() for output in model(tensor)]


def faces(
    package: Any,
    model: Any,
    image: Any,
    outputs: list[Any],
    **options: bool,
) -> dict[str, Any]:
    """What the package finds where its threshold leaves so many candidates."""
    scores = np.sort(np.concatenate([output[..., 2:].ravel() for output in outputs[::3]]))
    threshold = float(scores[-CANDIDATES - 1 : -CANDIDATES + 1].mean())
    found = package.detect_faces(image, threshold=threshold, model=model, **options)
    return {
        "threshold": threshold,
        "faces": json.loads(json.dumps(list(found.values()), default=float)),
    }


def main() -> None:
    folder, weights, out = (Path(argument) for argument in sys.argv[1:])
    home = out / ".deepface" / "weights"
    home.mkdir(parents=True, exist_ok=True)
    cv2 = importlib.import_module("cv2")
    package = importlib.import_module("retinaface.RetinaFace")
    prepare = importlib.import_module("retinaface.commons.preprocess").preprocess_image
    arrays = layers(weights)
    save_keras(arrays, home / "retinaface.h5")
    save_onnx(arrays, out / "retinaface.onnx")
    model = package.build_model()
    told: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    for path in sorted(folder.glob("*.png")):
        image = cv2.imread(str(path))
        small = image[::SMALL, ::SMALL].copy()
        outputs = run(model, small[None, :, :, ::-1].astype(np.float32))
        raw |= {f"{path.stem}/{i}": output for i, output in enumerate(outputs)}
        told[path.stem] = faces(package, model, image, run(model, prepare(image, True)[0]))
        told[path.stem]["small"] = faces(package, model, small, outputs, allow_upscaling=False)
    np.savez(out / "raw.npz", **raw)
    (out / "found.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
