"""verify, represent, analyze, extract."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from indexer.settings import Settings
from recognition.types import METRICS
from tests.service.conftest import encoded, enrol, problem


def pair(client: httpx.Client, a: bytes, b: bytes, **fields: object) -> dict[str, object]:
    response = client.post("/verify", files={"img1": a, "img2": b}, data=fields)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("metric", METRICS)
def test_verify_tells_people_apart(
    client: httpx.Client, photos: dict[str, bytes], metric: str
) -> None:
    same = pair(client, photos["obama"], photos["obama2"], distance_metric=metric)
    other = pair(client, photos["obama"], photos["biden"], distance_metric=metric)
    assert same["verified"] is True
    assert other["verified"] is False
    assert same["distance"] < same["threshold"] < other["distance"]
    assert same["confidence"] > 50 > other["confidence"]
    assert same["similarity_metric"] == metric


def test_verify_answers_with_these_fields(client: httpx.Client, photos: dict[str, bytes]) -> None:
    found = pair(client, photos["obama"], photos["obama2"])
    assert set(found) == {
        "verified", "distance", "threshold", "confidence", "model", "detector_backend",
        "similarity_metric", "facial_areas", "time",
    }  # fmt: skip
    for name in ("obama", "obama2"):
        area = found["facial_areas"]["img1" if name == "obama" else "img2"]
        width, height = Image.open(io.BytesIO(photos[name])).size
        assert {"x", "y", "w", "h", "left_eye", "right_eye"} <= set(area)
        assert 0 <= area["x"] < area["x"] + area["w"] <= width
        assert 0 <= area["y"] < area["y"] + area["h"] <= height
        assert area["right_eye"][0] < area["left_eye"][0]
        assert area["x"] < area["right_eye"][0] < area["x"] + area["w"]


def test_the_same_image_has_distance_zero(client: httpx.Client, photos: dict[str, bytes]) -> None:
    found = pair(client, photos["biden"], photos["biden"], threshold=0)
    assert found["distance"] == 0
    assert found["threshold"] == 0
    assert found["verified"] is True
    assert pair(client, photos["obama"], photos["obama2"], threshold=0)["verified"] is False


def test_verify_takes_the_closest_of_all_faces(
    client: httpx.Client, photos: dict[str, bytes]
) -> None:
    a, b = (Image.open(io.BytesIO(photos[name])) for name in ("obama2", "biden"))
    both = Image.new("RGB", (a.width + b.width, max(a.height, b.height)), "grey")
    both.paste(a, (0, 0))
    both.paste(b, (a.width, 0))
    found = pair(client, encoded(both, "PNG"), photos["biden"])
    assert found["verified"] is True
    assert found["facial_areas"]["img1"]["x"] >= a.width


def test_verify_against_a_stored_identity(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    enrol(client, gallery, "Barack Obama", photos["obama"], photos["obama2"])
    fields = {"gallery": gallery, "identity": "Barack Obama"}
    same = client.post("/verify", files={"img": photos["obama3"]}, data=fields).json()
    other = client.post("/verify", files={"img": photos["biden"]}, data=fields).json()
    assert same["verified"] is True
    assert other["verified"] is False
    assert same["facial_areas"]["img2"] is None
    nobody = client.post(
        "/verify", files={"img": photos["biden"]}, data={**fields, "identity": "Nobody"}
    )
    assert "Nobody" in problem(nobody, 404, "not-found")["detail"]


def test_verify_needs_two_sides(client: httpx.Client, photos: dict[str, bytes]) -> None:
    for fields in ({}, {"img1": "x"}, {"img": "x"}, {"img1": "x", "img2": "y", "identity": "z"}):
        problem(client.post("/verify", json=fields), 422, "invalid-request")


def test_represent(client: httpx.Client, photos: dict[str, bytes]) -> None:
    response = client.post("/represent", files={"img": photos["obama"]})
    found = response.json()
    assert set(found) == {"results", "model", "detector_backend", "dimensions", "time"}
    (face,) = found["results"]
    assert set(face) == {"embedding", "facial_area", "face_confidence"}
    assert len(face["embedding"]) == found["dimensions"] == 128
    assert all(map(math.isfinite, face["embedding"]))
    assert 0.5 < face["face_confidence"] <= 1


def test_embeddings_as_base64(client: httpx.Client, photos: dict[str, bytes]) -> None:
    def ask(**fields: str) -> Any:
        answer = client.post("/represent", files={"img": photos["obama"]}, data=fields)
        return answer.json()["results"][0]["embedding"]

    packed = np.frombuffer(base64.b64decode(ask(encoding_format="base64")), "<f4")
    assert packed.shape == (128,)
    assert packed == pytest.approx(ask(encoding_format="float"), abs=1e-6)
    refused = client.post("/represent", files={"img": b"x"}, data={"encoding_format": "pickle"})
    problem(refused, 422, "invalid-request")


def test_represent_agrees_with_verify(client: httpx.Client, photos: dict[str, bytes]) -> None:
    a, b = (
        np.array(
            client.post("/represent", files={"img": photos[n]}).json()["results"][0]["embedding"]
        )
        for n in ("obama", "biden")
    )
    cosine = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert pair(client, photos["obama"], photos["biden"])["distance"] == pytest.approx(
        cosine, abs=1e-5
    )


def test_align_changes_the_embedding(client: httpx.Client, photos: dict[str, bytes]) -> None:
    on, off = (
        client.post("/represent", files={"img": photos["obama"]}, data={"align": align}).json()
        for align in ("true", "false")
    )
    assert on["results"][0]["facial_area"] == off["results"][0]["facial_area"]
    assert on["results"][0]["embedding"] != off["results"][0]["embedding"]


def test_expand_percentage_grows_the_box(client: httpx.Client, photos: dict[str, bytes]) -> None:
    plain, grown = (
        client.post(
            "/extract", files={"img": photos["obama"]}, data={"expand_percentage": percent}
        ).json()["results"][0]["facial_area"]
        for percent in (0, 20)
    )
    assert grown["w"] == pytest.approx(1.2 * plain["w"], abs=2)


def test_analyze(client: httpx.Client, photos: dict[str, bytes]) -> None:
    found = client.post("/analyze", files={"img": photos["obama"]}).json()
    (face,) = found["results"]
    assert set(face) == {
        "region", "face_confidence", "age", "gender", "dominant_gender", "emotion",
        "dominant_emotion",
    }  # fmt: skip
    assert isinstance(face["age"], int)
    assert 30 <= face["age"] <= 65
    assert face["dominant_gender"] == "Man"
    assert sum(face["gender"].values()) == pytest.approx(100, abs=0.01)
    assert sum(face["emotion"].values()) == pytest.approx(100, abs=0.01)
    assert len(face["emotion"]) == 7
    assert face["emotion"][face["dominant_emotion"]] == max(face["emotion"].values())


@pytest.mark.parametrize("actions", ["age", '["age"]', "age, gender"])
def test_analyze_only_what_is_asked(
    client: httpx.Client, photos: dict[str, bytes], actions: str
) -> None:
    response = client.post("/analyze", files={"img": photos["obama"]}, data={"actions": actions})
    (face,) = response.json()["results"]
    assert ("dominant_gender" in face) == ("gender" in actions)
    assert "age" in face
    assert "emotion" not in face


def test_unknown_actions(client: httpx.Client, photos: dict[str, bytes]) -> None:
    response = client.post("/analyze", files={"img": photos["obama"]}, data={"actions": "mood"})
    detail = problem(response, 422, "unknown-name")["detail"]
    assert "age" in detail
    assert "emotion" in detail


def test_race_says_where_to_get_its_weights(
    client: httpx.Client, photos: dict[str, bytes], settings: Settings
) -> None:
    """It is not among the usual actions without them; asked for, it is a 503."""
    if any(settings.weights_folder.glob("race_model_single_batch.*")):
        pytest.skip("its weights are here")
    response = client.post("/analyze", files={"img": photos["obama"]}, data={"actions": "race"})
    detail = problem(response, 503, "weights-missing")["detail"]
    assert "race_model_single_batch.onnx" in detail
    assert "https://" in detail


def test_extract(client: httpx.Client, photos: dict[str, bytes]) -> None:
    (face,) = client.post("/extract", files={"img": photos["obama"]}).json()["results"]
    assert set(face) == {"facial_area", "landmarks", "face_confidence", "quality"}
    assert face["landmarks"]["left_eye"] == face["facial_area"]["left_eye"]
    assert 0.3 < face["quality"] <= 1


def test_no_face(client: httpx.Client, photos: dict[str, bytes]) -> None:
    for route in ("/represent", "/extract", "/analyze", "/find"):
        response = client.post(route, files={"img": photos["nobody"]})
        assert "enforce_detection" in problem(response, 422, "no-face")["detail"]
    response = client.post("/verify", files={"img1": photos["obama"], "img2": photos["nobody"]})
    assert "img2" in problem(response, 422, "no-face")["detail"]


@pytest.mark.parametrize("text", ["false", "False", "0", "no"])
def test_without_enforcement_the_image_is_the_face(
    client: httpx.Client, photos: dict[str, bytes], text: str
) -> None:
    response = client.post(
        "/represent", files={"img": photos["nobody"]}, data={"enforce_detection": text}
    )
    (face,) = response.json()["results"]
    area = face["facial_area"]
    assert (area["x"], area["y"], area["w"], area["h"]) == (0, 0, 300, 200)
    assert area["left_eye"] is None
    assert face["face_confidence"] == 0
    assert len(face["embedding"]) == 128


def test_skip_takes_the_whole_image(client: httpx.Client, photos: dict[str, bytes]) -> None:
    response = client.post(
        "/represent", files={"img": photos["nobody"]}, data={"detector_backend": "skip"}
    )
    area = response.json()["results"][0]["facial_area"]
    assert (area["w"], area["h"]) == (300, 200)


def test_names_are_matched_in_any_case(client: httpx.Client, photos: dict[str, bytes]) -> None:
    response = client.post(
        "/represent",
        files={"img": photos["obama"]},
        data={"model_name": "dlib", "detector_backend": "OpenCV"},
    )
    assert response.json()["model"] == "Dlib"
    assert response.json()["detector_backend"] == "opencv"


def test_the_network_of_eight_bits_verifies_with_thresholds_of_its_own(
    client: httpx.Client, photos: dict[str, bytes]
) -> None:
    pair = {"img1": photos["obama"], "img2": photos["biden"]}
    told = [
        client.post("/verify", files=pair, data={"model_name": name}).json()
        for name in ("Dlib", "Dlib_int8")
    ]
    exact, short = told
    assert (short["model"], short["verified"]) == ("Dlib_int8", False)
    assert short["threshold"] != exact["threshold"]
    assert short["distance"] == pytest.approx(exact["distance"], rel=0.1)
    assert short["distance"] != exact["distance"]


@pytest.mark.parametrize(
    ("fields", "slug", "word"),
    [
        ({"model_name": "Nonet"}, "unknown-name", "Dlib"),
        ({"detector_backend": "nodet"}, "unknown-name", "opencv"),
        ({"normalization": "Facenet2018"}, "unsupported-option", "base"),
        ({"distance_metric": "manhattan"}, "invalid-request", "cosine"),
        ({"max_faces": "0"}, "invalid-request", "max_faces"),
        ({"threshold": "nan"}, "invalid-request", "threshold"),
        ({"threshold": "-1"}, "invalid-request", "threshold"),
        ({"align": "perhaps"}, "invalid-request", "align"),
        ({"colour": "red"}, "invalid-request", "colour"),
    ],
)
def test_bad_options(
    client: httpx.Client, photos: dict[str, bytes], fields: dict[str, str], slug: str, word: str
) -> None:
    response = client.post("/represent", files={"img": photos["obama"]}, data=fields)
    assert word in problem(response, 422, slug)["detail"]


def test_max_faces(client: httpx.Client, photos: dict[str, bytes]) -> None:
    a, b = (Image.open(io.BytesIO(photos[name])) for name in ("obama2", "biden"))
    both = Image.new("RGB", (a.width + b.width, max(a.height, b.height)), "grey")
    both.paste(a, (0, 0))
    both.paste(b, (a.width, 0))
    image = encoded(both, "PNG")
    every = client.post("/extract", files={"img": image}).json()["results"]
    one = client.post("/extract", files={"img": image}, data={"max_faces": 1}).json()["results"]
    assert len(every) == 2
    assert one == every[:1]


def test_align_deepface_embeds_as_deepface_does(
    client: httpx.Client, photos: dict[str, bytes]
) -> None:
    """Another embedding than the native one, the threshold that DeepFace publishes, and no invented confidence."""
    files = {"img1": photos["obama"], "img2": photos["obama2"]}
    opencv = {"detector_backend": "opencv"}
    native = client.post("/verify", files=files, data=opencv).json()
    found = client.post("/verify", files=files, data={**opencv, "align": "deepface"}).json()
    assert found["threshold"] == 0.07
    assert found["confidence"] is None
    assert native["confidence"] > 50
    assert abs(found["distance"] - native["distance"]) > 1e-4
    refused = client.post(
        "/verify", files=files, data={"align": "deepface", "normalization": "raw"}
    )
    assert "base" in str(problem(refused, 422, "unsupported-option")["detail"])
