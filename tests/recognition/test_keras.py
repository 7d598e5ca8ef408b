"""DeepFace's networks with seeded weights: files in its format give the vectors that DeepFace computed (proof/).

Networks are built by Keras on OpenVINO, as TensorFlow is too large for every test run; both run the same Keras code.
The small networks are converted and run; of the large ones, weights are compared by shape and order.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from proof import models_seeded
from recognition import registry
from recognition.attributes import deepface as attributes
from recognition.embedder import Input, NetworkEmbedder
from recognition.errors import BadWeights, WeightsMissing
from recognition.keras.published import Published
from recognition.models import (
    arcface,
    deepid,
    facenet,
    fb_deepface,
    ghostfacenet,
    openface,
    vgg_face,
)
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Attributes, Rgb
from recognition.weights import WeightsCache

CANONICAL = json.loads((Path(__file__).parent / "canonical" / "keras.json").read_text())
PUBLISHED = {
    "DeepID": deepid.PUBLISHED,
    "OpenFace": openface.PUBLISHED,
    "GhostFaceNet": ghostfacenet.PUBLISHED,
    "Facenet": facenet.PUBLISHED,
    "ArcFace": arcface.PUBLISHED,
    "Emotion": attributes.EMOTION,
    "Facenet512": facenet.PUBLISHED_512,
    "DeepFace": fb_deepface.PUBLISHED,
    "VGG-Face": vgg_face.PUBLISHED,
    "Age": attributes.AGE,
    "Gender": attributes.GENDER,
    "Race": attributes.RACE,
}
SMALL = ("DeepID", "OpenFace", "GhostFaceNet", "Facenet", "ArcFace", "Emotion")

Layers = list[tuple[str, list[tuple[int, ...]]]]


def layers(name: str) -> Layers:
    """Kind and shapes of the weights of each layer that DeepFace's network has, in the order of its file."""
    told = [line.split() for line in CANONICAL[name]["layers"]]
    return [(kind, [tuple(map(int, s.split("x"))) for s in shapes]) for kind, *shapes in told]


def save(path: Path, found: Layers, seeds: models_seeded.Seeds) -> None:
    """Seeded weights as Keras 2 saves them."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [f"layer_{i}".encode() for i in range(len(found))]
        for i, (kind, shapes) in enumerate(found):
            group = file.create_group(f"layer_{i}")
            arrays = models_seeded.keras_layer(kind, shapes, seeds)
            group.attrs["weight_names"] = [f"array_{j}".encode() for j in range(len(arrays))]
            for j, array in enumerate(arrays):
                group.create_dataset(f"array_{j}", data=array)


@dataclass(frozen=True)
class Fake:
    """Seeded weights of a network, in a weights folder of their own."""

    name: str
    resources: Resources


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "openvino")


def resources_at(folder: Path) -> Resources:
    return Resources(WeightsCache(folder, download=False), Runtime(threads=2))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fake]:
    return {
        name: Fake(name, resources_at(tmp_path_factory.mktemp(name, numbered=False)))
        for name in SMALL
    }


@pytest.fixture
def fake(request: pytest.FixtureRequest, converted: dict[str, Fake]) -> Fake:
    """Each is converted by the first test that asks for it."""
    chosen = converted[request.param]
    path = chosen.resources.weights.folder / PUBLISHED[chosen.name].keras.name
    if not path.exists():
        save(path, layers(chosen.name), models_seeded.Seeds(chosen.name))
    return chosen


def waves(size: tuple[int, int]) -> list[Rgb]:
    return [(255 * wave).round().astype(np.uint8) for wave in models_seeded.waves(*size)]


def values(found: Attributes) -> list[float]:
    return [v / 100 for v in (found.gender or found.race or found.emotion or {}).values()]


@pytest.mark.parametrize("fake", SMALL, indirect=True)
def test_the_vectors_are_those_of_deepface(fake: Fake) -> None:
    rows: NDArray[Any]
    if fake.name == "Emotion":
        attribute = registry.attribute("emotion_deepface").build(fake.resources)
        rows = np.array([values(a) for a in attribute.predict(waves((224, 224)))])
    else:
        spec = registry.MODELS[fake.name]
        rows = spec.build(fake.resources).embed(waves(spec.input_size), "deepface", "base")
        assert rows.shape == (2, spec.dimension)
    expected = np.array(CANONICAL[fake.name]["waves"])
    scale = float(abs(expected).max())
    np.testing.assert_allclose(rows[:, : expected.shape[1]], expected, rtol=0, atol=2e-4 * scale)
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(lengths, CANONICAL[fake.name]["lengths"], rtol=2e-4)


@pytest.mark.parametrize("fake", SMALL[:-1], indirect=True)
def test_the_batch_does_not_matter(fake: Fake) -> None:
    spec = registry.MODELS[fake.name]
    embedder = spec.build(fake.resources)
    crops = waves(spec.input_size)
    alone = np.concatenate([embedder.embed([crop], "native", "base") for crop in crops])
    together = embedder.embed(crops * 20, "native", "base")
    np.testing.assert_allclose(together, np.tile(alone, (20, 1)), atol=1e-4 * abs(alone).max())
    assert embedder.embed([], "native", "base").shape == (0, spec.dimension)


def test_every_network_has_the_weights_of_deepface_in_their_order() -> None:
    """Built in one process of their own, so that Keras stays out of this one."""
    networks = {name: published.network for name, published in PUBLISHED.items()}
    code = """
        import json, pkgutil, sys
        for name, path in json.loads(sys.argv[1]).items():
            own = [layer for layer in pkgutil.resolve_name(path)().layers if layer.weights]
            shapes = [[type(o).__name__, [list(w.shape) for w in o.weights]] for o in own]
            print(json.dumps([name, shapes]))
    """
    found = dict(json.loads(line) for line in run(code, json.dumps(networks)))
    assert set(found) == set(CANONICAL)
    for name, own in found.items():
        assert [(kind, [tuple(s) for s in shapes]) for kind, shapes in own] == layers(name), name


def test_locally_connected_layers_compute_what_they_should(tmp_path: Path) -> None:
    """Against sums written out; too large in DeepFace's network to be run whole."""
    code = """
        import sys
        import numpy as np, onnx
        from recognition.keras import graph, layers as k
        inputs = k.Input((7, 6, 2))
        network = k.Model(inputs, k.Flatten()(k.LocallyConnected2D(3, 3, stride=2)(inputs)))
        random = np.random.default_rng(3)
        weights = [random.standard_normal(w.shape).astype("f") for w in network.layers[1].weights]
        network.layers[1].set_weights(weights)
        onnx.save(graph.write(network), sys.argv[1] + "/graph.onnx")
        np.savez(sys.argv[1] + "/weights.npz", *weights)
    """
    run(code, str(tmp_path))
    kernel, bias = np.load(tmp_path / "weights.npz").values()
    images = np.random.default_rng(4).standard_normal((2, 7, 6, 2)).astype(np.float32)
    (found,) = Runtime(threads=1).session(tmp_path / "graph.onnx")(images)
    assert kernel.shape == (6, 18, 3)
    expected = np.zeros((2, 3, 2, 3), np.float32)
    for y, x in np.ndindex(3, 2):
        patches = images[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3].reshape(2, -1)
        expected[:, y, x] = np.maximum(0, patches @ kernel[2 * y + x] + bias[y, x])
    np.testing.assert_allclose(found, expected.reshape(2, -1), atol=1e-5)


