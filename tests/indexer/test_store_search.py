"""The search in SQL: plans use the index, filters lose nothing, distances and people are numpy's."""

from __future__ import annotations

import io
import re
import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from indexer import maintain, people
from indexer.settings import Settings
from indexer.store import ann, galleries, search, spaces
from indexer.store.engine import Database, WriteConnection
from indexer.store.images import encode_copy
from indexer.store.search import Ranked, Scope, Scoring
from indexer.store.spaces import Space
from recognition.types import METRICS, Metric
from tests.indexer.cache.conftest import Faces, by_face, by_person, made_up

FORMS = {128: "vector", 512: "halfvec", 4096: "bit"}
SIZES = {128: (1200, 4), 512: (500, 4), 4096: (250, 4)}


class Store:
    """A gallery of made-up faces, loaded in bulk, in a space of its own or in another's."""

    def __init__(
        self, database: Database, dimension: int, faces: Faces, space: Space | None = None
    ) -> None:
        self.database = database
        self.name = f"bulk {uuid.uuid4().hex}"
        with database.write() as connection:
            galleries.ensure(connection, self.name)
            self.gallery = galleries.get(connection, self.name).id
            self.space = space or self._made(connection, dimension)
            galleries.set_spaces(connection, self.gallery, active=self.space.id, building=None)
            self.faces = self._load(connection, faces)

    def _made(self, connection: WriteConnection, dimension: int) -> Space:
        space_id = connection.scalar(
            text(
                "INSERT INTO space (model, detector, align, normalization, pipeline_version,"
                " dimension) VALUES (:name, 'none', 'native', 'base', 1, :d) RETURNING id"
            ),
            {"name": self.name, "d": dimension},
        )
        connection.execute(
            text("SELECT facesearch_add_partition(:s, :d)"), {"s": space_id, "d": dimension}
        )
        return spaces.get(connection, int(space_id or 0))

    def _load(self, connection: object, faces: Faces) -> Faces:
        """Rows get ids of their own; the faces as they are stored."""
        owners = np.unique(faces.people)
        run = connection.execute  # type: ignore[attr-defined]
        values = {"g": self.gallery, "s": self.space.id, "n": len(owners)}
        named = run(
            text(
                "INSERT INTO identity (gallery_id, name) SELECT :g, 'p' || n"
                " FROM generate_series(1, :n) AS n RETURNING id"
            ),
            values,
        ).scalars()
        people_ids = dict(zip(owners.tolist(), sorted(named), strict=True))
        owned = [people_ids[p] for p in faces.people.tolist()]
        pictured = run(
            text(
                "INSERT INTO image (gallery_id, identity_id, source, sha256, size, state)"
                " SELECT :g, owner, 'upload', sha256(n::text::bytea), 1, 'ready'"
                " FROM unnest(CAST(:owners AS bigint[])) WITH ORDINALITY AS o(owner, n)"
                " RETURNING id"
            ),
            {"g": self.gallery, "owners": owned},
        ).scalars()
        seen = run(
            text(
                "INSERT INTO face (image_id, space_id, box, confidence, quality)"
                " SELECT image, :s, '{0,0,1,1}', 1, 1"
                " FROM unnest(CAST(:images AS bigint[])) AS image RETURNING id"
            ),
            {"s": self.space.id, "images": list(pictured)},
        ).scalars()
        stored = Faces(np.asarray(list(seen)), np.asarray(owned), faces.raw)
        data = encode_copy(self.space.id, self.gallery, stored.ids, stored.raw)
        driver = connection.connection.driver_connection  # type: ignore[attr-defined]
        into = "COPY embedding (space_id, face_id, gallery_id, vec) FROM STDIN BINARY"
        with driver.cursor() as cursor:
            cursor.copy_expert(into, io.BytesIO(data))
        return stored

    def scope(self, owners: np.ndarray | None = None) -> Scope:
        return Scope(self.space, self.gallery, None if owners is None else owners.tolist())


