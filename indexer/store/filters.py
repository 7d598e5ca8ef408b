"""Conditions on the metadata of identities: a JSON object, as SQL.

    {"team": "A"}                              the value is there
    {"age": {"gte": 18, "lt": 65}}             all of the operators hold
    {"team": {"in": ["A", "B"]}, "badge": {"exists": true}}
    {"address": {"city": {"ne": "Paris"}}}     objects nest

An object whose keys are all operators (with or without a leading $) is a condition; any other
value is one that must be contained. `gt`, `gte`, `lt` and `lte` compare numbers with numbers and
strings with strings, by code points, and hold for nothing else; `ne` holds also where there is no
value. Names lead into objects, never into arrays; a name with a leading $ is an operator or wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, any_, cast, collate, func, literal, not_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from indexer.errors import InvalidFilter
from indexer.store import tables as t

OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "exists")
MAX_CONDITIONS = 100
MAX_VALUES = 10_000
"""In a list of `in`."""
MAX_DEPTH = 16
MAX_BITS = 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """`operator` holds between what is at `path` and `value`."""

    path: tuple[str, ...]
    operator: str
    value: Any


def parse(expression: Mapping[str, Any]) -> list[Condition]:
    """All conditions of an expression. Raises InvalidFilter."""
    found = list(_conditions((), expression))
    if len(found) > MAX_CONDITIONS:
        raise InvalidFilter(f"a filter may have {MAX_CONDITIONS} conditions, not {len(found)}")
    return found


def condition(expression: Mapping[str, Any]) -> ColumnElement[bool]:
    """Whether an identity's metadata meets the expression. Raises InvalidFilter."""
    return and_(literal(True), *(_sql(each) for each in parse(expression)))


def _conditions(path: tuple[str, ...], value: Mapping[str, Any]) -> Iterator[Condition]:
    if len(path) > MAX_DEPTH:
        raise InvalidFilter(f"a filter may nest {MAX_DEPTH} deep")
    for key, inner in value.items():
        if str(key).startswith("$"):
            raise InvalidFilter(
                f"there is no operator {key!r} here; known: {', '.join(OPERATORS)}, for the value "
                "of a name and with no other names beside them"
            )
        here = (*path, key)
        operators = _operators(inner)
        if operators:
            for name, operand in operators:
                yield _checked(Condition(here, name, operand))
        elif isinstance(inner, Mapping) and inner:
            yield from _conditions(here, inner)
        else:
            yield _checked(Condition(here, "eq", inner))


def _operators(value: object) -> list[tuple[str, Any]]:
    """Without the $; empty if the value is no condition."""
    if not isinstance(value, Mapping):
        return []
    found = [(str(key).removeprefix("$"), operand) for key, operand in value.items()]
    return found if all(name in OPERATORS for name, _ in found) else []


def _checked(found: Condition) -> Condition:
    where, value = ".".join(map(str, found.path)), found.value
    for each in (*found.path, value):
        _check_value(each, where)
    if found.operator == "in":
        if not isinstance(value, list):
            raise InvalidFilter(f"'in' of {where!r} takes a list")
        if len(value) > MAX_VALUES:
            raise InvalidFilter(f"'in' of {where!r} takes {MAX_VALUES} values, not {len(value)}")
    if found.operator == "exists" and not isinstance(value, bool):
        raise InvalidFilter(f"'exists' of {where!r} takes true or false")
    if found.operator in ("gt", "gte", "lt", "lte"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not isinstance(value, str):
            raise InvalidFilter(f"{found.operator!r} of {where!r} takes a number or a string")
    return found


def _check_value(value: object, where: str, depth: int = 0) -> None:
    """Raises InvalidFilter for what no metadata can hold, which the database refuses to look for."""
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"the value of {where!r} nests more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise InvalidFilter(f"{where!r}: text holds neither U+0000 nor half a character")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_value(key, where, depth + 1)
            _check_value(inner, where, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, where, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidFilter(f"{where!r} takes a finite number")
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise InvalidFilter(f"{where!r} takes a number of up to {MAX_BITS} bits")
    elif value is not None and not isinstance(value, int | float):
        raise InvalidFilter(f"{where!r}: {type(value).__name__} is not of JSON")


def _sql(found: Condition) -> ColumnElement[bool]:
    value = found.value
    if found.operator == "eq":
        return _contains(_nested(found.path, value))
    if found.operator == "ne":
        return not_(_contains(_nested(found.path, value)))
    if found.operator == "in":
        wanted = [json.dumps(_nested(found.path, each)) for each in value]
        return _contains(any_(cast(cast(wanted, ARRAY(Text)), ARRAY(JSONB))))
    at = _at(found.path)
    if found.operator == "exists":
        return at.is_not(None) if value else at.is_(None)
    return func.coalesce(_compared(found, at), False)


def _compared(found: Condition, at: ColumnElement[Any]) -> ColumnElement[bool]:
    symbol = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[found.operator]
    if not isinstance(found.value, str):
        compared = at.op(symbol, is_comparison=True)(_jsonb(found.value))
        return and_(func.jsonb_typeof(at) == "number", compared)
    # As text, for jsonb compares strings as the database's locale does.
    words = collate(at.op("#>>", return_type=Text())(cast([], ARRAY(Text))), "C")
    return and_(
        func.jsonb_typeof(at) == "string",
        words.op(symbol, is_comparison=True)(cast(literal(found.value), Text)),
    )


def _at(path: tuple[str, ...]) -> ColumnElement[Any]:
    """Step by step, for a path in one piece would take "0" for the first of an array."""
    at: ColumnElement[Any] = t.identity.c.metadata
    for key in path:
        at = at.op("->", return_type=JSONB())(cast(literal(key), Text))
    return at


def _nested(path: tuple[str, ...], value: object) -> object:
    for key in reversed(path):
        value = {key: value}
    return value


def _contains(value: object) -> ColumnElement[bool]:
    wanted = value if isinstance(value, ColumnElement) else _jsonb(value)
    contained: ColumnElement[bool] = t.identity.c.metadata.op("@>", is_comparison=True)(wanted)
    return contained


def _jsonb(value: object) -> ColumnElement[Any]:
    return cast(literal(json.dumps(value), Text), JSONB(none_as_null=False))
