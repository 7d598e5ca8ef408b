"""anti_spoofing on every route that takes it; without the weights, an answer that says where to get them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from indexer.settings import Settings
from indexer.store.engine import Database
from recognition import antispoofing
from tests.service.conftest import Server, encoded, enrol, problem, running, smaller

ON = {"anti_spoofing": "true"}


@pytest.fixture(scope="module")
def url(server: Server, settings: Settings) -> str:
    """Of the database that the other servers of this session use."""
    return Database.open(settings).engine.url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def judging(
    spoof_home: Path, url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("server") / "log"
    with running(spoof_home, log, database_url=url) as started, started.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def spoof(cut_outs: dict[str, bytes]) -> bytes:
    return smaller(cut_outs["obama.jpg"])


def test_extract_tells_for_every_face(
    judging: httpx.Client, photos: dict[str, bytes], spoof: bytes
) -> None:
    for image, is_real in ((photos["obama"], True), (spoof, False)):
        response = judging.post("/extract", files={"img": image}, data=ON)
        (face,) = response.json()["results"]
        assert face["is_real"] is is_real
        assert 0.9 < face["antispoof_score"] <= 1


def test_extract_says_nothing_of_it_unasked(judging: httpx.Client, spoof: bytes) -> None:
    (face,) = judging.post("/extract", files={"img": spoof}).json()["results"]
    assert set(face) == {"facial_area", "landmarks", "face_confidence", "quality"}


@pytest.mark.parametrize("route", ["/represent", "/analyze", "/find"])
def test_spoofed_faces_are_refused(
    judging: httpx.Client, photos: dict[str, bytes], spoof: bytes, route: str
) -> None:
    live = judging.post(route, files={"img": photos["obama"]}, data=ON)
    assert live.status_code == 200, live.text
    plain = judging.post(route, files={"img": spoof})
    assert plain.json()["results"][0].keys() == live.json()["results"][0].keys()
    refused = judging.post(route, files={"img": spoof}, data=ON)
    assert "img" in problem(refused, 422, "spoof-detected")["detail"]


@pytest.mark.parametrize("bad", ["img1", "img2"])
def test_verify_names_the_image(
    judging: httpx.Client, photos: dict[str, bytes], spoof: bytes, bad: str
) -> None:
    files = {"img1": photos["obama"], "img2": photos["obama2"]}
    assert judging.post("/verify", files=files, data=ON).json()["verified"] is True
    response = judging.post("/verify", files={**files, bad: spoof}, data=ON)
    assert f" {bad} " in problem(response, 422, "spoof-detected")["detail"]


def test_verify_against_an_identity(
    judging: httpx.Client, photos: dict[str, bytes], spoof: bytes, gallery: str
) -> None:
    enrol(judging, gallery, "Barack", photos["obama"])
    fields = {"gallery": gallery, "identity": "Barack"}
    plain = judging.post("/verify", files={"img": spoof}, data=fields)
    assert plain.json()["verified"] is True, "the cut-out shows the person"
    problem(judging.post("/verify", files={"img": spoof}, data=fields | ON), 422, "spoof-detected")
    live = judging.post("/verify", files={"img": photos["obama2"]}, data=fields | ON)
    assert live.json()["verified"] is True


def test_one_spoof_among_faces_is_enough(
    judging: httpx.Client, cut_outs: dict[str, bytes], photos: dict[str, bytes]
) -> None:
    import io

    from PIL import Image

    live = Image.open(io.BytesIO(photos["obama"]))
    cut = Image.open(io.BytesIO(smaller(cut_outs["biden.jpg"])))
    both = Image.new("RGB", (live.width + cut.width, max(live.height, cut.height)))
    both.paste(live, (0, 0))
    both.paste(cut, (live.width, 0))
    image = encoded(both, "PNG")
    found = judging.post("/extract", files={"img": image}, data=ON).json()["results"]
    assert sorted(face["is_real"] for face in found) == [False, True]
    problem(judging.post("/represent", files={"img": image}, data=ON), 422, "spoof-detected")


def test_what_cannot_be_judged_is_refused(judging: httpx.Client, photos: dict[str, bytes]) -> None:
    """A whole image is no face with surroundings, nor is an embedding."""
    for route in ("/extract", "/represent", "/analyze", "/find"):
        response = judging.post(
            route, files={"img": photos["obama"]}, data={**ON, "detector_backend": "skip"}
        )
        assert "skip" in problem(response, 422, "unsupported-option")["detail"]
        response = judging.post(
            route, files={"img": photos["nobody"]}, data={**ON, "enforce_detection": "false"}
        )
        assert "anti_spoofing" in problem(response, 422, "no-face")["detail"]
    response = judging.post("/find", json={"embedding": [1.0] * 128, "anti_spoofing": True})
    assert "img" in problem(response, 422, "unsupported-option")["detail"]


def test_the_server_answers_while_faces_are_judged(
    judging: httpx.Client, photos: dict[str, bytes]
) -> None:
    done = threading.Event()

    def judge() -> None:
        with httpx.Client(base_url=judging.base_url, timeout=120, trust_env=False) as client:
            for _ in range(8):
                client.post("/extract", files={"img": photos["biden"]}, data=ON)
        done.set()

    thread = threading.Thread(target=judge)
    thread.start()
    waits = []
    while not done.is_set():
        started = time.perf_counter()
        assert judging.get("/healthz").status_code == 200
        waits.append(time.perf_counter() - started)
        time.sleep(0.005)
    thread.join()
    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < 0.1


def test_models_lists_it(judging: httpx.Client, client: httpx.Client) -> None:
    (here,) = judging.get("/models").json()["anti_spoofing"]
    assert here["name"] == "Fasnet"
    assert here["licence"] == "Apache-2.0"
    assert here["available"] is True
    (listed,) = client.get("/models").json()["anti_spoofing"]
    assert [w["source"] for w in listed["weights"]] == [w.urls[0] for w in antispoofing.WEIGHTS]


def test_missing_weights_say_where_to_get_them(
    url: str, photos: dict[str, bytes], weights_cache: object, tmp_path: Path
) -> None:
    """The other weights are there; those of anti-spoofing only matter to who asks for it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    spoofing = {weights.name for weights in antispoofing.WEIGHTS}
    for file in Settings().weights_folder.glob("[!.]*"):
        if file.is_file() and file.name not in spoofing:
            (folder / file.name).symlink_to(file)
    settings = {"database_url": url, "downloads": "false"}
    with running(tmp_path, tmp_path / "log", **settings) as started, started.client() as bare:
        for route in ("/extract", "/represent"):
            files = {"img": photos["obama"]}
            assert bare.post(route, files=files).status_code == 200
            document = problem(bare.post(route, files=files, data=ON), 503, "weights-missing")
            for part in (antispoofing.V2_WEIGHTS.urls[0], antispoofing.V2_WEIGHTS.sha256):
                assert str(part) in str(document["detail"])
