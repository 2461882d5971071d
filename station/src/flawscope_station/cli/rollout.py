"""`flawscope station rollout`: a model for many stations, over their API.

The first station of the list is the canary: it gets the model and works with it for a time. The others follow
where nothing was told meanwhile, one after another. Where something is wrong, each that has the model goes
back to the version before. Every activation names the hash of the file that is meant.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic.dataclasses import dataclass

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.client import Client
from flawscope_station.settings.files import read_file
from flawscope_station.settings.values import CONFIG, FilePath, Section, read_as, redact_address, secret
from flawscope_station.web.schemas import Version

LOOK_SECONDS = 10.0  # between two looks at the canary


@dataclass(frozen=True, config=CONFIG)
class StationAddress(Section):
    """Station of a list.

    url: https://line3.example. product: None: its only one.
    token_file: of an engineer's token; None: that of the environment, FLAWSCOPE_TOKEN.
    """

    url: str
    product: str | None = None
    token_file: FilePath | None = None


@dataclass(frozen=True, config=CONFIG)
class StationList(Section):
    """Content of the file."""

    stations: tuple[StationAddress, ...] = field(default_factory=tuple)


def read_stations(path: str | os.PathLike[str]) -> tuple[StationAddress, ...]:
    """Read the list of stations; paths in it are relative to the file. InputError."""
    try:
        found = read_as(StationList, read_file(Path(path)), Path(path).resolve().parent).stations
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not found:
        raise InputError(f"{path}: it has no stations: write `stations:` and `- url: ADDRESS` below it")
    return found


def open_client(address: StationAddress) -> Client:
    """Return a client of a station, with its token. InputError."""
    token = None if address.token_file is None else secret(address.token_file, "token_file")
    return Client(address.url, token, tries=2)


class RolloutStation:
    """Station that gets the model.

    Attributes:
        before: the version that judged before; None: the model judged already, and nothing was changed.
    """

    def __init__(self, address: StationAddress):
        self.client = open_client(address)
        self.name = redact_address(self.client.url)
        self.before: Version | None = None
        self.product = address.product or self.client.product().name
        self._path = f"products/{quote(self.product, safe='')}"
        self._active = self._active_version()
        self._alarms_before = self._alarms()

    def use(self, model: str | os.PathLike[str]) -> str:
        """Let the station judge by the model file; return what it did."""
        version = self.client.add_version(model, self.product)
        if version.active:
            return f"version {version.id} judges already"
        self.before = self._active
        self.client.activate(self.product, version.id, version.hash)
        return f"version {version.id} judges, {self.before.id} before"

    def go_back(self) -> str:
        """Let the version before judge again; return what it did."""
        if self.before is None:
            return "nothing was changed"
        self.client.activate(self.product, self.before.id, self.before.hash)
        return f"version {self.before.id} judges again"

    def new_alarms(self) -> list[str]:
        """Return the alarms and problems that were not there before; FlawscopeError where nobody answers."""
        return [text for code, text in self._alarms().items() if code not in self._alarms_before]

    def _active_version(self) -> Version:
        for version in self.client.versions(self.product):
            if version.active:
                return version
        raise InputError(f"{self.name}: no version judges {self.product}: activate one there first")

    def _alarms(self) -> dict[str, str]:
        """Return problems, and a promise that is broken, by their codes. An alarm of drift is a problem."""
        problems: list[dict[str, Any]] = self.client.read("status")["problems"]
        found = {one["code"]: f"{one['code']}: {one['text']}" for one in problems}
        promise = self.client.read(f"{self._path}/promise")
        if promise is not None and promise["state"] == "broken":
            found[f"promise {promise['version']}"] = "more false alarms than the version promises"
        return found


def roll_out(
    model: str | os.PathLike[str],
    addresses: Iterable[StationAddress],
    seconds: float,
    say: Callable[[str], None],
    wait: Callable[[float], object] = time.sleep,
) -> bool:
    """Give the model to the stations; return whether all have it: else each judges as before.

    Args:
        seconds: for which the canary works before the others follow.
        say: gets a line for each step of a station.

    Raises:
        FlawscopeError: a station cannot be asked; nothing was changed.
    """
    stations = [RolloutStation(address) for address in addresses]
    reached: list[RolloutStation] = []
    for station in stations:
        is_canary = station is stations[0]
        reached.append(station)
        why = _try(station, model, seconds if is_canary else 0.0, say, wait)
        if why:
            say(f"{station.name}: {why}")
            _go_back(reached, say)
            return False
    return True


def _try(
    station: RolloutStation,
    model: str | os.PathLike[str],
    seconds: float,
    say: Callable[[str], None],
    wait: Callable[[float], object],
) -> str:
    """Let a station use the model, and watch it; return what is wrong, "" where nothing is."""
    try:
        say(f"{station.name}: {station.use(model)}")
        return _watch(station, seconds, wait)
    except FlawscopeError as error:
        return str(error)


def _watch(station: RolloutStation, seconds: float, wait: Callable[[float], object]) -> str:
    """Return the first alarms of a station within so many seconds; "" where there are none."""
    left = seconds
    while True:
        alarms = station.new_alarms()
        if alarms or left <= 0:
            return "; ".join(alarms)
        pause = min(left, LOOK_SECONDS)
        wait(pause)
        left -= pause


def _go_back(stations: Iterable[RolloutStation], say: Callable[[str], None]) -> None:
    for station in stations:
        try:
            say(f"{station.name}: {station.go_back()}")
        except FlawscopeError as error:
            say(f"{station.name}: it did not go back: {error}")
