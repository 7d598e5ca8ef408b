"""Enrol, find, delete, find again; galleries, identities, paging, renaming, merging."""

from __future__ import annotations

import base64
import hashlib
import time

import httpx
import pytest

from tests.service.conftest import encoded, enrol, find, problem, quoted


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    (face,) = response.json()["results"]
    return [match["identity"] for match in face["matches"]]


def test_enrol_find_delete_find(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    first = enrol(client, gallery, "Barack Obama", photos["obama"], photos["obama3"])
    second = enrol(client, gallery, "Joe Biden", photos["biden"])
    assert first.status_code == second.status_code == 201
    version = second.json()["version"]
    assert version > first.json()["version"]

    found = find(client, gallery, photos["obama2"], min_version=version).json()
    assert found["engine"]["version"] >= version
    assert found["engine"]["exact"] is True
    assert found["engine"]["size"] == 3
    assert found["gallery"] == gallery
    (face,) = found["results"]
    (match,) = face["matches"]
    assert set(match) == {
        "identity", "identity_id", "face_id", "image", "distance", "similarity", "threshold",
        "confidence", "verified", "metadata",
    }  # fmt: skip
    assert match["identity"] == "Barack Obama"
    assert match["verified"] is True
    assert match["distance"] <= match["threshold"]
    assert match["similarity"] == pytest.approx(1 - match["distance"], abs=1e-5)

    gone = client.delete(f"/galleries/{quoted(gallery)}/identities/Barack%20Obama")
    assert gone.json()["identity"] == "Barack Obama"
    assert gone.json()["version"] > version
    again = find(client, gallery, photos["obama2"], min_version=gone.json()["version"])
    assert names(again) == []
    assert names(find(client, gallery, photos["biden"])) == ["Joe Biden"]


def test_deleting_an_image(client: httpx.Client, photos: dict[str, bytes], gallery: str) -> None:
    files = enrol(client, gallery, "Ada", photos["obama"], photos["obama3"]).json()["files"]
    for n, file in enumerate(files):
        gone = client.delete(f"/galleries/{quoted(gallery)}/images/{file['image_id']}").json()
        assert gone["image_id"] == file["image_id"]
        found = find(client, gallery, photos["obama2"], min_version=gone["version"], threshold=2)
        assert names(found) == ([] if n else ["Ada"])
    problem(client.get(f"/galleries/{quoted(gallery)}/identities/Ada"), 404, "not-found")
    problem(
        client.delete(f"/galleries/{quoted(gallery)}/images/{files[0]['image_id']}"),
        404, "not-found",
    )  # fmt: skip


def test_without_min_version_it_is_found_within_a_second(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    enrol(client, gallery, "Ada", photos["obama"])
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if names(find(client, gallery, photos["obama2"])) == ["Ada"]:
            return
    pytest.fail("not found within a second")


def test_enrolment_is_idempotent(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    first = enrol(client, gallery, "Ada", photos["obama"]).json()
    again = enrol(client, gallery, "Ada", photos["obama"])
    assert again.status_code == 200
    assert again.json()["files"][0]["status"] == "exists"
    assert again.json()["files"][0]["image_id"] == first["files"][0]["image_id"]
    assert again.json()["files"][0]["faces"] == first["files"][0]["faces"]
    assert again.json()["version"] == first["version"]
    assert first["files"][0]["sha256"] == hashlib.sha256(photos["obama"]).hexdigest()
    counts = client.get(f"/galleries/{quoted(gallery)}").json()["counts"]
    assert (counts["identities"], counts["images"], counts["faces"]) == (1, 1, 1)


def test_the_same_file_twice_in_one_upload(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    response = enrol(client, gallery, "Ada", photos["obama"], photos["obama"])
    assert response.status_code == 201
    assert [file["status"] for file in response.json()["files"]] == ["enrolled", "exists"]


def test_a_bad_file_among_good_ones(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    response = enrol(
        client, gallery, "Ada", photos["obama"], b"junk", photos["nobody"], photos["obama2"]
    )
    assert response.status_code == 201
    files = response.json()["files"]
    assert [f["status"] for f in files] == ["enrolled", "rejected", "rejected", "enrolled"]
    assert "not an image" in files[1]["reason"]
    assert "no face" in files[2]["reason"]
    assert "reason" not in files[0]
    area = files[0]["faces"][0]["facial_area"]
    assert area["right_eye"][0] < area["left_eye"][0]


def test_only_bad_files(client: httpx.Client, photos: dict[str, bytes], gallery: str) -> None:
    response = enrol(client, gallery, "Nobody", photos["nobody"], b"")
    document = problem(response, 422, "nothing-enrolled")
    assert [file["status"] for file in document["files"]] == ["rejected", "rejected"]
    problem(client.get(f"/galleries/{quoted(gallery)}/identities/Nobody"), 404, "not-found")


def test_enrolment_by_json(client: httpx.Client, photos: dict[str, bytes], gallery: str) -> None:
    text = base64.b64encode(photos["obama"]).decode()
    uri = "data:image/jpeg;base64," + base64.b64encode(photos["obama2"]).decode()
    path = f"/galleries/{quoted(gallery)}/identities/Ada/images"
    response = client.post(path, json={"files": [text, uri, "no base64!"]})
    assert response.status_code == 201
    statuses = [file["status"] for file in response.json()["files"]]
    assert statuses == ["enrolled", "enrolled", "rejected"]
    assert client.post(path, json={"files": text}).status_code == 200
    problem(client.post(path, json={"files": []}), 422, "invalid-request")
    problem(client.post(path, json={}), 422, "invalid-request")


def test_unknown_gallery(client: httpx.Client, photos: dict[str, bytes]) -> None:
    problem(enrol(client, "no such gallery", "Ada", photos["obama"]), 404, "not-found")
    problem(find(client, "no such gallery", photos["obama"]), 404, "not-found")
    problem(client.get("/galleries/no%20such%20gallery"), 404, "not-found")
    problem(client.delete("/galleries/no%20such%20gallery"), 404, "not-found")
    problem(client.get("/galleries/no%20such%20gallery/identities"), 404, "not-found")


def test_the_default_gallery_is_there(client: httpx.Client) -> None:
    assert "default" in [g["gallery"] for g in client.get("/galleries").json()["galleries"]]


def test_an_empty_gallery_has_no_matches(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    found = find(client, gallery, photos["obama"])
    assert names(found) == []
    assert found.json()["engine"]["size"] == 0
    view = client.get(f"/galleries/{quoted(gallery)}").json()
    assert view["state"] == "empty"
    assert view["spaces"] == {"active": None, "building": None}


def test_a_gallery_comes_and_goes(client: httpx.Client, photos: dict[str, bytes]) -> None:
    path = f"/galleries/{quoted('Galerie Ω')}"
    assert client.put(path).status_code == 201
    assert client.put(path).status_code == 200
    enrol(client, "Galerie Ω", "Ada", photos["obama"])
    view = client.get(path).json()
    assert view["gallery"] == "Galerie Ω"
    assert view["state"] == "ready"
    assert view["counts"]["states"] == {"ready": 1}
    assert view["spaces"]["active"]["model"] == "Dlib"
    assert client.delete(path).json()["version"] > 0
    problem(client.get(path), 404, "not-found")


@pytest.mark.parametrize("bad", ["%20", "a%00b", "x" * 300])
def test_names_that_cannot_be_used(
    client: httpx.Client, photos: dict[str, bytes], gallery: str, bad: str
) -> None:
    problem(client.put(f"/galleries/{bad}"), 422, "invalid-name")
    path = f"/galleries/{quoted(gallery)}/identities/{bad}/images"
    problem(client.post(path, files={"files": photos["obama"]}), 422, "invalid-name")


def test_pages(client: httpx.Client, photos: dict[str, bytes], gallery: str) -> None:
    people = ["Ada", "Bö", "chris", "Ωmega", "李雷"]
    for person in people:
        assert enrol(client, gallery, person, photos["obama"]).status_code == 201
    path = f"/galleries/{quoted(gallery)}/identities"
    seen: list[str] = []
    cursor, pages = "", 0
    while cursor is not None:
        page = client.get(path, params={"limit": 2, "cursor": cursor}).json()
        seen += [person["identity"] for person in page["identities"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 3
    assert sorted(seen) == sorted(people)
    assert client.get(path).json()["next_cursor"] is None
    problem(client.get(path, params={"cursor": "!"}), 422, "invalid-request")
    problem(client.get(path, params={"cursor": "gICA"}), 422, "invalid-request")
    problem(client.get(path, params={"limit": 0}), 422, "invalid-request")
    detail = client.get(f"{path}/{quoted('李雷')}").json()
    assert detail["identity"] == "李雷"
    (image,) = detail["images"]
    assert image["sha256"] == hashlib.sha256(photos["obama"]).hexdigest()
    assert (image["source"], image["state"], image["faces"]) == ("upload", "ready", 1)


def test_rename_metadata_merge(
    client: httpx.Client, photos: dict[str, bytes], gallery: str
) -> None:
    path = f"/galleries/{quoted(gallery)}/identities"
    enrol(client, gallery, "B. Obama", photos["obama"])
    enrol(client, gallery, "Barack", photos["obama2"])
    changed = client.patch(f"{path}/Barack", json={"metadata": {"team": "red", "n": 1}})
    assert changed.json()["metadata"] == {"team": "red", "n": 1}
    renamed = client.patch(f"{path}/Barack", json={"name": "Barack Obama"}).json()
    assert renamed["identity"] == "Barack Obama"
    assert renamed["metadata"] == {"team": "red", "n": 1}
    problem(client.get(f"{path}/Barack"), 404, "not-found")
    taken = client.patch(f"{path}/B.%20Obama", json={"name": "Barack Obama"})
    assert "merge" in problem(taken, 409, "conflict")["detail"]
    merged = client.patch(f"{path}/B.%20Obama", json={"name": "Barack Obama", "merge": True}).json()
    assert merged["images"] == merged["faces"] == 2
    found = find(client, gallery, photos["obama3"], min_version=merged["version"], group_by="face")
    assert names(found) == ["Barack Obama"] * 2
    problem(client.patch(f"{path}/Barack%20Obama", json={"nam": "x"}), 422, "invalid-request")
    problem(client.patch(f"{path}/Nobody", json={"name": "x"}), 404, "not-found")


@pytest.mark.parametrize(
    "metadata",
    ['{"a": "\\u0000"}', '{"\\u0000": 1}', '{"a": [{"b": 1e999}]}', '{"a": NaN}', "[]", "3"],
)
def test_metadata_that_cannot_be_stored(
    client: httpx.Client, photos: dict[str, bytes], gallery: str, metadata: str
) -> None:
    enrol(client, gallery, "Ada", photos["obama"])
    path = f"/galleries/{quoted(gallery)}/identities/Ada"
    refused = client.patch(path, data={"metadata": metadata})
    problem(refused, 422, "invalid-request")
    problem(find(client, gallery, photos["obama"], filter=f'{{"metadata": {metadata}}}'),
            422, "invalid-request")  # fmt: skip
    large = {"metadata": {"a": "x" * 70_000}}
    problem(client.patch(path, json=large), 422, "invalid-request")


def test_impossible_names_are_not_found(client: httpx.Client, photos: dict[str, bytes]) -> None:
    problem(client.get("/galleries/a%00b"), 404, "not-found")
    problem(client.delete("/galleries/a%00b"), 404, "not-found")
    problem(find(client, "a\x00b", photos["obama"]), 404, "not-found")
    problem(client.get("/galleries/default/identities/a%00b"), 422, "invalid-name")
    response = find(client, "default", photos["obama"], filter='{"identities": ["a\\u0000"]}')
    assert response.status_code in (200, 422)


@pytest.fixture
def crowd(client: httpx.Client, photos: dict[str, bytes], gallery: str) -> str:
    enrol(client, gallery, "Barack Obama", photos["obama"], photos["obama3"])
    enrol(client, gallery, "Joe Biden", photos["biden"])
    path = f"/galleries/{quoted(gallery)}/identities"
    client.patch(f"{path}/Joe%20Biden", json={"metadata": {"team": "blue"}})
    return gallery


def test_grouping_k_and_thresholds(
    client: httpx.Client, photos: dict[str, bytes], crowd: str
) -> None:
    probe = photos["obama2"]
    assert names(find(client, crowd, probe)) == ["Barack Obama"]
    assert names(find(client, crowd, probe, group_by="face")) == ["Barack Obama"] * 2
    assert names(find(client, crowd, probe, group_by="face", k=1)) == ["Barack Obama"]
    assert names(find(client, crowd, probe, threshold=0)) == []
    lax = find(client, crowd, probe, threshold=2)
    assert names(lax) == ["Barack Obama", "Joe Biden"]
    matches = lax.json()["results"][0]["matches"]
    assert [match["verified"] for match in matches] == [True, False]
    assert matches[0]["distance"] < matches[1]["distance"]
    assert matches[0]["threshold"] == 2


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "euclidean_l2", "angular"])
def test_metrics_agree_on_who_it_is(
    client: httpx.Client, photos: dict[str, bytes], crowd: str, metric: str
) -> None:
    found = find(client, crowd, photos["obama2"], distance_metric=metric)
    assert names(found) == ["Barack Obama"]
    assert found.json()["similarity_metric"] == metric


def test_filters(client: httpx.Client, photos: dict[str, bytes], crowd: str) -> None:
    def told(filter_: str) -> list[str]:
        return names(find(client, crowd, photos["obama2"], threshold=2, filter=filter_))

    assert told('{"identities": ["Joe Biden"]}') == ["Joe Biden"]
    assert told('{"metadata": {"team": "blue"}}') == ["Joe Biden"]
    assert told('{"metadata": {"team": "red"}}') == []
    assert told('{"identities": ["Barack Obama"], "metadata": {"team": "blue"}}') == []
    assert told('{"identities": []}') == []
    for bad in ("[1]", "{", '{"names": ["x"]}', '{"identities": "x"}'):
        problem(find(client, crowd, photos["obama2"], filter=bad), 422, "invalid-request")


def test_find_by_embedding(client: httpx.Client, photos: dict[str, bytes], crowd: str) -> None:
    faces = [
        client.post("/represent", files={"img": photos[name]}).json()["results"][0]["embedding"]
        for name in ("obama2", "biden")
    ]
    one = client.post("/find", json={"embedding": faces[0], "gallery": crowd})
    assert names(one) == ["Barack Obama"]
    assert one.json()["results"][0]["facial_area"] is None
    two = client.post("/find", json={"embedding": faces, "gallery": crowd}).json()["results"]
    assert [r["matches"][0]["identity"] for r in two] == ["Barack Obama", "Joe Biden"]
    for bad in (
        [1.0] * 3,
        [0.0] * 128,
        [1e300] * 128,
        [],
        [[]],
        "x",
        [faces[0], [1.0]],
        ["a"] * 128,
    ):
        response = client.post("/find", json={"embedding": bad, "gallery": crowd})
        problem(response, 422, "invalid-request")
    nan = "[" + ",".join(["NaN"] * 128) + "]"
    response = client.post("/find", data={"embedding": nan, "gallery": crowd})
    problem(response, 422, "invalid-request")


def test_find_needs_one_probe(client: httpx.Client, photos: dict[str, bytes], crowd: str) -> None:
    problem(client.post("/find", json={"gallery": crowd}), 422, "invalid-request")
    both = {"gallery": crowd, "img": "x", "embedding": [1.0] * 128}
    problem(client.post("/find", json=both), 422, "invalid-request")


def test_find_with_another_detector(
    client: httpx.Client, photos: dict[str, bytes], crowd: str
) -> None:
    found = find(client, crowd, photos["obama2"], detector_backend="mtcnn", threshold=0.12)
    assert names(found)[:1] == ["Barack Obama"]
    assert found.json()["detector_backend"] == "mtcnn"


def test_find_refuses_what_cannot_be_compared(
    client: httpx.Client, photos: dict[str, bytes], crowd: str
) -> None:
    refused = find(client, crowd, photos["obama2"], align="false")
    problem(refused, 422, "unsupported-option")


def test_every_face_of_a_group_gets_an_answer(
    client: httpx.Client, photos: dict[str, bytes], crowd: str
) -> None:
    import io

    from PIL import Image

    a, b = (Image.open(io.BytesIO(photos[name])) for name in ("obama2", "biden"))
    both = Image.new("RGB", (a.width + b.width, max(a.height, b.height)), "grey")
    both.paste(a, (0, 0))
    both.paste(b, (a.width, 0))
    results = find(client, crowd, encoded(both, "PNG")).json()["results"]
    assert {r["matches"][0]["identity"] for r in results} == {"Barack Obama", "Joe Biden"}


def test_consent_and_retention(
    client: httpx.Client, gallery: str, photos: dict[str, bytes]
) -> None:
    base = f"/galleries/{quoted(gallery)}"
    person = f"{base}/identities/Joe"
    client.post(f"{person}/images", files={"files": photos["biden"]})
    assert client.get(person).json()["consent"] is None
    told = {"basis": "he asked", "given_at": "2026-01-02T03:04:05+02:00", "until": None}
    given = client.put(f"{person}/consent", json=told)
    assert given.status_code == 200
    assert client.get(person).json()["consent"]["given_at"].startswith("2026-01-02T01:04:05")
    for wrong in (
        {},
        {"basis": ""},
        {"basis": "x", "until": "2026-01-02T03:04:05"},
        {"basis": "x", "who": 1},
    ):
        problem(client.put(f"{person}/consent", json=wrong), 422, "invalid-request")
    problem(client.put(f"{base}/identities/nobody/consent", json=told), 404, "not-found")
    assert client.get(base).json()["retention_days"] is None
    assert client.put(base, json={"retention_days": 30}).json()["retention_days"] == 30
    assert client.put(base, json={"quality": "flag"}).json()["retention_days"] == 30
    assert client.put(base, json={"retention_days": 0}).json()["retention_days"] is None
    problem(client.put(base, json={"retention_days": -1}), 422, "invalid-request")
