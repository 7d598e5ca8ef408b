"""Conditions on the metadata of identities: a JSON object, as SQL.

    {"team": "A"}                              the value is there
    {"age": {"gte": 18, "lt": 65}}             all of the operators hold
    {"team": {"in": ["A", "B"]}, "badge": {"exists": true}}
    {"address": {"city": {"ne": "Paris"}}}     objects nest

An object whose keys are all operators (with or without a leading $) is a condition; any other
value is one that must be contained. `gt`, `gte`, `lt` and `lte` compare numbers with numbers and
strings with strings, and hold for nothing else; `ne` holds also where there is no value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, func, literal, not_, or_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from indexer.errors import InvalidFilter
from indexer.store import tables as t

OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "exists")
MAX_CONDITIONS = 100
MAX_DEPTH = 16


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
        here = (*path, key)
        operators = _operators(inner)
        if operators:
            for name, operand in operators.items():
                yield _checked(Condition(here, name, operand))
        elif isinstance(inner, Mapping) and inner:
            yield from _conditions(here, inner)
        else:
            yield Condition(here, "eq", inner)


def _operators(value: object) -> dict[str, Any]:
    """By name without the $; empty if the value is no condition. Raises InvalidFilter."""
    if not isinstance(value, Mapping) or not value:
        return {}
    names = {key: key.removeprefix("$") for key in value}
    known = [name in OPERATORS for name in names.values()]
    if all(known):
        return {names[key]: operand for key, operand in value.items()}
    for key in value:
        if key.startswith("$") and names[key] not in OPERATORS:
            raise InvalidFilter(f"there is no operator {key!r}; known: {', '.join(OPERATORS)}")
    return {}


def _checked(found: Condition) -> Condition:
    where, value = ".".join(found.path), found.value
    if found.operator == "in" and not isinstance(value, list):
        raise InvalidFilter(f"'in' of {where!r} takes a list")
    if found.operator == "exists" and not isinstance(value, bool):
        raise InvalidFilter(f"'exists' of {where!r} takes true or false")
    if found.operator in ("gt", "gte", "lt", "lte"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not isinstance(value, str):
            raise InvalidFilter(f"{found.operator!r} of {where!r} takes a number or a string")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidFilter(f"{found.operator!r} of {where!r} takes a finite number")
    return found


def _sql(found: Condition) -> ColumnElement[bool]:
    metadata, value = t.identity.c.metadata, found.value
    at: ColumnElement[Any] = metadata.op("#>")(cast(list(found.path), ARRAY(Text)))
    if found.operator == "eq":
        return _contains(found.path, value)
    if found.operator == "ne":
        return not_(_contains(found.path, value))
    if found.operator == "in":
        return or_(literal(False), *(_contains(found.path, each) for each in value))
    if found.operator == "exists":
        return at.is_not(None) if value else at.is_(None)
    kind = "string" if isinstance(value, str) else "number"
    symbol = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[found.operator]
    compared = at.op(symbol, is_comparison=True)(_jsonb(value))
    return func.coalesce(and_(func.jsonb_typeof(at) == kind, compared), False)


def _contains(path: tuple[str, ...], value: object) -> ColumnElement[bool]:
    for key in reversed(path):
        value = {key: value}
    contained: ColumnElement[bool] = t.identity.c.metadata.op("@>", is_comparison=True)(
        _jsonb(value)
    )
    return contained


def _jsonb(value: object) -> ColumnElement[Any]:
    return cast(literal(json.dumps(value), Text), JSONB(none_as_null=False))