@pytest.mark.parametrize("fake", ["DeepID"], indirect=True)
def test_who_serves_imports_neither_keras_nor_tensorflow(fake: Fake) -> None:
    """Even where it has just had weights converted."""
    code = """
        import sys
        from pathlib import Path
        import numpy as np
        import service.app
        from recognition import registry
        from recognition.pipeline import Recognizer
        from recognition.runtime import Runtime
        from recognition.spec import Resources
        from recognition.weights import WeightsCache
        resources = Resources(WeightsCache(Path(sys.argv[1]), download=False), Runtime(threads=1))
        crops = [np.zeros((55, 47, 3), np.uint8)]
        rows = Recognizer(resources).embedder("DeepID").embed(crops, "deepface", "base")
        names = {name.partition(".")[0] for name in sys.modules}
        print(rows.shape, names & {"keras", "tensorflow", "openvino", "tf_keras"})
    """
    assert run(code, str(fake.resources.weights.folder)) == ["(1, 160) set()"]


def test_the_published_graph_comes_first(tmp_path: Path) -> None:
    graph(tmp_path / "deepid_weights.onnx", (55, 47, 3), 160)
    (tmp_path / "deepid_keras_weights.h5").write_bytes(b"never looked at")
    embedder = registry.MODELS["DeepID"].build(resources_at(tmp_path))
    white = np.full((55, 47, 3), 255, np.uint8)
    rows = embedder.embed([white, white], "deepface", "base")
    assert rows == pytest.approx(np.full((2, 160), 55 * 47 * 3))


def test_a_graph_with_another_input_is_refused(tmp_path: Path) -> None:
    graph(tmp_path / "deepid_weights.onnx", (47, 55, 3), 160)
    with pytest.raises(BadWeights, match="not \\(n, height, width, channels\\)"):
        registry.MODELS["DeepID"].build(resources_at(tmp_path))


def test_a_graph_for_one_face_at_a_time_gets_them_so(tmp_path: Path) -> None:
    graph(tmp_path / "one.onnx", (4, 4, 3), 5, batch=1)
    session = Runtime(threads=1).session(tmp_path / "one.onnx")
    embedder = NetworkEmbedder(session, Input(size=(4, 4), layout="nhwc"), 5)
    rows = embedder.embed([np.full((4, 4, 3), v, np.uint8) for v in (1, 2)], "native", "base")
    assert rows.tolist() == [[48.0] * 5, [96.0] * 5]


