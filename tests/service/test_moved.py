"""Galleries with another program's embeddings, over HTTP: photographs only where that means something."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.conftest import problem, quoted

STORE = "ds_model_dlib_detector_mtcnn_aligned_normalization_base_expand_0.npz"


def imported(home: Path, path: Path, gallery: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "indexer.cli", "import", str(path)),
            *("--json", "--gallery", gallery, *options),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "FACESEARCH_HOME": str(home)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def vectors() -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(5).normal(size=(3, 32))


def test_embeddings_of_another_program(
    client: httpx.Client, home: Path, gallery: str, tmp_path: Path, vectors: Any,
    photos: dict[str, bytes],
) -> None:  # fmt: skip
    path = tmp_path / "faces.npz"
    np.savez(path, names=np.array(["Ann", "Bob", "Cid"]), embeddings=vectors)
    done = imported(home, path, gallery, "--made-by", "a network")
    probe = {"embedding": vectors[1].tolist(), "gallery": gallery, "min_version": done["version"]}
    answer = client.post("/find", json=probe)
    assert problem(answer, 422, "no-threshold"), "nobody knows one"
    answer = client.post("/find", json={**probe, "threshold": 0.5})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "npz:a network/32"
    (match,) = answer.json()["results"][0]["matches"]
    assert (match["identity"], match["distance"], match["confidence"]) == ("Bob", 0, None)
    wrong = client.post("/find", json={**probe, "embedding": [1.0] * 31, "threshold": 0.5})
    assert problem(wrong, 422, "invalid-request")
    files, data = {"img": photos["obama"]}, {"gallery": gallery, "threshold": "0.5"}
    answer = client.post("/find", files=files, data=data)
    assert problem(answer, 503, "model-unavailable")
    assert "another program" in answer.json()["detail"]
    answer = client.post("/verify", files=files, data={**data, "identity": "Ann"})
    assert problem(answer, 503, "model-unavailable")
    people = f"/galleries/{quoted(gallery)}/identities"
    answer = client.post(f"{people}/Ann/images", files={"files": photos["obama"]})
    assert problem(answer, 503, "model-unavailable")
    assert client.get(people).json()["identities"][0]["images"] == 1


def test_deepfaces_embeddings_meet_photographs(
    client: httpx.Client, home: Path, gallery: str, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    """Made here as DeepFace makes them: align=deepface."""
    rows = []
    for name in ("obama", "biden"):
        options = {"model_name": "Dlib", "detector_backend": "mtcnn", "align": "deepface"}
        answer = client.post("/represent", files={"img": photos[name]}, data=options)
        rows.append(answer.json()["results"][0]["embedding"])
    columns: dict[str, Any] = {f"target_{side}": np.array([1, 2]) for side in "xywh"}
    path = tmp_path / "db" / STORE
    path.parent.mkdir()
    data = io.BytesIO()
    np.savez(
        data, embedding=np.array(rows), has_embedding=np.array([True, True]),
        identity=np.array(["db/Barack/1.jpg", "db/Joe/1.jpg"]), hash=np.array(["a", "b"]), **columns,
    )  # fmt: skip
    path.write_bytes(data.getvalue())
    version = str(imported(home, path, gallery)["version"])
    asked = {"gallery": gallery, "min_version": version}
    answer = client.post("/find", files={"img": photos["obama2"]}, data=asked)
    assert answer.status_code == 200, answer.text
    (match,) = answer.json()["results"][0]["matches"]
    assert (match["identity"], match["image"]) == ("Barack", "Barack/1.jpg")
    answer = client.post("/find", json={"embedding": rows[1], **asked, "min_version": int(version)})
    assert answer.json()["results"][0]["matches"][0]["identity"] == "Joe"
    data_ = {"gallery": gallery, "identity": "Barack"}
    answer = client.post("/verify", files={"img": photos["obama3"]}, data=data_)
    assert answer.json()["verified"], answer.text
    enrolled = client.post(
        f"/galleries/{quoted(gallery)}/identities/Joe/images", files={"files": photos["biden"]}
    )
    assert '"status":"enrolled"' in enrolled.text
