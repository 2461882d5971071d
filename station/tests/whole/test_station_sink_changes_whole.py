"""What waits for a sink when the settings change: all of it is sent, or it is told how much is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.sinks import UNDELIVERED
from sink_changes_helpers import (
    MESSAGES,
    NAMED,
    A,
    B,
    SinkTuple,
    floor_fixture,  # noqa: F401
    hook,
    receivers_fixture,  # noqa: F401
)
from sink_helpers import make_sink
from station_helpers import NAME, until


def directory(path: Path, **more: Any) -> SinkSettings:
    return make_sink(folder=str(path), picture="none", **more)


# What the settings say afterwards, from the addresses of three receivers and a folder; and how many sinks are
# told to have gone with what waited for them
WAYS: dict[str, tuple[Callable[[list[str], Path], SinkTuple], int]] = {
    "another token": (lambda to, path: (hook(to[0] + "?token=2"), B, NAMED), 0),
    "another host, port and path": (lambda to, path: (hook(to[0]), B, NAMED), 0),
    "all addresses": (lambda to, path: (hook(to[0]), hook(to[1]), hook(to[2], name="mes")), 0),
    "the named one's address": (lambda to, path: (A, B, hook(to[0], name="mes")), 0),
    "another order": (lambda to, path: (NAMED, B, A), 0),
    "another order and one address": (lambda to, path: (NAMED, hook(to[0]), A), 0),
    "another order and two addresses": (lambda to, path: (hook(to[0]), NAMED, hook(to[1])), 0),
    "one in front": (lambda to, path: (directory(path), A, B, NAMED), 0),
    "one in front and an address": (lambda to, path: (directory(path), hook(to[0]), B, NAMED), 0),
    "one added at the end": (lambda to, path: (A, B, NAMED, hook(to[0], name="new")), 0),
    "the first goes": (lambda to, path: (B, NAMED), 1),
    "the first goes, the second's address changes": (lambda to, path: (hook(to[0]), NAMED), 1),
    "the named one goes": (lambda to, path: (A, B), 1),
    "all go": (lambda to, path: (), 3),
    "it gets a name": (lambda to, path: (replace(A, name="first"), B, NAMED), 0),
    "it loses its name": (lambda to, path: (A, B, hook(to[0])), 0),
    "another name": (lambda to, path: (A, B, replace(NAMED, name="erp")), 1),
    "another kind": (lambda to, path: (directory(path), B, NAMED), 1),
    "only anomalous ones, and signed": (lambda to, path: (hook(to[0], verdicts=False), B, NAMED), 0),
    "nothing": (lambda to, path: (A, B, NAMED), 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_is_sent_or_told(way, floor, receivers, tmp_path):
    change, gone = WAYS[way]
    before = floor.open((A, B, NAMED))
    floor.record()
    assert [one["waiting"] for one in before.facts(NAME)] == [MESSAGES] * 3
    after = change([one.url for one in receivers], tmp_path / "out")
    facts = floor.open(after).facts(NAME)
    fresh = ["new" in one["name"] or one["kind"] == "folder" for one in facts]
    fresh = [one or (way == "another name" and facts[at]["name"] == "erp") for at, one in enumerate(fresh)]
    assert [one["waiting"] for one in facts] == [0 if one else MESSAGES for one in fresh]
    assert len(floor.told()) == gone
    assert all(f"{MESSAGES} records" in text for text in floor.told())
    told = [text for code, text in floor.problems.items() if code.startswith(UNDELIVERED) and text]
    assert sum(text.count(f"{MESSAGES} records") for text in told) == gone
    floor.opened[-1].start()
    wanted = [one.address for one in after]
    for receiver in receivers:
        if any(address.startswith(receiver.url) for address in wanted) and way != "one added at the end":
            until(lambda one=receiver: len(one.taken) >= MESSAGES)
            assert len({one.json["id"] for one in receiver.taken}) == MESSAGES


# The same of folders; the first cannot be written. To which folder the messages go; None: they are told
FOLDER_WAYS: dict[str, tuple[Callable[[Path, str], SinkTuple], str | None]] = {
    "another path": (lambda path, to: (directory(path / "new"),), "new"),
    "the same, and it can be written": (lambda path, to: (directory(path / "old"),), "old"),
    "another path and one in front": (lambda path, to: (hook(to), directory(path / "new")), "new"),
    "it gets a name": (lambda path, to: (directory(path / "old", name="archive"),), "old"),
    "a name and another path": (lambda path, to: (directory(path / "new", name="archive"),), None),
    "without verdicts": (lambda path, to: (directory(path / "new", verdicts=False),), "new"),
    "it goes": (lambda path, to: (), None),
    "a webhook in its place": (lambda path, to: (hook(to),), None),
}


@pytest.mark.parametrize("way", FOLDER_WAYS)
def test_what_waits_for_a_folder_is_written_or_told(way, floor, receivers, tmp_path):
    change, folder = FOLDER_WAYS[way]
    floor.open((directory(tmp_path / "old"),))
    floor.record()
    sinks = floor.open(change(tmp_path, receivers[0].url))
    assert [text.count(f"{MESSAGES} records") for text in floor.told()] == ([] if folder else [1])
    sinks.start()
    if folder:
        until(lambda: len([*(tmp_path / folder).rglob("*.json")]) == MESSAGES)
    assert all(one["waiting"] == 0 for one in floor.opened[-1].facts(NAME) if one["kind"] != "folder")
