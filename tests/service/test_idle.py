"""Both photographs of a pair, and all files of an upload, beside each other where cores are idle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from indexer.enrol import Enroller, Extractor
from indexer.settings import Settings
from indexer.store.engine import Database
from recognition.errors import NoFace
from recognition.idle import IdleCores
from recognition.images import ImageLimits, Picture, read
from recognition.pipeline import Recognizer
from recognition.registry import BUILT_IN
from recognition.spec import Resources
from service import vision
from service.schemas import Options
from service.settings import ServiceSettings

WAIT_S = 10.0


@pytest.fixture
def pairwise(resources: Resources) -> Iterator[Recognizer]:
    """Decodes only two files at a time."""
    barrier = threading.Barrier(2)

    def decode(data: bytes, limits: ImageLimits, enough: int | None) -> Picture:
        barrier.wait(WAIT_S)
        return read(data, limits, enough)

    idle = IdleCores(lambda: 1)
    yield Recognizer(replace(resources, decoder=decode, idle=idle))
    idle.close()


def test_a_pair(pairwise: Recognizer, resources: Resources, photos: dict[str, bytes]) -> None:
    plan = vision.plan(Options(), ServiceSettings(), BUILT_IN)
    pair = {"img1": photos["obama"], "img2": photos["biden"]}
    first, second = vision.represent_all(pairwise, pair, plan)
    (alone,) = vision.represent_all(Recognizer(resources), {"img": photos["obama"]}, plan)
    assert first.faces[0].detection.box == alone.faces[0].detection.box
    assert second.faces[0].detection.box != alone.faces[0].detection.box
    with pytest.raises(NoFace, match="img2"):
        vision.represent_all(pairwise, pair | {"img2": photos["nobody"]}, plan)
    with pytest.raises(NoFace, match="img1"):
        vision.represent_all(pairwise, dict.fromkeys(pair, photos["nobody"]), plan)


def test_an_upload(
    pairwise: Recognizer, settings: Settings, photos: dict[str, bytes], gallery: str
) -> None:
    database = Database.open(settings)
    files = [photos[name] for name in ("obama", "nobody", "obama2", "obama3")]
    enroller = Enroller(database, Extractor(pairwise, settings), settings)
    done = enroller.enrol(gallery, "Barack Obama", files)
    database.close()
    assert [image.status for image in done.images] == [
        "enrolled",
        "rejected",
        "enrolled",
        "enrolled",
    ]
