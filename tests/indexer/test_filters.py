"""Metadata filters: each operator, and SQL against a plain evaluation of the same expression."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer import people
from indexer.errors import InvalidFilter
from indexer.store import filters, galleries, identities
from indexer.store.engine import Database

NASTY = "'; DROP TABLE face; -- %s %(x)s :name \\ \" \u2603"
METADATA: dict[str, dict[str, Any]] = {
    "ada": {"team": "A", "age": 36, "tags": ["x", "y"], "address": {"city": "London", "no": 3}},
    "bob": {"team": "B", "age": 18.5, "badge": None, "active": True},
    "cyd": {"team": "A", "age": "36", "active": False, "address": {"city": "Paris"}},
    "dan": {"team": "Ä", "note": NASTY, NASTY: 1},
    "eve": {},
}


@pytest.fixture(scope="module")
def known(database: Database) -> Iterator[tuple[Database, int, dict[int, str]]]:
    name = f"filters {uuid.uuid4().hex}"
    with database.write() as connection:
        gallery = galleries.ensure(connection, name)
        ids = identities.ensure(connection, gallery.id, METADATA)
        for person, identity_id in ids.items():
            identities.set_metadata(connection, identity_id, METADATA[person])
    yield database, gallery.id, {v: k for k, v in ids.items()}
    people.erase_gallery(database, name)


def select(known: tuple[Database, int, dict[int, str]], expression: dict[str, Any]) -> str:
    """First letters of those who meet it."""
    database, gallery_id, names = known
    with database.read() as connection:
        found = identities.select_ids(connection, gallery_id, None, expression)
    return "".join(sorted(names[identity_id][0] for identity_id in found))


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ({"team": "A"}, "ac"),
        ({"team": {"eq": "A"}}, "ac"),
        ({"team": {"$eq": "A"}}, "ac"),
        ({"team": {"ne": "A"}}, "bde"),
        ({"team": {"in": ["B", "Ä"]}}, "bd"),
        ({"team": {"in": []}}, ""),
        ({"age": {"gt": 18.5}}, "a"),
        ({"age": {"gte": 18.5}}, "ab"),
        ({"age": {"lt": 36}}, "b"),
        ({"age": {"lte": 36}}, "ab"),
        ({"age": {"gte": 18, "lt": 30}}, "b"),
        ({"age": {"gte": "3"}}, "c"),
        ({"age": 36.0}, "a"),
        ({"age": "36"}, "c"),
        ({"badge": {"exists": True}}, "b"),
        ({"badge": {"exists": False}}, "acde"),
        ({"badge": None}, "b"),
        ({"active": True}, "b"),
        ({"active": {"ne": True}}, "acde"),
        ({"address": {"city": "London"}}, "a"),
        ({"address": {"city": {"in": ["London", "Paris"]}, "no": {"exists": False}}}, "c"),
        ({"address": {"exists": True}}, "ac"),
        ({"address": {}}, "ac"),
        ({"tags": ["y"]}, "a"),
        ({"tags": "y"}, ""),
        ({"note": NASTY}, "d"),
        ({NASTY: 1}, "d"),
        ({NASTY: {"gt": 0}}, "d"),
        ({"team": {"gt": "B"}}, "d"),
        ({"team": "A", "age": {"lt": 40}}, "a"),
        ({"in": [1]}, ""),
        ({"team": {"size": 3}}, ""),
    ],
)
def test_conditions(
    known: tuple[Database, int, dict[int, str]], expression: dict[str, Any], wanted: str
) -> None:
    assert select(known, expression) == wanted


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ({"a": {"in": 3}}, "takes a list"),
        ({"a": {"exists": 1}}, "true or false"),
        ({"a": {"gt": None}}, "a number or a string"),
        ({"a": {"lt": True}}, "a number or a string"),
        ({"a": {"gte": [1]}}, "a number or a string"),
        ({"a": {"lte": float("inf")}}, "finite"),
        ({"a": {"$like": "x"}}, "no operator '\\$like'"),
        ({str(n): n for n in range(101)}, "100 conditions"),
    ],
)
def test_what_cannot_be_understood(expression: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidFilter, match=reason):
        filters.parse(expression)


def test_depth_is_bounded() -> None:
    deep: dict[str, Any] = {"a": {"eq": 1}}
    for _ in range(30):
        deep = {"a": deep}
    with pytest.raises(InvalidFilter, match="deep"):
        filters.parse(deep)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 40), st.sampled_from(["A", "B", "Ä", "36", ""])
)
KEYS = st.sampled_from(["team", "age", "badge", "active", "note", "nothing"])
RANGES = st.dictionaries(
    st.sampled_from(["gt", "gte", "lt", "lte"]),
    st.one_of(st.integers(-5, 40), st.sampled_from(["A", "B", "36"])),
    min_size=1,
)
CONDITIONS = st.one_of(
    SCALARS,
    st.fixed_dictionaries({"in": st.lists(SCALARS, max_size=3)}),
    st.fixed_dictionaries({"ne": SCALARS}),
    st.fixed_dictionaries({"exists": st.booleans()}),
    RANGES,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(expression=st.dictionaries(KEYS, CONDITIONS, max_size=3))
def test_as_a_plain_evaluation(
    known: tuple[Database, int, dict[int, str]], expression: dict[str, Any]
) -> None:
    wanted = sorted(
        name[0]
        for name, metadata in METADATA.items()
        if all(holds(metadata, key, condition) for key, condition in expression.items())
    )
    assert select(known, expression) == "".join(wanted)


MISSING = object()


def holds(metadata: dict[str, Any], key: str, condition: Any) -> bool:
    value = metadata.get(key, MISSING)
    if not isinstance(condition, dict):
        return same(value, condition)
    return all(operator_holds(value, name, operand) for name, operand in condition.items())


def operator_holds(value: Any, name: str, operand: Any) -> bool:
    if name == "in":
        return any(same(value, each) for each in operand)
    if name == "ne":
        return not same(value, operand)
    if name == "exists":
        return (value is not MISSING) is operand
    kinds = (str,) if isinstance(operand, str) else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    return {
        "gt": value > operand, "gte": value >= operand, "lt": value < operand,
        "lte": value <= operand,
    }[name]  # fmt: skip


def same(value: Any, other: Any) -> bool:
    if value is MISSING or isinstance(value, bool) is not isinstance(other, bool):
        return False
    return bool(value == other) and (value is None) is (other is None)