@pytest.fixture(scope="module")
def stores(database: Database) -> Iterator[dict[int, Store]]:
    """One of each form of index, built."""
    made = {}
    for dimension, (count, each) in SIZES.items():
        store = Store(database, dimension, made_up(count, each, dimension, seed=dimension))
        assert ann.build(database, store.space, 256)
        made[dimension] = store
    yield made
    for store in made.values():
        people.erase_gallery(database, store.name)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these galleries were too large to be scanned."""
    monkeypatch.setattr(search, "EXACT_ROWS", 100)


def plan_of(store: Store, query: str, owners: np.ndarray | None = None) -> str:
    """Under the settings of a search by the index."""
    with store.database.read() as connection:
        connection.execute(search._BY_INDEX, {"ef": "100", "tuples": "200000"})
        values = search._values(store.scope(owners), store.faces.raw[0], 10)
        rows = connection.execute(text("EXPLAIN " + query), {**values, "shortlist": 100}).scalars()
        return "\n".join(rows)


@pytest.mark.parametrize("dimension", FORMS)
@pytest.mark.parametrize("share", [None, 1.0, 0.1, 0.001])
def test_the_plan_uses_the_index(
    stores: dict[int, Store], dimension: int, share: float | None
) -> None:
    store = stores[dimension]
    owners = None if share is None else some(store, share)
    plan = plan_of(store, search.indexed_query(store.scope(owners)), owners)
    assert f"Index Scan using embedding_s{store.space.id}_ann" in plan
    assert ann.form(dimension) == FORMS[dimension]
    if owners is not None:  # of the column's type, or it is not hashed
        assert re.search(r"identity_id = ANY \('\{[0-9,]+\}'::bigint\[\]\)", plan)


@pytest.mark.parametrize("dimension", FORMS)
@pytest.mark.parametrize(
    "wrong",
    [
        "e.vec <=> CAST(:probe AS vector)",
        "CAST(e.vec AS vector(64)) <=> CAST(array_fill(1, ARRAY[64]) AS vector(64))",
        "CAST(e.vec AS halfvec(64)) <=> CAST(array_fill(1.0, ARRAY[64]) AS halfvec(64))",
        "CAST(binary_quantize(e.vec) AS bit(64)) <~> CAST('1' AS bit(64))",
    ],
)
def test_another_cast_scans_in_silence(
    stores: dict[int, Store], dimension: int, wrong: str
) -> None:
    """Nobody is told; that is why the expression is made in one place, and its plan is tested."""
    store = stores[dimension]
    right = search.indexed_query(store.scope())
    query = right.replace(ann.order(dimension, ":probe"), wrong)
    assert query != right
    plan = plan_of(store, query)
    assert "_ann" not in plan
    assert "Sort" in plan


def some(store: Store, share: float) -> np.ndarray:
    """So large a share of the people, at least one."""
    everybody = np.unique(store.faces.people)
    step = max(1, round(1 / share))
    return everybody[::step][: max(1, round(share * len(everybody)))]


def assert_distances(ranked: Ranked, truth: list[tuple[int, int, float]], metric: Metric) -> None:
    """Those of numpy, in their order; roots and arcs magnify what is rounded near nothing."""
    known = {face: (person, distance) for face, person, distance in truth}
    for candidate in ranked.candidates:
        person, distance = known[candidate.face_id]
        near = metric in ("euclidean_l2", "angular") and distance < 0.05
        assert candidate.identity_id == person
        assert candidate.distance == pytest.approx(distance, abs=1e-3 if near else 1e-5)
    distances = [c.distance for c in ranked.candidates]
    assert distances == sorted(distances)
    assert len({c.face_id for c in ranked.candidates}) == len(distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("large", [False, True])
def test_nearest_faces(
    stores: dict[int, Store], metric: Metric, large: bool, request: pytest.FixtureRequest
) -> None:
    if large:
        request.getfixturevalue("all_large")
    for store in stores.values():
        found = wanted = 0
        for probe in store.faces.raw[::97][:5] * 1.1:
            truth = by_face(store.faces, probe, metric)
            with store.database.read() as connection:
                ranked = search.nearest(connection, store.scope(), probe, metric, 10)
            assert ranked.exact is (not large or metric == "euclidean")
            assert_distances(ranked, truth, metric)
            ids = {c.face_id for c in ranked.candidates}
            if ranked.exact:
                assert ids == {face for face, _, _ in truth[:10]}
            found += len(ids & {face for face, _, _ in truth[:10]})
            wanted += 10
        assert found >= 0.9 * wanted


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.001])
def test_a_filter_never_makes_the_answer_short(
    stores: dict[int, Store], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Nor does it cost recall; what the index cannot fill is scanned."""
    monkeypatch.setattr(search, "EXACT_ROWS", 0)
    limit = 20
    for store in stores.values():
        owners = some(store, share)
        left = store.faces.chosen(np.isin(store.faces.people, owners))
        found = wanted = 0
        with store.database.read() as connection:
            for probe in store.faces.raw[::97][:5]:
                ranked = search.nearest(connection, store.scope(owners), probe, "cosine", limit)
                truth = by_face(left, probe, "cosine")
                assert len(ranked.candidates) == min(limit, len(left.ids))
                assert_distances(ranked, truth, "cosine")
                ids = {c.face_id for c in ranked.candidates}
                nearest = {face for face, _, _ in truth[:limit]}
                assert ids == nearest or not ranked.exact
                assert ranked.exact or len(left.ids) > 100
                found, wanted = found + len(ids & nearest), wanted + len(nearest)
        assert found >= 0.9 * wanted


