"""`facesearch models`: real weights from a mirror on this machine, and a model that is published at an address."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

from indexer import own_models
from indexer.cli import main
from recognition import registry
from recognition.weights import Weights, WeightsCache
from tests.recognition.publisher import Publisher, publishing

DATA = random.Random(3).randbytes(500_000)
SHA = hashlib.sha256(DATA).hexdigest()
MTCNN = registry.DETECTORS["mtcnn"].weights
Run = Callable[..., Result]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing(files={"far.onnx": DATA}) as started:
        yield started


@pytest.fixture
def far(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A model called Far, which only an address has and whose licence forbids commercial use."""
    weights = Weights(
        name="far.onnx", sha256=SHA, licence="research only", origin="this test",
        urls=(f"{publisher.url}/far.onnx",), non_commercial=True,
    )  # fmt: skip
    spec = replace(registry.MODELS["Dlib"], name="Far", licence="research only", weights=(weights,))
    monkeypatch.setattr(own_models, "BUILT_IN", registry.Models({**registry.MODELS, "Far": spec}))
    return weights


@pytest.fixture
def packaged(far: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Far and what packages carry: nothing that another address has is looked for."""
    far_spec = own_models.BUILT_IN.specs["Far"]
    models = {"Dlib": registry.MODELS["Dlib"], "Far": far_spec}
    monkeypatch.setattr(own_models, "BUILT_IN", registry.Models(models))
    for name in ("DETECTORS", "ATTRIBUTES", "ANTI_SPOOFING"):
        kept = {
            known: spec
            for known, spec in getattr(registry, name).items()
            if all(weights.package for weights in spec.weights)
        }
        monkeypatch.setattr(registry, name, MappingProxyType(kept))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FACESEARCH_HOME", str(tmp_path))

    def invoke(*arguments: str, code: int = 0, **settings: str) -> Result:
        environment = {f"FACESEARCH_{name.upper()}": value for name, value in settings.items()}
        result = CliRunner().invoke(main, ["models", *arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def mirror(publisher: Publisher, weights_cache: WeightsCache) -> str:
    """The machine's own MTCNN files, under their names."""
    for weights, path in zip(MTCNN, weights_cache.ensure(MTCNN), strict=True):
        publisher.files[f"m/{weights.name}"] = path.read_bytes()
    return f"{publisher.url}/m"


def test_pull_and_check(run: Run, publisher: Publisher, mirror: str, tmp_path: Path) -> None:
    result = run("pull", "mtcnn", weights_mirror=mirror)
    assert f"fetching {MTCNN[0].name}" in result.stderr
    assert [path for path, _ in publisher.asked] == [f"m/{w.name}" for w in MTCNN]
    rows = json.loads(run("pull", "mtcnn", "--json").stdout)
    assert {row["file"]: row["state"] for row in rows} == dict.fromkeys(
        (w.name for w in MTCNN), "here"
    )
    states = {row["file"]: row["state"] for row in json.loads(run("check", "--json").stdout)}
    assert states[MTCNN[0].name] == "valid"
    assert states["emotion_model.hdf5"] == "missing"
    (tmp_path / "weights" / MTCNN[0].name).write_bytes(b"something else")
    rows = json.loads(run("check", "--json", code=1).stdout)
    assert [row["file"] for row in rows if row["state"] == "wrong"] == [MTCNN[0].name]
    assert "wrong" in run("check", code=1).stdout
    failed = run("pull", "mtcnn", "--json", code=1)
    states = {row["file"]: row["state"] for row in json.loads(failed.stdout)}
    assert list(states.values()) == ["failed", "here", "here"]
    assert MTCNN[0].sha256 in failed.stderr


def test_what_an_address_publishes(run: Run, far: Weights, tmp_path: Path) -> None:
    (row,) = [r for r in json.loads(run("list", "--json").stdout) if r["name"] == "Far"]
    assert (row["dimension"], row["licence"], row["non_commercial"]) == (128, "research only", True)
    assert row["available"] is False
    (file,) = row["files"]
    assert (file["urls"], file["sha256"]) == (list(far.urls), SHA)
    assert file["path"] == str(tmp_path / "weights" / "far.onnx")
    assert "forbidden" in run("list").stdout
    (row,) = json.loads(run("pull", "Far", "--json").stdout)
    assert (row["state"], row["bytes"], row["sha256"]) == ("fetched", len(DATA), SHA)
    assert (tmp_path / "weights" / "far.onnx").read_bytes() == DATA
    (row,) = [r for r in json.loads(run("list", "--json").stdout) if r["name"] == "Far"]
    assert row["available"] is True


def test_json_has_no_progress(run: Run, far: Weights) -> None:
    assert run("pull", "Far", "--json").stderr == ""


def test_without_names_nothing_large_is_fetched(
    run: Run, packaged: None, publisher: Publisher, weights_cache: WeightsCache, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    for path in weights_cache.folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            (tmp_path / "weights" / path.name).symlink_to(path)
    rows = json.loads(run("pull", "--json").stdout)
    assert "far.onnx" not in {row["file"] for row in rows}
    assert publisher.asked == []
    rows = json.loads(run("pull", "--json", "--all", allow_non_commercial="false").stdout)
    assert {row["file"]: row["state"] for row in rows}["far.onnx"] == "refused"
    rows = json.loads(run("pull", "--json", "--all").stdout)
    assert {row["file"]: row["state"] for row in rows}["far.onnx"] == "fetched"


def test_an_address_that_does_not_answer(run: Run, far: Weights, publisher: Publisher) -> None:
    publisher.files.clear()
    result = run("pull", "Far", "--json", code=1)
    (row,) = json.loads(result.stdout)
    assert row["state"] == "failed"
    for part in ("far.onnx", far.urls[0], SHA, "weights", "404"):
        assert part in row["error"]
        assert part in result.stderr


def test_a_refused_licence(run: Run, far: Weights, publisher: Publisher) -> None:
    result = run("pull", "Far", code=1, allow_non_commercial="false")
    for part in ("Far", "research only", "FACESEARCH_ALLOW_NON_COMMERCIAL"):
        assert part in result.stderr
    assert publisher.asked == []
    image = CliRunner().invoke(
        main, ["represent", "x.jpg", "--model", "Far"],
        env={"FACESEARCH_ALLOW_NON_COMMERCIAL": "false"},
    )  # fmt: skip
    assert image.exit_code == 1
    assert "research only" in image.stderr


@pytest.mark.parametrize("address", ["http://example.org/weights", "file:///weights", "weights"])
def test_a_mirror_must_be_https(run: Run, address: str) -> None:
    result = run("list", code=1, weights_mirror=address)
    assert "FACESEARCH_WEIGHTS_MIRROR" in result.stderr
    assert "https" in result.stderr
