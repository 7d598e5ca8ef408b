"""DeepFace's side of the proof of the networks; runs in an environment of its own, with nothing of this project.

    python models_peer.py tensorflow|pytorch FOLDER NAME...

`tensorflow`: build DeepFace's Keras networks, give them seeded weights, save these in the format and order of its
releases, load them back with its own loader. `pytorch`: the same with its PyTorch networks, exported to ONNX as its
releases are, which its ONNX backend then loads. Both: what its networks answer to FOLDER/inputs.npz goes into
FOLDER/NAME.BACKEND.npz, and its whole pipeline's answers to FOLDER/jobs.json into FOLDER/NAME.represent.json.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for what lies beside it and is not installed there
seeded = importlib.import_module("models_seeded")


ATTRIBUTES = ("Age", "Gender", "Race", "Emotion")


def module(name: str) -> Any:
    return importlib.import_module(f"deepface.{name}")


def task(name: str) -> str:
    return "facial_attribute" if name in ATTRIBUTES else "facial_recognition"


def client(name: str) -> Any:
    return module("modules.modeling").get_model_class(task=task(name), model_name=name)()


def switch(backend: str) -> None:
    module("commons.backend_utils")._backend_engine = backend


def seed_keras(name: str, folder: Path) -> None:
    """Let DeepFace build the network, and save seeded weights where its loader would read them."""
    weights = module("commons.weight_utils")
    load, download = weights.load_model_weights, weights.download_weights_if_necessary

    def seed(model: Any, weight_file: str) -> Any:
        seeds = seeded.Seeds(name)
        owners = [layer for layer in model.layers if layer.weights]
        found = [(type(o).__name__, [tuple(weight.shape) for weight in o.weights]) for o in owners]
        for layer, (kind, shapes) in zip(owners, found, strict=True):
            layer.set_weights(seeded.keras_layer(kind, shapes, seeds))
        (folder / f"{name}.layers.json").write_text(json.dumps(found))
        # GhostFaceNet's author publishes whole models, the others weights.
        (model.save if name == "GhostFaceNet" else model.save_weights)(weight_file)
        return model

    def path(file_name: str, **_: Any) -> str:
        return str(
            Path(module("commons.folder_utils").get_deepface_home(), ".deepface/weights", file_name)
        )

    weights.load_model_weights, weights.download_weights_if_necessary = seed, path
    try:
        client(name)
    finally:
        weights.load_model_weights, weights.download_weights_if_necessary = load, download


def seed_torch(name: str) -> None:
    """DeepFace's PyTorch network with seeded weights as an ONNX graph that takes images channels last."""
    torch: Any = importlib.import_module("torch")
    modeling, weights = module("modules.modeling"), module("commons.weight_utils")
    switch("pytorch")
    source: Any = importlib.import_module(
        modeling.get_model_class(task=task(name), model_name=name).__module__
    )
    kept = weights.download_weights_if_necessary
    weights.download_weights_if_necessary = lambda **_: ""
    source.load_model_weights = lambda model, weight_file: seed_modules(model, name).eval()
    try:
        built = client(name)
    finally:
        weights.download_weights_if_necessary = kept

    class ChannelsLast(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = built.model

        def forward(self, x: Any) -> Any:
            return self.inner(x.permute(0, 3, 1, 2))

    if name == "Emotion":
        shape = (48, 48, 1)
    elif name in ATTRIBUTES:
        shape = (224, 224, 3)
    else:
        shape = (*reversed(built.input_shape), 3)
    torch.onnx.export(
        ChannelsLast().eval(),
        (torch.zeros((2, *shape)),),
        onnx_file(name),
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
        dynamo=False,
    )
    switch("onnx")


def seed_modules(model: Any, name: str) -> Any:
    torch = importlib.import_module("torch")
    seeds = seeded.Seeds(name)
    with torch.no_grad():
        for part in model.modules():
            own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
            for key, value in own:
                if value.is_floating_point():
                    value.copy_(
                        torch.from_numpy(torch_weights(part, key, tuple(value.shape), seeds))
                    )
    return model


def torch_weights(part: Any, key: str, shape: tuple[int, ...], seeds: Any) -> Any:
    kind = type(part).__name__
    if kind == "PReLU":
        return seeds.around(shape, 0.25)
    if kind.startswith("BatchNorm") and key in ("weight", "running_var"):
        return seeds.around(shape, seeds.gain if key == "weight" else 1.0)
    if key == "weight" and len(shape) > 1:
        seen = shape[2] if kind == "LocallyConnected2d" else np.prod(shape[1:])
        return seeds.kernel(shape, float(seen))
    return seeds.normal(shape, 0.1)


def onnx_file(name: str) -> str:
    """Where DeepFace's ONNX backend will look for it."""
    switch("onnx")
    found: list[str] = []
    weights = module("commons.weight_utils")
    kept = weights.download_weights_if_necessary

    def note(file_name: str, **_: Any) -> str:
        found.append(file_name)
        raise LookupError

    weights.download_weights_if_necessary = note
    try:
        client(name)
    except LookupError:
        pass
    finally:
        weights.download_weights_if_necessary = kept
    return str(
        Path(module("commons.folder_utils").get_deepface_home(), ".deepface/weights", found[0])
    )


def answers(name: str, images: Any) -> dict[str, Any]:
    """Of each image alone, and of all together."""
    built = client(name)
    ask: Callable[[Any], Any] = built.predict if name in ATTRIBUTES else built.forward
    alone = [np.asarray(ask(image[None])).reshape(-1) for image in images]
    return {"single": np.stack(alone), "batch": np.asarray(ask(images)).reshape(len(images), -1)}


def represented(name: str, jobs: list[dict[str, Any]]) -> list[Any]:
    """The embeddings of each job's photograph by `DeepFace.represent`, or by `analyze`."""
    deepface = module("DeepFace")
    rows: list[Any] = []
    for job in jobs:
        if name in ATTRIBUTES:
            found = deepface.analyze(**job, actions=[name.lower()], silent=True)
            value = found[0][name.lower()]
            rows.append([float(v) for v in value.values()] if isinstance(value, dict) else [value])
        else:
            found = deepface.represent(**job, model_name=name, max_faces=1)
            area = {k: v for k, v in found[0]["facial_area"].items() if v is not None}
            rows.append(([float(v) for v in found[0]["embedding"]], area))
    return rows


def main() -> None:
    backend, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    inputs, jobs = np.load(folder / "inputs.npz"), json.loads((folder / "jobs.json").read_text())
    if backend == "tensorflow":
        # TensorFlow above 2.12 is refused for the sake of a layer that legacy Keras has.
        module("models.facial_recognition.tf.FbDeepFace").tf_minor = 12
    for name in names:
        if backend == "tensorflow":
            seed_keras(name, folder)
        else:
            seed_torch(name)
        np.savez(folder / f"{name}.{backend}.npz", **answers(name, inputs[name]))
        if backend == "tensorflow" and jobs.get(name):
            rows = represented(name, jobs[name])
            (folder / f"{name}.represent.json").write_text(json.dumps(rows, default=int))
        getattr(module("modules.modeling"), "cached_models", {}).pop(task(name), None)
        vars(module("modules.modeling")).pop("cached_models", None)
        gc.collect()
        print(json.dumps({"done": name}), flush=True)


if __name__ == "__main__":
    main()