def test_strangers_find_the_nearest_through_a_filter(
    stores: dict[int, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the strict order of an iterative scan loses one in fifteen, the relaxed one hardly any."""
    monkeypatch.setattr(search, "EXACT_ROWS", 0)
    store, found = stores[128], 0
    strangers = made_up(12, 1, 128, seed=77).raw
    for share in (0.5, 0.2, 0.1):
        owners = some(store, share)
        left = store.faces.chosen(np.isin(store.faces.people, owners))
        with store.database.read() as connection:
            for probe in strangers:
                ranked = search.nearest(connection, store.scope(owners), probe, "cosine", 20)
                assert not ranked.exact
                wanted = {face for face, _, _ in by_face(left, probe, "cosine")[:20]}
                found += len(wanted & {c.face_id for c in ranked.candidates})
    assert found >= 0.98 * 20 * 3 * len(strangers)


def test_nobody_selected_is_nobody_found(stores: dict[int, Store], all_large: None) -> None:
    for store in stores.values():
        scope = store.scope(np.empty(0, np.int64))
        with store.database.read() as connection:
            probe = store.faces.raw[0]
            for ranked in (
                search.nearest(connection, scope, probe, "cosine", 9),
                search.nearest_people(connection, scope, probe, "cosine", 9, Scoring("centroid")),
            ):
                assert ranked.candidates == []
                assert ranked.exact
            assert search.count_faces(connection, scope) == 0


def test_few_people_are_scanned_and_many_are_not(
    stores: dict[int, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores[128]
    monkeypatch.setattr(search, "EXACT_ROWS", 400)
    with store.database.read() as connection:
        for people_selected, exact in ((100, True), (101, False)):
            scope = store.scope(np.unique(store.faces.people)[:people_selected])
            ranked = search.nearest(connection, scope, store.faces.raw[0], "cosine", 5)
            assert ranked.exact is exact
            assert search.count_faces(connection, scope) == 4 * people_selected
        assert search.count_faces(connection, store.scope()) == len(store.faces.ids)


def test_a_hundred_thousand_people_may_be_selected(
    stores: dict[int, Store], all_large: None
) -> None:
    store = stores[128]
    owners = np.unique(np.concatenate([store.faces.people, np.arange(10**9, 10**9 + 100_000)]))
    with store.database.read() as connection:
        probe = store.faces.raw[5]
        started = time.monotonic()
        chosen = search.nearest(connection, store.scope(owners), probe, "cosine", 5)
        assert time.monotonic() - started < 5
        assert chosen == search.nearest(connection, store.scope(), probe, "cosine", 5)


def test_what_comes_after_in_a_transaction_is_planned_as_ever(
    stores: dict[int, Store], all_large: None
) -> None:
    store = stores[128]
    with store.database.read() as connection:
        ranked = search.nearest(connection, store.scope(), store.faces.raw[0], "cosine", 5)
        assert not ranked.exact
        for name, value in (("enable_seqscan", "on"), ("enable_sort", "on"), ("jit", "off")):
            assert connection.scalar(text(f"SHOW {name}")) == value
    with store.database.read() as connection:
        assert connection.scalar(text("SHOW hnsw.ef_search")) == "40"


def test_signs_choose_and_cosines_rank(stores: dict[int, Store], all_large: None) -> None:
    """Of 4,096 components the index knows only the signs; the order is not theirs."""
    store = stores[4096]
    differs = 0
    for probe in store.faces.raw[::97][:8]:
        signs = ((store.faces.raw > 0) != (probe > 0)).sum(axis=1)
        by_signs = store.faces.ids[np.argsort(signs, kind="stable")[:10]].tolist()
        wanted = [face for face, _, _ in by_face(store.faces, probe, "cosine")[:10]]
        with store.database.read() as connection:
            ranked = search.nearest(connection, store.scope(), probe, "cosine", 10)
        assert not ranked.exact
        assert [c.face_id for c in ranked.candidates][:5] == wanted[:5]
        differs += by_signs != wanted
    assert differs > 4


def test_galleries_in_a_space_see_only_their_own(
    database: Database, stores: dict[int, Store], all_large: None
) -> None:
    """The large one's index is shared; the small one is too rare in it, or is scanned."""
    large = stores[128]
    small = Store(database, 128, made_up(60, 3, 128, seed=128), large.space)
    try:
        for store in (large, small):
            with database.read() as connection:
                for probe in store.faces.raw[:5]:
                    ranked = search.nearest(connection, store.scope(), probe, "cosine", 12)
                    truth = by_face(store.faces, probe, "cosine")
                    assert len(ranked.candidates) == 12
                    assert_distances(ranked, truth, "cosine")
                    assert ranked.candidates[0].face_id == truth[0][0]
                assert search.count_faces(connection, store.scope()) == len(store.faces.ids)
    finally:
        people.erase_gallery(database, small.name)


@pytest.mark.parametrize("kind", ["best", "mean", "centroid"])
@pytest.mark.parametrize("metric", METRICS)
def test_nearest_people(stores: dict[int, Store], kind: str, metric: Metric) -> None:
    store = stores[128]
    for probe in store.faces.raw[:3]:
        with store.database.read() as connection:
            ranked = search.nearest_people(
                connection, store.scope(), probe, metric, 7, Scoring(kind, 2)
            )
        wanted = by_person(store.faces, probe, metric, kind, 2)[:7]
        assert [c.identity_id for c in ranked.candidates] == [person for person, _ in wanted]
        for candidate, (person, score) in zip(ranked.candidates, wanted, strict=True):
            assert candidate.distance == pytest.approx(score, abs=5e-4)
            own = store.faces.chosen(store.faces.people == person)
            assert candidate.face_id in own.ids


def test_a_crowd_of_faces_of_one_person_hides_nobody(database: Database, all_large: None) -> None:
    crowd = made_up(people=1, each=3000, dimension=32, seed=1)
    others = made_up(people=30, each=2, dimension=32, seed=2)
    faces = Faces(
        np.arange(3060),
        np.concatenate([np.zeros(3000, np.int64), others.people]),
        np.concatenate([crowd.raw, others.raw]),
    )
    store = Store(database, 32, faces)
    ann.build(database, store.space, 64)
    with database.read() as connection:
        ranked = search.nearest_people(
            connection, store.scope(), crowd.raw[0], "cosine", 8, Scoring()
        )
    wanted = by_person(store.faces, crowd.raw[0], "cosine", "best", 1)[:8]
    assert [c.identity_id for c in ranked.candidates] == [person for person, _ in wanted]
    people.erase_gallery(database, store.name)


def test_an_index_that_broke_off_is_built_anew(database: Database) -> None:
    store = Store(database, 16, made_up(40, 3, 16))
    assert ann.build(database, store.space, 64)
    assert not ann.build(database, store.space, 64)
    with database.engine.begin() as connection:
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:n)"),
            {"n": f"embedding_s{store.space.id}_ann"},
        )
    with database.read() as connection:
        assert not ann.is_built(connection, store.space)
    assert ann.build(database, store.space, 64)
    with database.read() as connection:
        assert ann.is_built(connection, store.space)
    people.erase_gallery(database, store.name)


