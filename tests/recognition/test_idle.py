"""Work on cores that are idle: begun there, or not at all; in order; never on more cores than there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest

from recognition.idle import IdleCores
from recognition.pipeline import Recognizer, Selection
from recognition.spec import Resources
from tests.recognition.test_mediapipe import crowd, rgb

WAIT_S = 10.0


@pytest.fixture
def cores() -> Iterator[Callable[[int, int], IdleCores]]:
    made: list[IdleCores] = []

    def make(idle: int, most: int) -> IdleCores:
        made.append(IdleCores(lambda: idle, most))
        return made[-1]

    yield make
    for each in made:
        each.close()


def together(threads: int) -> Callable[[int], int]:
    """Work that only ends when so many do it at the same time."""
    barrier = threading.Barrier(threads)

    def work(item: int) -> int:
        barrier.wait(WAIT_S)
        return item * item

    return work


def test_nothing_is_started_where_no_core_is_idle() -> None:
    here: list[int] = []

    def work(item: int) -> int:
        here.append(threading.get_ident())
        return -item

    cores = IdleCores()
    assert cores.start(lambda: here.append(0)) is None
    assert cores.each(work, range(5)) == [0, -1, -2, -3, -4]
    assert set(here) == {threading.get_ident()}
    assert cores.each(work, []) == []


@pytest.mark.parametrize(("idle", "most"), [(1, 1), (3, 3)])
def test_as_many_items_beside_each_other_as_cores(
    idle: int, most: int, cores: Callable[[int, int], IdleCores]
) -> None:
    threads = idle + 1
    assert cores(idle, most).each(together(threads), range(threads)) == [
        item * item for item in range(threads)
    ]


@pytest.mark.parametrize(("idle", "most"), [(1, 5), (5, 1)])
def test_no_more_than_are_idle_and_may_be_used(
    idle: int, most: int, cores: Callable[[int, int], IdleCores]
) -> None:
    go, some = threading.Event(), cores(idle, most)
    first = some.start(lambda: go.wait(WAIT_S))
    assert first is not None
    assert some.start(go.set) is None
    go.set()
    assert first.result(WAIT_S)
    second = some.start(lambda: "again")
    assert second is not None
    assert second.result(WAIT_S) == "again"


def test_the_first_error_is_told_and_the_core_is_free_again(
    cores: Callable[[int, int], IdleCores],
) -> None:
    some = cores(1, 1)

    def work(item: int) -> int:
        raise ValueError(str(item))

    for _ in range(5):
        with pytest.raises(ValueError, match=r"^0$"):
            some.each(work, range(4))
    with pytest.raises(ValueError, match=r"^3$"):
        some.each(lambda item: work(item) if item == 3 else item, range(4))
    last = some.start(lambda: "free")
    while last is None:  # what nobody waited for is still to end
        last = some.start(lambda: "free")
    assert last.result(WAIT_S) == "free"
    assert some.each(together(2), range(2)) == [0, 1]


@pytest.mark.parametrize("idle", [0, 1])
def test_a_crowd_is_seen_the_same_on_two_cores(
    idle: int,
    resources: Resources,
    portraits: dict[str, bytes],
    cores: Callable[[int, int], IdleCores],
) -> None:
    image, _ = crowd(portraits, 40)
    usual = Recognizer(resources).detect([image], "mediapipe", Selection())
    other = Recognizer(replace(resources, idle=cores(idle, 1)))
    (seen,) = other.detect([image], "mediapipe", Selection())
    assert len(seen) == 4
    for a, b in zip(usual[0], seen, strict=True):
        assert a.box == b.box
        assert a.score == b.score
        np.testing.assert_array_equal(a.landmarks, b.landmarks)


def test_attributes_are_estimated_the_same_on_two_cores(
    resources: Resources, portraits: dict[str, bytes], cores: Callable[[int, int], IdleCores]
) -> None:
    image = rgb(portraits["obama.jpg"])
    answers = []
    for each in (Recognizer(resources), Recognizer(replace(resources, idle=cores(1, 1)))):
        (faces,) = each.detect([image], "mediapipe", Selection())
        (found,) = each.analyze(image, faces[:1], ("age", "gender", "emotion"))
        answers.append(asdict(found))
    assert answers[0] == answers[1]
    assert None not in [answers[0][name] for name in ("age", "gender", "emotion")]
