"""The quality gate over HTTP."""

from __future__ import annotations

import io

import httpx
from PIL import Image, ImageEnhance

from tests.service.conftest import enrol, problem, quoted


def dark(jpeg: bytes) -> bytes:
    out = io.BytesIO()
    ImageEnhance.Brightness(Image.open(io.BytesIO(jpeg))).enhance(0.07).save(
        out, "JPEG", quality=95
    )
    return out.getvalue()


def test_a_gallery_minds_what_it_is_told_to(
    client: httpx.Client, gallery: str, photos: dict[str, bytes]
) -> None:
    path = f"/galleries/{quoted(gallery)}"
    assert client.get(path).json()["quality"] == "accept"
    assert client.put(path, json={"quality": "reject"}).json()["quality"] == "reject"
    assert client.put(path).json()["quality"] == "reject", "unchanged if nothing is said"
    assert problem(client.put(path, json={"quality": "maybe"}), 422, "invalid-request")
    done = enrol(client, gallery, "Joe", dark(photos["biden"]), photos["biden"])
    assert done.status_code == 201, done.text
    bad, good = done.json()["files"]
    assert (bad["status"], bad["faces"], bad["image_id"]) == ("rejected", [], None)
    assert "brightness" in {concern["check"] for concern in bad["concerns"]}
    assert all(concern["detail"] in bad["reason"] for concern in bad["concerns"])
    assert (good["status"], "concerns" in good) == ("enrolled", False)
    assert enrol(client, gallery, "Nobody", dark(photos["obama"])).status_code == 422
    assert client.get(f"{path}/identities/Nobody").status_code == 404


def test_flags_are_shown(client: httpx.Client, gallery: str, photos: dict[str, bytes]) -> None:
    path = f"/galleries/{quoted(gallery)}"
    client.put(path, json={"quality": "flag"})
    done = enrol(client, gallery, "Joe", dark(photos["biden"]))
    (file,) = done.json()["files"]
    assert (file["status"], bool(file["concerns"])) == ("enrolled", True)
    (image,) = client.get(f"{path}/identities/Joe").json()["images"]
    assert "brightness" in image["flags"]