def test_an_index_is_built_while_faces_come(database: Database, all_large: None) -> None:
    store = Store(database, 64, made_up(1500, 2, 64, seed=9))
    more = made_up(30, 1, 64, seed=10)
    came = []
    building = threading.Thread(target=ann.build, args=(database, store.space, 128))
    building.start()
    for n in range(30):
        with database.write() as connection:
            came.append(_one(store, connection, more.raw[n]))
    building.join(60)
    with database.read() as connection:
        assert ann.is_built(connection, store.space)
        for face, vector in zip(came, more.raw, strict=True):
            ranked = search.nearest(connection, store.scope(), vector, "cosine", 1)
            assert not ranked.exact
            assert ranked.candidates[0].face_id == face
    people.erase_gallery(database, store.name)


def _one(store: Store, connection: object, vector: np.ndarray) -> int:
    run = connection.execute  # type: ignore[attr-defined]
    face = run(
        text(
            "WITH i AS (INSERT INTO image (gallery_id, identity_id, source, sha256, size, state)"
            " SELECT :g, min(id), 'upload', sha256(random()::text::bytea), 1, 'ready'"
            " FROM identity WHERE gallery_id = :g RETURNING id)"
            " INSERT INTO face (image_id, space_id, box, confidence, quality)"
            " SELECT id, :s, '{0,0,1,1}', 1, 1 FROM i RETURNING id"
        ),
        {"g": store.gallery, "s": store.space.id},
    ).scalar()
    run(
        text("INSERT INTO embedding VALUES (:s, :f, :g, CAST(:v AS vector))"),
        {"s": store.space.id, "f": face, "g": store.gallery, "v": str(vector.tolist())},
    )
    return int(face)


