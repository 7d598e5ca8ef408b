"""JSON and forms, data URIs and base64, unknown routes, problems, request ids, OpenAPI."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from indexer.errors import IndexerError
from recognition.errors import RecognitionError
from service import errors
from service.problems import TABLE, problem_of
from tests.service.conftest import Server, problem


def embedding(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    return response.json()["results"][0]["embedding"]


def test_every_way_of_sending_an_image_is_the_same(
    client: httpx.Client, photos: dict[str, bytes]
) -> None:
    data = photos["obama"]
    text = base64.b64encode(data).decode()
    expected = embedding(client.post("/represent", files={"img": data}))
    lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    ways = [
        client.post("/represent", json={"img": text}),
        client.post("/represent", json={"img": f"data:image/jpeg;base64,{text}"}),
        client.post("/represent", json={"img": f"data:image/jpeg;name=a.jpg;base64,{text}"}),
        client.post("/represent", json={"img": lines}),
        client.post("/represent", json={"img": text.rstrip("=")}),
        client.post("/represent", json={"img": base64.urlsafe_b64encode(data).decode()}),
        client.post("/represent", data={"img": text}),
        client.post("/represent", files={"img": (None, text)}),
        client.post(
            "/represent",
            content=f"img={text}",  # plus signs that were not escaped
            headers={"content-type": "application/x-www-form-urlencoded"},
        ),
        client.post(
            "/represent",
            content=f"img={quote_plus(text)}&align=TRUE",
            headers={"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
        ),
        client.post(
            "/represent",
            content=b'{"img": "' + text.encode() + b'", "max_faces": null}',
            headers={"content-type": "application/vnd.x+json"},
        ),
    ]
    assert [embedding(way) for way in ways] == [expected] * len(ways)


@pytest.mark.parametrize(
    "text",
    ["", "!", "data:image/png,abc", "data:image/png;base64,%%", "AAAA", "not base64 at all"],
)
def test_texts_that_are_no_images(client: httpx.Client, text: str) -> None:
    problem(client.post("/represent", json={"img": text}), 422, "undecodable-image")


def test_missing_unknown_and_wrong_fields(client: httpx.Client) -> None:
    document = problem(client.post("/represent", json={}), 422, "invalid-request")
    assert document["errors"][0]["loc"] == ["body", "img"]
    document = problem(
        client.post("/represent", json={"img": "x", "modelname": "Dlib"}), 422, "invalid-request"
    )
    assert document["errors"][0]["loc"] == ["body", "modelname"]
    assert "x" not in document["errors"][0]
    for wrong in (1, ["x"], None, {}):
        problem(client.post("/represent", json={"img": wrong}), 422, "invalid-request")
    for body in ("[]", "3", '"img"', "null"):
        response = client.post(
            "/represent", content=body, headers={"content-type": "application/json"}
        )
        problem(response, 422, "invalid-request")


def test_bodies_that_cannot_be_read(client: httpx.Client) -> None:
    def post(body: bytes, kind: str) -> httpx.Response:
        return client.post("/represent", content=body, headers={"content-type": kind})

    problem(post(b"{", "application/json"), 400, "malformed-body")
    problem(post(b'{"threshold": NaN}', "application/json"), 400, "malformed-body")
    problem(post(b"\xff", "application/json"), 400, "malformed-body")
    problem(post(b"x", "multipart/form-data"), 400, "malformed-body")
    problem(post(b"x", "multipart/form-data; boundary=y"), 400, "malformed-body")
    problem(post(b"\xff\xd8", "image/jpeg"), 415, "unsupported-body")
    problem(post(b"x", ""), 415, "unsupported-body")
    curl = post(b'{"img": "x"}', "application/x-www-form-urlencoded")
    assert "application/json" in problem(curl, 400, "malformed-body")["detail"]


def test_a_field_given_twice(client: httpx.Client, photos: dict[str, bytes]) -> None:
    files = [("img", photos["obama"]), ("img", photos["biden"])]
    problem(client.post("/represent", files=files), 422, "invalid-request")


def test_urls_and_paths_are_off(client: httpx.Client, server: Server) -> None:
    for text in ("http://127.0.0.1/x.jpg", "HTTPS://example.org/x.jpg", " http://[::1]/"):
        problem(client.post("/represent", json={"img": text}), 403, "image-source-refused")
    there, absent = (
        problem(client.post("/represent", json={"img": path}), 403, "image-source-refused")
        for path in (str(server.log.parent / "." / "log.txt"), "/nowhere/x.jpg")
    )
    assert there["detail"] == absent["detail"]


def test_unknown_routes_and_methods(client: httpx.Client) -> None:
    problem(client.get("/nothing/here"), 404, "not-found")
    wrong = client.get("/find")
    problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"
    problem(client.get("/jobs/not-a-uuid"), 422, "invalid-request")
    problem(client.get("/jobs/00000000-0000-0000-0000-000000000000"), 404, "not-found")
    problem(client.delete("/galleries/default/images/99999999999999999999"), 422, "invalid-request")


def test_request_ids(client: httpx.Client) -> None:
    sane = client.get("/healthz", headers={"X-Request-ID": "abc-1.2_3~"})
    assert sane.headers["x-request-id"] == "abc-1.2_3~"
    for odd in ("a b", "x" * 100, "{}"):
        made = client.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_logs_hold_no_names(client: httpx.Client, server: Server) -> None:
    client.get("/galleries/secret-gallery/identities/Very%20Secret")
    client.get("/galleries/default/identities", params={"cursor": "c2VjcmV0"})
    text = server.lines()
    assert '"route":"/galleries/{gallery}/identities/{identity}"' in text
    assert "secret" not in text.lower()


def test_health_and_metrics(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert all(check["ok"] for check in ready["checks"].values())
    text = client.get("/metrics").text
    for name in (
        'facesearch_http_requests_total{method="GET",route="/healthz",status="200"}',
        "facesearch_http_request_seconds_bucket",
        "facesearch_inference_waiting 0.0",
        "process_resident_memory_bytes",
    ):
        assert name in text


def test_models(client: httpx.Client) -> None:
    found = client.get("/models").json()
    (dlib,) = [model for model in found["models"] if model["name"] == "Dlib"]
    assert dlib["dimension"] == 128
    assert dlib["available"] is True
    assert set(dlib["thresholds"]["default"]) == {"cosine", "euclidean", "euclidean_l2", "angular"}
    assert all(len(w["sha256"]) == 64 and w["source"] for w in dlib["weights"])
    for name in ("default", "mtcnn", "default/none", "dlib/none"):
        for threshold in dlib["thresholds"][name].values():
            assert "LFW" in threshold["data"], "says where the confidence comes from"
            assert threshold["slope"] > 1
            assert 0.9 < threshold["accuracy"] < 1
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for answer in ("VerifyResponse", "MatchView"):
        assert "GET /models" in schemas[answer]["properties"]["confidence"]["description"]
    assert {"opencv", "dlib", "mtcnn", "mediapipe", "skip"} <= {
        detector["name"] for detector in found["detectors"]
    }
    assert {"age", "gender", "emotion"} <= {attribute["name"] for attribute in found["attributes"]}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [ref for item in value.values() for ref in references(item)]
    return [ref for item in value for ref in references(item)] if isinstance(value, list) else []


def test_openapi(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    OpenAPI.model_validate(document)
    for ref in references(document):
        place: Any = document
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) >= 20
    for path, method, operation in operations:
        for status, response in operation["responses"].items():
            if status[0] in "45":
                assert list(response["content"]) == ["application/problem+json"], (path, method)
    for path in ("/verify", "/represent", "/analyze", "/extract", "/find"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert {"application/json", "multipart/form-data"} <= set(content)
        field = "img1" if path == "/verify" else "img"
        file = content["multipart/form-data"]["schema"]["properties"][field]
        assert file["contentMediaType"] == "application/octet-stream"
        assert content["application/json"]["schema"]["properties"][field]["type"] == "string"
        assert content["application/json"]["schema"]["additionalProperties"] is False
    assert client.get("/docs").status_code == 200


def every_subclass(base: type[Exception]) -> list[type[Exception]]:
    return [base, *(deeper for kind in base.__subclasses__() for deeper in every_subclass(kind))]


@pytest.mark.parametrize("base", [RecognitionError, IndexerError, errors.ServiceError])
def test_every_error_has_a_problem_of_its_own(base: type[Exception]) -> None:
    ours = ("recognition.errors", "indexer.errors", "service.errors")
    kinds = [kind for kind in every_subclass(base) if kind.__module__ in ours]
    assert len(kinds) > 5
    assert [kind for kind in kinds if kind not in TABLE] == []
    slugs = [TABLE[kind].slug for kind in kinds]
    assert len(set(slugs)) == len(slugs)


def test_the_nearest_base_tells_how() -> None:
    class Special(errors.Overloaded):
        pass

    assert problem_of(Special("x")).slug == "overloaded"
    assert problem_of(ValueError("x")).status == 500
