"""The user's own models: what a file may say, what is refused and how, and what makes a space another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from indexer import own_models
from recognition import registry
from recognition.errors import ModelUnavailable, NoThreshold, UnknownName
from recognition.pipeline import Recipe, Recognizer, space_version
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Rgb
from recognition.weights import WeightsCache
from tests import own_model


def recognizer(folder: Path, cache: WeightsCache) -> Recognizer:
    return Recognizer(Resources(weights=cache, runtime=Runtime(1)), own_models.load(folder))


def crops(count: int) -> list[Rgb]:
    made = np.random.default_rng(4).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)
    return list(made)


def test_no_folder_is_no_model(tmp_path: Path) -> None:
    models = own_models.load(tmp_path / "models")
    assert set(models.specs) == set(registry.MODELS)
    assert models.broken == ()


def test_the_network_is_given_what_the_file_says(
    tmp_path: Path, weights_cache: WeightsCache
) -> None:
    own_model.write(tmp_path, seed=7)
    recognise = recognizer(tmp_path, weights_cache)
    recipe = Recipe.usual(recognise.models.named(" tiny "), "skip")
    faces = crops(3)
    matrix = np.random.default_rng(7).normal(size=(192, own_model.DIMENSION))

    def expected(images: list[Rgb]) -> np.ndarray:
        values = (np.stack(images).astype(np.float64) - 127.5) / 128
        cells = values.reshape(-1, 8, 14, 8, 14, 3).mean(axis=(2, 4))
        return cells.transpose(0, 3, 1, 2).reshape(len(images), -1) @ matrix

    mirrored = [image[:, ::-1] for image in faces]
    mean = (expected(faces) + expected(mirrored)) / 2
    assert np.allclose(recognise.embed(faces, recipe), mean, atol=1e-4)


def test_a_graph_for_one_face_at_a_time(tmp_path: Path, weights_cache: WeightsCache) -> None:
    own_model.write(tmp_path)
    many = recognizer(tmp_path, weights_cache)
    together = many.embed(crops(3), Recipe.usual(many.models.named("Tiny"), "skip"))
    onnx.save(own_model.graph(1, batch=1), tmp_path / "tiny.onnx")
    single = recognizer(tmp_path, weights_cache)
    rows = single.embed(crops(3), Recipe.usual(single.models.named("Tiny"), "skip"))
    assert np.allclose(rows, together, atol=1e-5)


def test_thresholds_that_follow_and_one_that_does_not(tmp_path: Path) -> None:
    own_model.write(tmp_path, threshold=0.5)
    spec = own_models.load(tmp_path).named("Tiny")
    assert spec.threshold("mtcnn", "cosine").slope == 9.0
    assert spec.threshold("mtcnn", "euclidean_l2").value == pytest.approx(1.0)
    assert spec.threshold("mtcnn", "angular").value == pytest.approx(1 / 3)
    assert "follows from cosine" in spec.threshold("mtcnn", "angular").data
    with pytest.raises(NoThreshold, match="euclidean"):
        spec.threshold("mtcnn", "euclidean")
    assert spec.threshold("mtcnn", "euclidean", otherwise=3.0).value == 3.0
    for align in ("none", "deepface"):
        with pytest.raises(NoThreshold, match=align):
            spec.threshold("mtcnn", "cosine", align)
    (tmp_path / "tiny.toml").write_text(
        (tmp_path / "tiny.toml").read_text().replace('"arcface"', '"box"')
    )
    boxed = own_models.load(tmp_path).named("Tiny")
    assert boxed.threshold("mtcnn", "cosine", "none").value == 0.5


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "not TOML": (lambda s: s + "\n[", "it cannot be read"),
    "no licence": (lambda s: s.replace("licence", "license"), "licence: Field required"),
    "an unknown key": (lambda s: "colour = 1\n" + s, "colour: Extra inputs"),
    "a colour": (lambda s: s.replace('"rgb"', '"grey"'), "input.colour: Input should be 'rgb'"),
    "a mean of two": (lambda s: s.replace("127.5", "[1.0, 2.0]"), "input.mean: must be one number"),
    "points": (lambda s: s.replace('"arcface"', "[[1.0, 2.0]]"), "input.template: must be"),
    "a size": (lambda s: s.replace("[112, 112]", "[96, 112]"), "input: template = "),
    "a margin": (lambda s: s.replace("layout", "margin = 0.5\nlayout"), "margin is only for"),
    "a metric": (lambda s: s.replace("cosine", "cosinus"), "thresholds"),
    "a negative threshold": (lambda s: s.replace("0.2", "-0.2"), "thresholds.cosine.value"),
    "no graph": (lambda s: s.replace("tiny.onnx", "none.onnx"), "none.onnx cannot be read"),
    "a path": (lambda s: s.replace('"tiny.onnx"', '"/etc/passwd"'), "must be relative"),
    "another hash": (lambda s: f'sha256 = "{"0" * 64}"\n' + s, "sha256: "),
    "a taken name": (lambda s: s.replace('"Tiny"', '"dlib"'), "name: 'dlib' is a built-in model"),
    "a name": (lambda s: s.replace('"Tiny"', '"a/b"'), "name: String should match"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_file_is_told_and_takes_out_only_itself(what: str, tmp_path: Path) -> None:
    spoil, reason = WRONG[what]
    own_model.write(tmp_path, "Other")
    path = own_model.write(tmp_path)
    path.write_text(spoil(path.read_text()))
    models = own_models.load(tmp_path)
    assert [broken.path for broken in models.broken] == [path]
    assert reason in models.broken[0].reason
    assert "Other" in models.specs
    if what not in ("a taken name", "a name"):
        for ask in (models.named, models.installed):
            with pytest.raises(ModelUnavailable, match=r"tiny\.toml"):
                ask("tiny" if what == "not TOML" else "Tiny")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    own_model.write(tmp_path)
    second = tmp_path / "tiny2.toml"
    second.write_text((tmp_path / "tiny.toml").read_text())
    (broken,) = own_models.load(tmp_path).broken
    assert broken.path == second
    assert "tiny.toml already" in broken.reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: s.replace("dimension = 64", "dimension = 128"), "the network gives 64 values"),
        (lambda s: s.replace("nchw", "nhwc"), "input: the network does not run on it"),
        (lambda s: s.replace("[112, 112]", "[224, 224]"), "input: the network does not run on it"),
    ],
)
def test_the_graph_is_held_against_the_file(
    spoil: Callable[[str], str], reason: str, tmp_path: Path, weights_cache: WeightsCache
) -> None:
    path = own_model.write(tmp_path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ModelUnavailable, match=r"tiny\.toml: ") as caught:
        recognizer(tmp_path, weights_cache).embedder("Tiny")
    assert reason in str(caught.value)


def test_no_graph_at_all(tmp_path: Path, weights_cache: WeightsCache) -> None:
    own_model.write(tmp_path)
    (tmp_path / "tiny.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelUnavailable, match=r"tiny\.onnx cannot be loaded"):
        recognizer(tmp_path, weights_cache).embedder("Tiny")


def test_a_graph_in_two_files_is_refused(tmp_path: Path, weights_cache: WeightsCache) -> None:
    own_model.write(tmp_path)
    onnx.save_model(
        own_model.graph(1), tmp_path / "tiny.onnx", save_as_external_data=True, location="t.data",
        size_threshold=0,
    )  # fmt: skip
    with pytest.raises(ModelUnavailable, match="save it as one file"):
        recognizer(tmp_path, weights_cache).embedder("Tiny")


def test_a_graph_that_changed_since_it_was_read(
    tmp_path: Path, weights_cache: WeightsCache
) -> None:
    own_model.write(tmp_path, seed=1)
    running = recognizer(tmp_path, weights_cache)
    own_model.write(tmp_path, seed=2)
    with pytest.raises(ModelUnavailable, match="restart"):
        running.embedder("Tiny")


def version(folder: Path) -> int:
    return space_version(own_models.load(folder).named("Tiny"))


def test_the_space_is_another_one_with_other_content(tmp_path: Path) -> None:
    path = own_model.write(tmp_path, seed=1)
    text, before = path.read_text(), version(tmp_path)
    assert 0 < before < 2**31
    path.write_text(text.replace("Cells of", "Small cells of").replace("0.2", "0.3"))
    assert version(tmp_path) == before, "words and thresholds change no embedding"
    seen = {before}
    for old, new in (
        ("127.5", "127.0"), ("128.0", "127.5"), ('"rgb"', '"bgr"'), ("true", "false"),
        ('"arcface"', '"box"'), ('"arcface"', "[[38,51],[74,51],[56,72],[42,92],[71,92]]"),
    ):  # fmt: skip
        path.write_text(text.replace(old, new))
        seen.add(version(tmp_path))
    own_model.write(tmp_path, seed=2)
    seen.add(version(tmp_path))
    assert len(seen) == 8


def test_embeddings_of_another_version_are_not_made(
    tmp_path: Path, weights_cache: WeightsCache
) -> None:
    own_model.write(tmp_path, seed=1)
    old = Recipe.usual(own_models.load(tmp_path).named("Tiny"), "skip")
    own_model.write(tmp_path, seed=2)
    recognise = recognizer(tmp_path, weights_cache)
    with pytest.raises(ModelUnavailable, match=r"tiny\.toml.*reindex"):
        recognise.embed(crops(1), old)
    now = old.with_names(recognise.models, None, None)
    assert now.version != old.version
    assert recognise.embed(crops(1), now).shape == (1, own_model.DIMENSION)


def test_names(tmp_path: Path) -> None:
    models = own_models.load(tmp_path)
    with pytest.raises(UnknownName, match="Dlib"):
        models.named("Tiny")
    with pytest.raises(ModelUnavailable, match=r"models.*\.toml|\.toml"):
        models.installed("Tiny")
