"""What the values between Dlib's layers are on photographs, for the network of eight bits.

    python -m benchmarks.calibrate TREE > recognition/formats/dlib_ranges.py

From 200 photographs of the tree, taken at even distances, as they are and mirrored.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from indexer import labelled
from indexer.settings import Settings
from indexer.workshop import recognizer
from recognition.formats import int8
from recognition.images import ImageLimits
from recognition.models import dlib
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime

PHOTOGRAPHS = 200
DIGITS = 4
HEAD = '''"""Least and greatest values between the layers of Dlib's network on faces, by `benchmarks.calibrate`."""

from __future__ import annotations

from recognition.formats.int8 import Ranges

RANGES: Ranges = {'''


def shown(graph: bytes) -> onnx.ModelProto:
    """The graph with what is between its layers as outputs."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    layers = [node for node in model.graph.node if node.op_type in int8.LAYERS]
    used = {name for node in layers for name in (*node.input, *node.output)}
    between = [value.name for value in model.graph.value_info if value.name in used]
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in between
    )
    return model


def observe(graph: bytes, batches: Iterable[NDArray[np.uint8]]) -> dict[str, tuple[float, float]]:
    """The ranges of a graph that is shown those batches."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.onnx"
        onnx.save(shown(graph), path)
        session = Runtime(1).session(path)
    found = dict.fromkeys(session.outputs, (np.inf, -np.inf))
    for batch in batches:
        for name, values in zip(session.outputs, session(batch), strict=True):
            low, high = found[name]
            found[name] = min(low, float(values.min())), max(high, float(values.max()))
    return found


def crops(seer: Recognizer, files: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    """The most prominent face of each file, and its mirror image."""
    recipe = Recipe("Dlib", "mediapipe")
    for path in files:
        image = seer.decode(path.read_bytes(), ImageLimits())
        (faces,) = seer.detect([image], recipe.detector, Selection(1))
        for face in faces:
            crop = seer.crop(image, face, recipe)
            yield np.stack([crop, crop[:, ::-1]])


def main() -> None:
    tree = labelled.read_tree(Path(sys.argv[1]))
    step = max(1, len(tree.files) // PHOTOGRAPHS)
    files = [tree.root / file for file in tree.files[::step][:PHOTOGRAPHS]]
    seer = recognizer(Settings())
    graph = dlib.network(seer.resources).read_bytes()
    print(HEAD)
    for name, (low, high) in observe(graph, crops(seer, files)).items():
        print(f'    "{name}": ({low:.{DIGITS}g}, {high:.{DIGITS}g}),')
    print("}")


if __name__ == "__main__":
    main()