def test_two_builders_build_once(database: Database) -> None:
    store = Store(database, 32, made_up(600, 3, 32, seed=4))
    results: list[bool] = []
    builders = [
        threading.Thread(target=lambda: results.append(ann.build(database, store.space, 64)))
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert sorted(results) == [False, True]
    people.erase_gallery(database, store.name)


class NoRoom(Exception):
    pgcode = "53100"  # what Postgres says when /dev/shm is too small


@pytest.mark.parametrize(("code", "built"), [("53100", True), ("57014", False)])
def test_without_shared_memory_one_process_builds(
    database: Database, monkeypatch: pytest.MonkeyPatch, code: str, built: bool
) -> None:
    store = Store(database, 16, made_up(40, 3, 16, seed=6))
    tried = []

    def create(*args: object, workers: int) -> None:
        tried.append(workers)
        if workers:
            error = NoRoom()
            error.pgcode = code
            raise DBAPIError("CREATE INDEX", None, error)
        right(*args, workers=workers)  # type: ignore[arg-type]

    right = ann._create
    monkeypatch.setattr(ann, "_create", create)
    if built:
        assert ann.build(database, store.space, 64)
    else:
        with pytest.raises(DBAPIError):
            ann.build(database, store.space, 64)
    assert tried == ([2, 0] if built else [2])
    with database.read() as connection:
        assert ann.is_built(connection, store.space) is built
    people.erase_gallery(database, store.name)


def test_memory_follows_the_size_and_has_a_limit() -> None:
    assert ann.memory_mb(1000, 128, 4096) == 64
    assert 900 < ann.memory_mb(1_000_000, 128, 4096) < 1100
    assert ann.memory_mb(1_000_000, 512, 1024) == 1024
    assert ann.memory_mb(100_000, 4096, 4096) < ann.memory_mb(100_000, 2048, 4096)


def test_housekeeping(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(database, 24, made_up(60, 2, 24, seed=5))
    with database.write() as connection:
        spaces.publish(connection, {store.space.id: [(1, "I"), (2, "I")]})
        connection.execute(
            text("UPDATE change_log SET at = now() - interval '8 days' WHERE space_id = :s"),
            {"s": store.space.id},
        )
        spaces.publish(connection, {store.space.id: [(3, "I")]})
    monkeypatch.setattr(maintain, "ANN_INDEX_FROM", 121)
    maintain.maintain(database, settings)
    with database.read() as connection:
        assert not ann.is_built(connection, store.space)
    monkeypatch.setattr(maintain, "ANN_INDEX_FROM", 120)
    with database.locked("facesearch:maintain"):
        maintain.maintain(database, settings)
    with database.read() as connection:
        assert not ann.is_built(connection, store.space)
    maintain.maintain(database, settings)
    with database.read() as connection:
        assert ann.is_built(connection, store.space)
        left = connection.execute(
            text("SELECT version FROM change_log WHERE space_id = :s"), {"s": store.space.id}
        ).scalars()
        assert list(left) == [2]
    people.erase_gallery(database, store.name)
