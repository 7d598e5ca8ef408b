"""Doubtful photographs: accepted, flagged or rejected, in uploads and in folders."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from sqlalchemy import text

from indexer import commands, moving, runs
from indexer.commands import Tools
from indexer.enrol import EnrolledImage, Enroller, Extractor
from indexer.gate import CHECKS, of_face
from indexer.moving import Asked
from indexer.settings import Settings
from indexer.store import galleries, images
from indexer.store import tables as t
from indexer.store.engine import Database
from indexer.store.galleries import Policy
from recognition.pipeline import Recognizer
from recognition.quality import Measures, measure
from recognition.types import Box, Detection
from tests.indexer.conftest import RECIPE, write_tree

Enrol = Callable[..., list[EnrolledImage]]


@pytest.fixture
def tools(settings: Settings, recognizer: Recognizer, database: Database) -> Tools:
    return Tools(settings, recognizer, database)


@pytest.fixture
def policy(tools: Tools, gallery: str) -> Callable[[Policy], None]:
    def choose(chosen: Policy) -> None:
        with tools.database.write() as connection:
            held = galleries.ensure(connection, gallery)
            galleries.set_quality(connection, held.id, chosen)

    return choose


@pytest.fixture
def enrol(tools: Tools, gallery: str) -> Enrol:
    enroller = Enroller(tools.database, Extractor(tools.recognizer, tools.settings), tools.settings)

    def enrolled(person: str, *files: bytes) -> list[EnrolledImage]:
        return list(enroller.enrol(gallery, person, files).images)

    return enrolled


def checks(found: EnrolledImage) -> set[str]:
    return {concern.check for concern in found.concerns}


def changed(jpeg: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    out = io.BytesIO()
    change(Image.open(io.BytesIO(jpeg)).convert("RGB")).save(out, "JPEG", quality=95)
    return out.getvalue()


WORSE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "size": lambda i: i.resize((i.width // 6, i.height // 6)),
    "sharpness": lambda i: i.filter(ImageFilter.GaussianBlur(i.width / 40)),
    "brightness": lambda i: ImageEnhance.Brightness(i).enhance(0.07),
}


@pytest.mark.parametrize("check", WORSE)
def test_bad_photographs_are_rejected_with_reasons(
    policy: Any, enrol: Enrol, photos: dict[str, bytes], check: str
) -> None:
    policy("reject")
    (good,) = enrol("Joe", photos["biden"])
    assert (good.status, good.concerns) == ("enrolled", ())
    (bad,) = enrol("Barack", changed(photos["obama1"], WORSE[check]))
    assert (bad.status, check in checks(bad), bool(bad.reason)) == ("rejected", True, True)
    assert bad.image_id is None


def test_somebody_elses_face(
    tools: Tools, gallery: str, policy: Any, enrol: Enrol, photos: dict[str, bytes]
) -> None:
    policy("reject")
    enrol("Barack", photos["obama1"])
    enrol("Joe", photos["biden"])
    (wrong,) = enrol("Somebody", photos["obama2"])
    assert (wrong.status, checks(wrong)) == ("rejected", {"another_person"})
    assert "'Barack'" in str(wrong.reason)
    (right,) = enrol("Barack", photos["obama2"])
    assert right.status == "enrolled", "it is nearest to his own"
    (double,) = enrol("Joe", changed(photos["biden"], lambda image: image.rotate(3)))
    assert (double.status, checks(double)) == ("rejected", {"near_duplicate"})
    (same,) = enrol("Joe", photos["biden"])
    assert same.status == "exists"
    found = {p["identity"]: p["images"] for p in commands.list_identities(tools, gallery)}
    assert found == {"Barack": 2, "Joe": 1}


def test_unlike_the_others(policy: Any, enrol: Enrol, photos: dict[str, bytes]) -> None:
    policy("flag")
    enrol("Barack", photos["obama1"], photos["obama2"])
    (odd,) = enrol("Barack", photos["biden"])
    assert (odd.status, checks(odd)) == ("enrolled", {"unlike"})


def test_a_flag_is_kept_and_travels(
    tools: Tools, gallery: str, policy: Any, enrol: Enrol, photos: dict[str, bytes], tmp_path: Path
) -> None:
    policy("flag")
    (dim,) = enrol("Joe", changed(photos["biden"], WORSE["brightness"]))
    assert (dim.status, "brightness" in checks(dim)) == ("enrolled", True)
    moving.export(tools, gallery, tmp_path / "a.zip", quiet=True)
    other = f"{gallery} b"
    moving.restore(tools, Asked(tmp_path / "a.zip", other), quiet=True)
    for name in (gallery, other):
        with tools.database.read() as connection:
            held = galleries.get(connection, name)
            ids = connection.scalars(
                text("SELECT id FROM identity WHERE gallery_id = :id"), {"id": held.id}
            ).all()
            (image,) = images.of_identity(connection, ids[0], held.active_space_id)
        assert held.quality == "flag"
        assert "brightness" in image.flags


def test_nothing_is_minded_unless_asked(
    enrol: Enrol, policy: Any, photos: dict[str, bytes]
) -> None:
    policy("accept")
    (dim,) = enrol("Joe", changed(photos["biden"], WORSE["brightness"]))
    assert (dim.status, dim.concerns) == ("enrolled", ())


def test_a_person_is_not_made_by_what_is_rejected(
    tools: Tools, gallery: str, enrol: Enrol, policy: Any, photos: dict[str, bytes]
) -> None:
    policy("reject")
    enrol("Joe", changed(photos["biden"], WORSE["size"]))
    assert commands.list_identities(tools, gallery) == []


def test_a_folder(
    tools: Tools, gallery: str, policy: Any, photos: dict[str, bytes], tmp_path: Path
) -> None:
    tree = write_tree(
        tmp_path / "people",
        {
            "Barack/1.jpg": photos["obama1"],
            "Barack/2.jpg": photos["obama2"],
            "Barack/3.jpg": photos["biden"],
            "Joe/1.jpg": changed(photos["biden"], WORSE["size"]),
        },
    )
    policy("reject")
    done = runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    assert done["counts"] == {"unchanged": 0, "skipped": 0, "added": 2, "rejected": 2}
    told = {error["path"]: error["reason"] for error in done["errors"]}
    assert "unlike" in told["Barack/3.jpg"]
    assert "small" in told["Joe/1.jpg"]
    again = runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    assert again["counts"]["unchanged"] == 4, "what was rejected is not looked at again"
    policy("flag")
    flagged = runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    assert flagged["counts"]["added"] == 2
    assert all(error["reason"].startswith("flagged: ") for error in flagged["errors"])
    with tools.database.read() as connection:
        held = galleries.get(connection, gallery)
        rows = connection.execute(
            t.image.select().where(t.image.c.gallery_id == held.id).order_by(t.image.c.locator)
        ).all()
    assert [row.flags for row in rows][:3] == [[], [], ["unlike"]]
    assert "size" in rows[3].flags


def test_a_changed_file_is_not_its_own_double(
    tools: Tools, gallery: str, policy: Any, photos: dict[str, bytes], tmp_path: Path
) -> None:
    policy("reject")
    tree = write_tree(tmp_path / "people", {"Joe/1.jpg": photos["biden"]})
    runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    (tree / "Joe" / "1.jpg").write_bytes(changed(photos["biden"], lambda i: i))
    done = runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    assert done["counts"]["changed"] == 1, done


def test_every_check_of_a_face() -> None:
    fine = Measures(side=100, sharpness=100, brightness=120, yaw=0.1, score=0.9)
    assert of_face(fine, "mediapipe") == []
    poor = Measures(side=10, sharpness=0.001, brightness=5, yaw=0.9, score=0.1)
    assert [c.check for c in of_face(poor, "mediapipe")] == list(CHECKS[:5])
    assert all(c.told for c in of_face(poor, "mediapipe"))
    assert "score" not in {c.check for c in of_face(poor, "mtcnn")}, "measured for mediapipe only"
    light = Measures(side=100, sharpness=100, brightness=250, yaw=None, score=0.9)
    assert [c.check for c in of_face(light, "mediapipe")] == ["brightness"]


def test_what_is_measured() -> None:
    image = np.full((100, 100, 3), 60, np.uint8)
    points = np.array([[30, 40], [70, 40], [60, 60], [35, 80], [65, 80]], np.float32)
    found = measure(image, Detection(Box(10, 10, 80, 70), 0.8, points))
    assert (found.side, found.sharpness, round(found.brightness), found.score) == (70, 0, 60, 0.8)
    assert found.yaw == pytest.approx(10 / 40)
    turned = points @ np.array([[0, 1], [-1, 0]], np.float32)
    assert measure(image, Detection(Box(0, 0, 9, 9), 1, turned)).yaw == pytest.approx(10 / 40)
    assert measure(image, Detection(Box(200, 200, 9, 9), 1, None)).side == 0
