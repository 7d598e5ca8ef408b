"""Requests that the OpenAPI document allows and that nobody would send, to a real server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fuzzing import requests
from fuzzing.material import Material, photographs
from indexer.embedded import EmbeddedPostgres
from recognition.weights import WeightsCache
from tests.service.conftest import Server, running

COUNT = 1200


@pytest.fixture(scope="module")
def fuzzed(weights_cache: WeightsCache) -> Iterator[Server]:
    """A server with a home of its own: whatever is in it may be erased."""
    folder = Path(tempfile.mkdtemp(prefix="facesearch-fuzzed-"))
    folder.chmod(0o755)
    (folder / "weights").symlink_to(weights_cache.folder)
    with running(folder, folder / "log", keep_uploads="true") as server:
        yield server
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_no_request_is_a_500(fuzzed: Server, weights_cache: WeightsCache, tmp_path: Path) -> None:
    material = Material(photographs(weights_cache))
    tally = requests.against(fuzzed.url, material, COUNT, 3, tmp_path / "finds")
    assert tally.finds == []
    assert tally.sent + tally.unsendable == COUNT
    assert dict(tally.unlisted) == {}
    assert tally.statuses[200] > COUNT / 10
    assert len(tally.operations) > 20
    assert httpx.get(f"{fuzzed.url}/readyz", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"embedding": "null"},
        {"embedding": "null", "normalization": "Facenet2018"},
        {"filter": "null"},
    ],
)
def test_what_was_found(fuzzed: Server, body: dict[str, str]) -> None:
    for sent in ({"data": body}, {"json": body}):
        answer = httpx.post(f"{fuzzed.url}/find", trust_env=False, **sent)
        assert answer.status_code in (404, 409, 422), answer.text