def test_unit_rows_have_length_one(tmp_path: Path) -> None:
    graph(tmp_path / "one.onnx", (4, 4, 3), 4)
    session = Runtime(threads=1).session(tmp_path / "one.onnx")
    embedder = NetworkEmbedder(session, Input(size=(4, 4), layout="nhwc"), 4, unit=True)
    rows = embedder.embed([np.full((4, 4, 3), v, np.uint8) for v in (0, 9)], "native", "base")
    assert rows.tolist() == [[0.0] * 4, [0.5] * 4]


def test_without_keras_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "keras.py").write_text("raise ModuleNotFoundError(\"No module named 'tensorflow'\")")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    save(tmp_path / "deepid_keras_weights.h5", layers("DeepID"), models_seeded.Seeds("DeepID"))
    with pytest.raises(WeightsMissing) as error:
        registry.MODELS["DeepID"].build(resources_at(tmp_path))
    text = str(error.value)
    for part in ("facesearch[keras]", "deepid_weights.onnx", str(tmp_path), "No module named"):
        assert part in text


def test_with_no_file_the_error_names_both(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as error:
        registry.attribute("race").build(resources_at(tmp_path))
    text = str(error.value)
    assert "race_model_single_batch.onnx (https://" in text
    assert "race_model_single_batch.h5 (https://" in text
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found[:-1], "5 layers, the network 6"),
        (lambda found: [found[1], found[0], *found[2:]], "layer 1, layer_0, has weights"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "deepid_keras_weights.h5"
    save(path, change(layers("DeepID")), models_seeded.Seeds("DeepID"))
    with pytest.raises(BadWeights, match=said):
        registry.MODELS["DeepID"].build(resources_at(tmp_path))


def test_other_weights_are_another_graph(tmp_path: Path) -> None:
    """A file without a published hash may be replaced: what was made of the old one must not answer for the new one."""
    path, cache = tmp_path / "deepid_keras_weights.h5", WeightsCache(tmp_path, download=False)
    graphs = set()
    for name in ("one", "another"):
        save(path, layers("DeepID"), models_seeded.Seeds(name))
        graphs.add(PUBLISHED["DeepID"].graph(cache).read_bytes())
        assert PUBLISHED["DeepID"].graph(cache).read_bytes() in graphs
    assert len(graphs) == 2


@pytest.mark.parametrize("fake", ["Emotion"], indirect=True)
def test_a_setting_chooses_between_networks_for_one_action(fake: Fake) -> None:
    chosen = Recognizer(fake.resources, attributes="deepface")
    (found,) = chosen.attribute("emotion").predict(waves((224, 224))[:1])
    assert values(found) == pytest.approx(CANONICAL["Emotion"]["waves"][0], abs=1e-4)
    assert registry.for_action("emotion", "packaged").name == "emotion"
    assert registry.for_action("age", "deepface").name == "age_deepface"
    assert registry.for_action("race", "packaged").name == "race"


def test_race_is_usual_only_where_its_weights_are(tmp_path: Path) -> None:
    recognizer = Recognizer(resources_at(tmp_path))
    assert recognizer.usual_actions() == ("age", "gender", "emotion")
    (tmp_path / "race_model_single_batch.h5").touch()
    assert recognizer.usual_actions() == ("age", "gender", "race", "emotion")


def test_race_and_age_of_probabilities(tmp_path: Path) -> None:
    """Of graphs that answer alike for all: shares by class, and years by their expectation."""
    graph(tmp_path / "race_model_single_batch.onnx", (224, 224, 3), 6)
    graph(tmp_path / "age_model_weights.onnx", (224, 224, 3), 101)
    recognizer, crops = Recognizer(resources_at(tmp_path), attributes="deepface"), waves((224, 224))
    (first, _) = recognizer.attribute("race").predict(crops)
    assert list(first.race or {}) == list(attributes.RACES)
    assert list((first.race or {}).values()) == pytest.approx([100 / 6] * 6)
    assert [a.age for a in recognizer.attribute("age").predict(crops)] == pytest.approx([50, 50])


def graph(path: Path, shape: tuple[int, int, int], out: int, batch: int | None = None) -> None:
    """A network that answers with the sum of its input, `out` times."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch or "n", *shape])
    told = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch or "n", out])
    size = helper.make_tensor("size", TensorProto.INT64, [2], [1, out])
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "one"], ["column"]),
        helper.make_node("Tile", ["column", "size"], ["y"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    made = helper.make_graph(nodes, "sum", [given], [told], [size, axes, one])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(made, opset_imports=[opset], ir_version=8), str(path))


def run(code: str, argument: str) -> list[str]:
    """Lines that a process of its own prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), argument]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_published_network_is_served() -> None:
    named = {published.onnx.name for published in PUBLISHED.values()}
    specs = [*registry.MODELS.values(), *registry.ATTRIBUTES.values()]
    served = {spec.weights[0].name for spec in specs if spec.alternatives}
    assert named == served
    assert isinstance(PUBLISHED["Race"], Published)
