"""Metadata filters: each operator, and SQL against a plain evaluation of the same expression."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select as sql_select
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import dialect

from indexer import people
from indexer.errors import InvalidFilter
from indexer.store import filters, galleries, identities
from indexer.store import tables as t
from indexer.store.engine import Database

NASTY = "'; DROP TABLE face; -- %s %(x)s :name \\ \" \u2603"
METADATA: dict[str, dict[str, Any]] = {
    "ada": {"team": "A", "age": 36, "tags": ["x", "y"], "address": {"city": "London", "no": 3}},
    "bob": {"team": "B", "age": 18.5, "badge": None, "active": True},
    "cyd": {"team": "A", "age": "36", "active": False, "address": {"city": "Paris"}},
    "dan": {"team": "Ä", "note": NASTY, NASTY: 1},
    "eve": {},
    "fay": {"team": "a", "tags": [{"k": 1, "l": 2}, ["x"]], "note": "100%", "age": -1e-3},
}


Known = tuple[Database, int, dict[int, str]]


def enrolled(database: Database, metadata: Mapping[str, dict[str, Any]]) -> Iterator[Known]:
    name = f"filters {uuid.uuid4().hex}"
    with database.write() as connection:
        gallery = galleries.ensure(connection, name)
        ids = identities.ensure(connection, gallery.id, metadata)
        for person, identity_id in ids.items():
            identities.set_metadata(connection, identity_id, metadata[person])
    yield database, gallery.id, {v: k for k, v in ids.items()}
    people.erase_gallery(database, name)


@pytest.fixture(scope="module")
def known(database: Database) -> Iterator[Known]:
    yield from enrolled(database, METADATA)


def names(known: Known, expression: dict[str, Any]) -> list[str]:
    database, gallery_id, by_id = known
    with database.read() as connection:
        found = identities.select_ids(connection, gallery_id, None, expression)
    return sorted(by_id[identity_id] for identity_id in found)


def select(known: Known, expression: dict[str, Any]) -> str:
    """First letters of those who meet it."""
    return "".join(name[0] for name in names(known, expression))


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ({"team": "A"}, "ac"),
        ({"team": {"eq": "A"}}, "ac"),
        ({"team": {"$eq": "A"}}, "ac"),
        ({"team": {"ne": "A"}}, "bdef"),
        ({"team": {"$ne": "A"}}, "bdef"),
        ({"team": {"in": ["B", "Ä"]}}, "bd"),
        ({"team": {"$in": ["B", "Ä", None, 1, ["x"], {"x": 1}]}}, "bd"),
        ({"team": {"in": []}}, ""),
        ({"age": {"gt": 18.5}}, "a"),
        ({"age": {"$gt": 18.5}}, "a"),
        ({"age": {"gte": 18.5}}, "ab"),
        ({"age": {"$gte": 18.5}}, "ab"),
        ({"age": {"lt": 36}}, "bf"),
        ({"age": {"$lt": 36}}, "bf"),
        ({"age": {"lte": 36}}, "abf"),
        ({"age": {"$lte": 36}}, "abf"),
        ({"age": {"gte": 18, "lt": 30}}, "b"),
        ({"age": {"gt": 18, "$gt": 30}}, "a"),
        ({"age": {"$gt": 30, "gt": 18}}, "a"),
        ({"age": {"gte": "3"}}, "c"),
        ({"age": 36.0}, "a"),
        ({"age": {"in": [36, 18.50]}}, "ab"),
        ({"age": -0.001}, "f"),
        ({"age": {"lt": 10**300}}, "abf"),
        ({"age": "36"}, "c"),
        ({"age": True}, ""),
        ({"active": 1}, ""),
        ({"active": {"gte": 0}}, ""),
        ({"badge": {"exists": True}}, "b"),
        ({"badge": {"$exists": False}}, "acdef"),
        ({"badge": None}, "b"),
        ({"badge": {"ne": None}}, "acdef"),
        ({"active": True}, "b"),
        ({"active": {"ne": True}}, "acdef"),
        ({"address": {"city": "London"}}, "a"),
        ({"address": {"city": {"ne": "Paris"}}}, "abdef"),
        ({"address": {"city": {"in": ["London", "Paris"]}, "no": {"exists": False}}}, "c"),
        ({"address": {"eq": {"no": 3}}}, "a"),
        ({"address": {"exists": True}}, "ac"),
        ({"address": {}}, "ac"),
        ({"team": {"name": {"exists": False}}}, "abcdef"),
        ({"tags": ["y"]}, "a"),
        ({"tags": ["y", "x", "y"]}, "a"),
        ({"tags": []}, "af"),
        ({"tags": {"in": [["x"], ["q"]]}}, "a"),
        ({"tags": [{"k": 1}]}, "f"),
        ({"tags": [["x"]]}, "f"),
        ({"tags": "y"}, ""),
        ({"tags": {"0": {"exists": True}}}, ""),
        ({"tags": {"0": {"gte": "a"}}}, ""),
        ({"note": NASTY}, "d"),
        ({NASTY: 1}, "d"),
        ({NASTY: {"gt": 0}}, "d"),
        ({NASTY: {"exists": True}}, "d"),
        ({"note": {"in": [NASTY, "100%"]}}, "df"),
        ({"note": {"gte": NASTY, "lte": NASTY}}, "d"),
        ({"note": "100_"}, ""),
        ({"team": {"gt": "B"}}, "df"),
        ({"team": {"gt": "B", "lt": "a\U0001f600"}}, "f"),
        ({"team": "A", "age": {"lt": 40}}, "a"),
        ({"in": [1]}, ""),
        ({"team": {"size": 3}}, ""),
        ({"team": {"eq": "A", "size": 3}}, ""),
    ],
)
def test_conditions(known: Known, expression: dict[str, Any], wanted: str) -> None:
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
        ({"a": {"gte": float("nan")}}, "finite"),
        ({"a": {"b": float("nan")}}, "'a.b' takes a finite number"),
        ({"a": [float("inf")]}, "finite"),
        ({"a": 1 << 2000}, "1024 bits"),
        ({"a": {"$like": "x"}}, "no operator '\\$like'"),
        ({"a": {"$gt": 1, "b": 2}}, "no operator '\\$gt' here.*no other names"),
        ({"$or": [{"a": 1}]}, "no operator '\\$or'"),
        ({"a": {"in": list(range(10_001))}}, "10000 values"),
        ({"a": "\0"}, r"U\+0000"),
        ({"a\0": {"exists": True}}, r"U\+0000"),
        ({"a": {"in": ["x", "\ud800"]}}, "half a character"),
        ({"a": {"ne": {"b\udfff": 1}}}, "half a character"),
        ({"a": {1, 2}}, "set is not of JSON"),
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
    values: Any = 1
    for _ in range(5000):
        values = [values]
    with pytest.raises(InvalidFilter, match="deep"):
        filters.parse({"a": {"in": [values]}})


def test_strings_are_compared_without_a_locale() -> None:
    """An embedded database has none, another may."""
    assert 'COLLATE "C"' in str(filters.condition({"team": {"gt": "B"}}).compile(dialect=dialect()))


def test_many_values_at_once(known: Known) -> None:
    assert select(known, {"team": {"in": [*range(9_999), "B"]}}) == "b"


@pytest.mark.parametrize("expression", [{"team": "A"}, {"address": {"city": {"in": ["P", "Q"]}}}])
def test_conditions_can_use_the_index(database: Database, expression: dict[str, Any]) -> None:
    statement = sql_select(t.identity.c.id).where(filters.condition(expression))
    with database.read() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
        rows = connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params)  # type: ignore[arg-type]
        assert "identity_metadata_ix" in "\n".join(rows.scalars())


NAMES = ["team", "age", "tags", "0", "in", "$", "Ä\u2603", NASTY]
LEAVES: list[Any] = [None, True, False, -5, 0, 1, 36, 36.0, 2.5, "", "A", "B", "Ä", "1", NASTY]
KEYS = st.sampled_from([name for name in NAMES if name != "$"])
VALUES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
ORDERED = st.sampled_from([leaf for leaf in LEAVES if leaf is not None and leaf not in (True, 0)])
OPERANDS = {
    "eq": VALUES, "ne": VALUES, "in": st.lists(VALUES, max_size=3), "exists": st.booleans(),
    "gt": ORDERED, "gte": ORDERED, "lt": ORDERED, "lte": ORDERED,
}  # fmt: skip
DOLLARS = {f"${name}": operands for name, operands in OPERANDS.items()}
CONDITIONS = st.lists(
    st.sampled_from([*OPERANDS, *DOLLARS]), min_size=1, max_size=2, unique=True
).flatmap(lambda chosen: st.fixed_dictionaries({k: (OPERANDS | DOLLARS)[k] for k in chosen}))
PLAIN = VALUES.filter(lambda value: not isinstance(value, dict)) | st.just({})
INNER = st.recursive(  # without a name that is also an operator's
    st.dictionaries(KEYS.filter(lambda name: name != "in"), CONDITIONS | PLAIN, max_size=2),
    lambda inner: st.dictionaries(KEYS.filter(lambda name: name != "in"), inner, max_size=2),
    max_leaves=3,
)
EXPRESSIONS = st.dictionaries(KEYS, CONDITIONS | PLAIN | INNER, max_size=3)


def made_up(chance: random.Random, depth: int = 0) -> Any:
    kind = 0 if depth == 0 else chance.choice([0, 1, 2, 2, 2, 2]) if depth < 4 else 2
    if kind == 0:
        chosen = chance.sample(NAMES, chance.randint(0, 4))
        return {name: made_up(chance, depth + 1) for name in chosen}
    if kind == 1:
        return [made_up(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    return chance.choice(LEAVES)


class Many:
    """People with made-up metadata."""

    def __init__(self, known: Known, metadata: dict[str, dict[str, Any]]) -> None:
        self.known = known
        self.metadata = metadata


@pytest.fixture(scope="module")
def many(database: Database) -> Iterator[Many]:
    chance = random.Random(8)
    metadata = {f"p{n}": made_up(chance) for n in range(300)}
    for known in enrolled(database, metadata):
        yield Many(known, metadata)


@settings(max_examples=300, deadline=None)
@given(expression=EXPRESSIONS)
def test_as_a_plain_evaluation(many: Many, expression: dict[str, Any]) -> None:
    wanted = [name for name, stored in many.metadata.items() if holds(stored, expression)]
    assert names(many.known, expression) == sorted(wanted)


@pytest.mark.parametrize("condition", [{"gte": 0}, {"lt": "B"}, {"in": ["A", 1]}, [], {}, "A"])
def test_some_of_the_made_up_are_found(many: Many, condition: Any) -> None:
    """That the comparison above is not one of nothing with nothing."""
    assert 0 < len(names(many.known, {"team": condition})) < 200


MISSING = object()


def holds(metadata: Any, expression: dict[str, Any], path: tuple[str, ...] = ()) -> bool:
    for name, inner in expression.items():
        here = (*path, name)
        if not isinstance(inner, dict) or not inner:
            met = contains(metadata, nested(here, inner))
        elif all(key.removeprefix("$") in OPERANDS for key in inner):
            met = all(
                operator_holds(metadata, here, key.removeprefix("$"), operand)
                for key, operand in inner.items()
            )
        else:
            met = holds(metadata, inner, here)
        if not met:
            return False
    return True


def operator_holds(metadata: Any, path: tuple[str, ...], name: str, operand: Any) -> bool:
    if name in ("eq", "ne"):
        return contains(metadata, nested(path, operand)) is (name == "eq")
    if name == "in":
        return any(contains(metadata, nested(path, each)) for each in operand)
    value = metadata
    for key in path:
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    if name == "exists":
        return (value is not MISSING) is operand
    kinds = (str,) if isinstance(operand, str) else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    return {
        "gt": value > operand, "gte": value >= operand, "lt": value < operand,
        "lte": value <= operand,
    }[name]  # fmt: skip


def nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def contains(stored: Any, wanted: Any) -> bool:
    """As @> of jsonb does, below the outermost object."""
    if isinstance(wanted, dict):
        return isinstance(stored, dict) and all(
            key in stored and contains(stored[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(stored, list) and all(
            any(contains(each, value) for each in stored) for value in wanted
        )
    if isinstance(stored, dict | list) or isinstance(stored, bool) is not isinstance(wanted, bool):
        return False
    return bool(stored == wanted)
