"""Drift tests as a file, so that a restart need not read all inspections again: exact to the last bit."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from flawscope_station.drift.martingale import Capital, Ranks
from flawscope_station.drift.sequential_tests import (
    Change,
    DriftTests,
    LightTest,
    SequentialTest,
    StreamPosition,
)

FORMAT = 1  # another number where the tests compute otherwise: then inspections are read again
Key = Sequence[Any]  # by what the tests are the wanted ones: JSON values
_CLASSES: dict[str, Any] = {
    one.__name__: one
    for one in (Capital, Change, DriftTests, LightTest, Ranks, SequentialTest, StreamPosition)
}


def save_tests(tests: DriftTests, key: Key) -> bytes:
    """Return the file of tests: arrays, and JSON that refers to them."""
    arrays: list[Any] = []
    facts = json.dumps({"key": [FORMAT, *key], "tests": _encode(tests, arrays)})
    buffer = io.BytesIO()
    np.savez(buffer, facts=np.array(facts), **{str(number): one for number, one in enumerate(arrays)})
    return buffer.getvalue()


def read_tests(data: bytes, key: Key) -> DriftTests | None:
    """Return the tests of a file; None where they were saved under another key. Damaged files raise errors of
    many kinds."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        if facts["key"] != [FORMAT, *key]:
            return None
        found = _decode(facts["tests"], file)
    assert isinstance(found, DriftTests)
    return found


def _encode(value: Any, arrays: list[Any]) -> Any:
    """Return a value as JSON knows it; arrays are collected apart."""
    if isinstance(value, np.ndarray | array):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1, "is_list": isinstance(value, array)}
    if type(value).__name__ in _CLASSES:
        fields = value._asdict() if isinstance(value, StreamPosition) else vars(value)
        known = {name: _encode(one, arrays) for name, one in fields.items()}
        return {"class": type(value).__name__, "fields": known}
    if isinstance(value, list | tuple):
        return [_encode(one, arrays) for one in value]
    return value


def _decode(value: Any, file: Any) -> Any:
    if isinstance(value, list):
        return [_decode(one, file) for one in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        found = file[str(value["array"])]
        return array("d", found.tobytes()) if value["is_list"] else found
    kind, fields = _CLASSES[value["class"]], {k: _decode(one, file) for k, one in value["fields"].items()}
    if kind in (Change, StreamPosition):
        return kind(**fields)
    made = object.__new__(kind)
    made.__dict__.update(fields)
    return made
