"""A model whose weights only an address has, in the service: never fetched while a request waits."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from indexer import own_models
from recognition import registry
from recognition.spec import Resources
from recognition.weights import Weights, WeightsCache
from service.app import create_app
from service.settings import ServiceSettings
from tests.recognition.publisher import Publisher, publishing
from tests.service.conftest import free_port, problem

SHA = "ab" * 32
KEY = "a-key-of-the-settings"
Serve = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing(files={"far.onnx": b"weights"}) as started:
        yield started


@pytest.fixture
def far(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A model called Far, and an attribute of that name for race."""
    weights = Weights(
        name="far.onnx", sha256=SHA, licence="research only", origin="this test",
        urls=(f"{publisher.url}/far.onnx",), non_commercial=True,
    )  # fmt: skip

    def build(resources: Resources) -> Any:
        return resources.weights.path(weights)

    changes = {"name": "Far", "weights": (weights,), "alternatives": (), "build": build}
    model = replace(registry.MODELS["Dlib"], **changes)
    race = replace(registry.ATTRIBUTES["race"], **changes)
    others = {name: spec for name, spec in registry.ATTRIBUTES.items() if name != "race"}
    monkeypatch.setattr(own_models, "BUILT_IN", registry.Models({**registry.MODELS, "Far": model}))
    monkeypatch.setattr(registry, "ATTRIBUTES", MappingProxyType({**others, "Far": race}))
    return weights


@pytest.fixture
def serve(tmp_path: Path, weights_cache: WeightsCache) -> Serve:
    (tmp_path / "weights").symlink_to(weights_cache.folder)

    @contextmanager
    def begin(**changes: object) -> Iterator[TestClient]:
        url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
        settings = ServiceSettings(home=tmp_path, database_url=url, **changes)  # type: ignore[arg-type]
        with TestClient(create_app(settings)) as client:
            yield client

    return begin


def represent(client: TestClient, image: bytes) -> httpx.Response:
    return client.post(
        "/represent",
        files={"img": io.BytesIO(image)},
        data={"model_name": "Far", "detector_backend": "skip"},
    )


def test_missing_weights_are_not_fetched_for_a_request(
    serve: Serve, far: Weights, publisher: Publisher, photos: dict[str, bytes], tmp_path: Path
) -> None:
    with serve() as client:
        detail = str(problem(represent(client, photos["obama"]), 503, "weights-missing")["detail"])
        for part in (
            "far.onnx", far.urls[0], SHA, str(tmp_path / "weights"), "facesearch models pull Far",
        ):  # fmt: skip
            assert part in detail
        (shown,) = [m for m in client.get("/models").json()["models"] if m["name"] == "Far"]
        assert (shown["available"], shown["non_commercial"], shown["refused"]) == (
            False, True, False,
        )  # fmt: skip
        (file,) = shown["weights"]
        assert file["urls"] == list(far.urls)
        assert file["folder"] == str(tmp_path / "weights")
        analyzed = client.post("/analyze", files={"img": io.BytesIO(photos["obama"])})
        assert {"age", "emotion"} <= set(analyzed.json()["results"][0]), "without Far"
        asked = client.post(
            "/analyze", files={"img": io.BytesIO(photos["obama"])}, data={"actions": "race"}
        )
        problem(asked, 503, "weights-missing")
    assert publisher.asked == []


def test_a_refused_licence(serve: Serve, far: Weights, photos: dict[str, bytes]) -> None:
    with serve(allow_non_commercial=False, api_keys=KEY) as client:
        client.headers["X-API-Key"] = KEY
        refused = represent(client, photos["obama"])
        detail = str(problem(refused, 403, "licence-refused")["detail"])
        for part in ("Far", "research only", "FACESEARCH_ALLOW_NON_COMMERCIAL"):
            assert part in detail
        job = client.post(
            "/admin/reindex",
            json={"gallery": "default", "model_name": "Far"},
        )
        problem(job, 403, "licence-refused")
        (shown,) = [m for m in client.get("/models").json()["models"] if m["name"] == "Far"]
        assert shown["refused"] is True
        assert client.post("/represent", files={"img": photos["obama"]}).status_code == 200
