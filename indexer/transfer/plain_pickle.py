"""Plain values out of a pickle: lists, dicts, text, numbers, truth and nothing. No code is ever run.

A machine of its own for the few instructions (protocols 2 to 5) that such values need. Any other one, those that name
a class or call a function first of all, ends it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from indexer.transfer.errors import BadSource

MOST_VALUES = 200_000_000
MOST_OPEN = 64
"""Containers begun and not ended: no plain store is deeper."""
LONG_BYTES = 16
FLOAT_RUN: Final = np.dtype([("op", "u1"), ("value", ">f8")])
"""A float behind its instruction; vectors are long runs of them."""
RUN_LEAST = 16
RUN_MOST = 4096

_MARK: Final = object()


def load(data: bytes) -> Any:  # noqa: ANN401 - any plain value
    """The value. Raises BadSource for everything that is not a whole pickle of plain values."""
    machine = _Machine(data)
    try:
        return machine.run()
    except (IndexError, KeyError, TypeError, ValueError, struct.error, OverflowError) as error:
        raise BadSource(f"the pickle is damaged at byte {machine.at}") from error


class _Machine:
    """Its stack holds values and marks, its memo values by number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._values = 0
        self.at = 0

    def run(self) -> Any:  # noqa: ANN401
        while True:
            code = self._data[self.at]
            self.at += 1
            if code == _STOP:
                (value,) = self._stack
                return value
            if code == _FLOAT:
                self._floats()
                continue
            step = _STEPS.get(code)
            if step is None:
                raise BadSource(
                    f"the pickle asks for more than plain values (instruction {code:#04x} at byte "
                    f"{self.at - 1}): it is not read, for it might run code"
                )
            step(self)

    def take(self, count: int) -> bytes:
        """The next bytes; IndexError if they are not there."""
        if count > len(self._data) - self.at:
            raise IndexError
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def push(self, value: Any) -> None:  # noqa: ANN401
        self._values += 1
        if self._values > MOST_VALUES:
            raise BadSource(f"the pickle holds more than {MOST_VALUES} values")
        self._stack.append(value)

    def mark(self) -> None:
        if len(self._marks) >= MOST_OPEN:
            raise BadSource(f"the pickle is nested more than {MOST_OPEN} deep")
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def pop(self, count: int) -> list[Any]:
        least = self._marks[-1] if self._marks else 0
        if len(self._stack) - count < least:
            raise IndexError
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def top(self, kind: type) -> Any:  # noqa: ANN401
        value = self._stack[-1]
        if type(value) is not kind:
            raise TypeError
        return value

    def remember(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def recall(self, number: int) -> None:
        self.push(self._memo[number])

    def _floats(self) -> None:
        """As many floats as stand in a row, the first one's instruction being read already."""
        start = self.at - 1
        count = min(RUN_MOST, (len(self._data) - start) // FLOAT_RUN.itemsize)
        if count >= RUN_LEAST:
            run = np.frombuffer(self._data, FLOAT_RUN, count, start)
            others = np.flatnonzero(run["op"] != _FLOAT)
            count = int(others[0]) if len(others) else count
            self._values += count
            if self._values > MOST_VALUES:
                raise BadSource(f"the pickle holds more than {MOST_VALUES} values")
            self._stack.extend(run["value"][:count].tolist())
            self.at = start + count * FLOAT_RUN.itemsize
            return
        self.push(struct.unpack(">d", self.take(8))[0])


def _skip(width: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        m.take(width)

    return step


def _text(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.number(width)).decode("utf-8", "surrogatepass"))


def _long(m: _Machine) -> None:
    size = m.number(1)
    if size > LONG_BYTES:
        raise BadSource("the pickle holds a number of more than 128 bits")
    m.push(int.from_bytes(m.take(size), "little", signed=True))


def _append(m: _Machine) -> None:
    (value,) = m.pop(1)
    m.top(list).append(value)


def _appends(m: _Machine) -> None:
    items = m.since_mark()
    m.top(list).extend(items)


def _set(m: _Machine, items: list[Any]) -> None:
    target = m.top(dict)
    if len(items) % 2 or not all(type(key) is str for key in items[::2]):
        raise TypeError
    target.update(zip(items[::2], items[1::2], strict=True))


_STOP, _FLOAT = ord("."), ord("G")
_STEPS: Mapping[int, Callable[[_Machine], None]] = MappingProxyType(
    {
        0x80: _skip(1),  # protocol
        0x95: _skip(8),  # frame
        ord("("): _Machine.mark,
        ord("]"): lambda m: m.push([]),
        ord("}"): lambda m: m.push({}),
        ord("N"): lambda m: m.push(None),
        0x88: lambda m: m.push(True),
        0x89: lambda m: m.push(False),
        ord("J"): lambda m: m.push(m.number(4, signed=True)),
        ord("K"): lambda m: m.push(m.number(1)),
        ord("M"): lambda m: m.push(m.number(2)),
        0x8A: _long,
        0x8C: _text(1),
        ord("X"): _text(4),
        0x8D: _text(8),
        ord("a"): _append,
        ord("e"): _appends,
        ord("s"): lambda m: _set(m, m.pop(2)),
        ord("u"): lambda m: _set(m, m.since_mark()),
        0x94: lambda m: m.remember(None),
        ord("q"): lambda m: m.remember(m.number(1)),
        ord("r"): lambda m: m.remember(m.number(4)),
        ord("h"): lambda m: m.recall(m.number(1)),
        ord("j"): lambda m: m.recall(m.number(4)),
    }
)
