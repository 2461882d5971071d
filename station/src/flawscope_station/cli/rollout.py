"""`flawscope station rollout`: a model for many stations, over their API.

The first station of the list is the canary: it gets the model and works with it for a time. Where it reports
no problem meanwhile, the others follow one after another, and are watched together for as long. Where
something is wrong with the product, or the roll-out is interrupted, each station that has the model goes back
to the version before. Every activation names the hash of its file. A station that does not answer then is
named, with the versions that may judge there and the command that goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic.dataclasses import dataclass

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.client import Client
from flawscope_station.settings.includes import read_file
from flawscope_station.settings.values import CONFIG, FilePath, Section, read_as, redact_address, secret
from flawscope_station.web.schemas import Version

LOOK_SECONDS = 10.0  # between two looks at the stations that are watched
MISSED_LOOKS = 3  # that a station may leave without an answer, one after another
BACK_TRIES = 6  # to let a station go back, each LOOK_SECONDS after the other
INSPECTION_PROBLEMS = ("not_inspecting", "waiting")  # of no product, and yet perhaps of the model
STORE_PROBLEMS = ("disk_full", "store_unreachable", "store_silent")  # why nothing else is inspected either


@dataclass(frozen=True, config=CONFIG)
class StationAddress(Section):
    """Station of a list.

    Attributes:
        url: https://line3.example.
        product: Its name; None: the station's only product.
        token_file: Holds an engineer's token; None: the environment has it in FLAWSCOPE_TOKEN.
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
        after: the version of the model; None: it was not added yet.
    """

    def __init__(self, address: StationAddress):
        self.client = open_client(address)
        self.name = redact_address(self.client.url)
        self.before: Version | None = None
        self.after: Version | None = None
        self.product = address.product or self.client.product().name
        self._path = f"products/{quote(self.product, safe='')}"
        self._active = self._active_version()
        self._codes_before: set[str] = set()  # of problems that were there before the model went live
        self._printed_codes: set[str] = set()  # of problems that are not of the product
        self._missed = 0  # looks without an answer, one after another

    def use(self, model: str | os.PathLike[str]) -> str:
        """Let the station judge by the model file; return what it did."""
        own_problems, others = self._alarms()
        self._codes_before = {*own_problems, *others}
        version = self.client.add_version(model, self.product)
        self.after = version
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

    def possible_versions(self) -> str:
        """Return which versions may judge where the station cannot be asked."""
        known = [str(version.id) for version in (self.after, self.before) if version is not None]
        return "version " + " or ".join(known or [str(self._active.id)])

    def look(self, print_line: Callable[[str], None]) -> str:
        """Return the product's problems that were not there before the model went live, joined in one line.

        "" where there are none, or where the station did not answer for fewer than `MISSED_LOOKS` looks. An
        error of the station is a problem. A new problem that is not of the product is printed, once.
        """
        try:
            own_problems, others = self._alarms()
        except InputError as error:  # the station refuses the request
            return str(error)
        except FlawscopeError as error:
            self._missed += 1
            return str(error) if self._missed >= MISSED_LOOKS else ""
        self._missed = 0
        # a problem printed while the store stood still stays out: parts had to wait, whatever the model does
        known = self._codes_before | self._printed_codes
        for code in others.keys() - known:
            print_line(f"{self.name}: not of {self.product}: {others[code]}")
            self._printed_codes.add(code)
        return "; ".join(text for code, text in own_problems.items() if code not in known)

    def _active_version(self) -> Version:
        for version in self.client.versions(self.product):
            if version.active:
                return version
        raise InputError(f"{self.name}: no version judges {self.product}: activate one there first")

    def _alarms(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the problems of the product, with a promise that is broken, and all others, by their codes.

        An alarm of drift is a problem.
        """
        state = self._read(self._path)
        kinds = zip(state["problems"], state["problem_products"], strict=True)
        own_kinds = {kind for kind, product in kinds if product in (None, self.product)}
        problems: list[dict[str, Any]] = self._read("status")["problems"]
        is_stopped = any(problem["kind"] in STORE_PROBLEMS for problem in problems)
        own_problems = dict[str, str]()
        others = dict[str, str]()
        for problem in problems:
            is_of_product = problem["code"] != problem["kind"] and problem["kind"] in own_kinds
            is_of_model = problem["kind"] in INSPECTION_PROBLEMS and not is_stopped
            found = own_problems if is_of_product or is_of_model else others
            found[problem["code"]] = f"{problem['code']}: {problem['text']}"
        promise = self.client.read(f"{self._path}/promise")
        if promise is not None and promise["state"] == "broken":
            own_problems[f"promise {promise['version']}"] = "more false alarms than the version promises"
        return own_problems, others

    def _read(self, path: str) -> dict[str, Any]:
        """Return the JSON object that the station answers to GET; empty where it answers null."""
        return self.client.read(path) or {}


class Rollout:
    """A model on its way to stations.

    Args:
        command: that goes on where this one ended.
        say: gets a line for each step of a station.

    Attributes:
        reached: stations that have the model, or may have it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        command: str,
        say: Callable[[str], None],
        wait: Callable[[float], object],
    ):
        self.model = model
        self.command = command
        self.say = say
        self.wait = wait
        self.reached: list[RolloutStation] = []

    def give(self, stations: Sequence[RolloutStation]) -> str:
        """Let stations use the model, one after another; return the first problem, "" where there is none."""
        for station in stations:
            self.reached.append(station)
            try:
                self.say(f"{station.name}: {station.use(self.model)}")
            except FlawscopeError as error:
                return f"{station.name}: {error}"
            if why := self.look([station]):
                return why
        return ""

    def watch(self, stations: Sequence[RolloutStation], seconds: float) -> str:
        """Look at stations for some seconds; return the first problem, "" where there is none."""
        left = seconds if stations else 0.0
        while left > 0:
            pause = min(left, LOOK_SECONDS)
            self.wait(pause)
            left -= pause
            if why := self.look(stations):
                return why
        return ""

    def look(self, stations: Sequence[RolloutStation]) -> str:
        """Return the problem of the first station that has one, with its name; "": none has."""
        for station in stations:
            if why := station.look(self.say):
                return f"{station.name}: {why}"
        return ""

    def go_back(self) -> None:
        """Let each judge as before.

        One that does not answer, or is not reached any more, is named with what may judge there, and how to
        go on.
        """
        left = list(self.reached)
        try:
            for attempt in range(BACK_TRIES):
                if attempt:
                    self.wait(LOOK_SECONDS)
                for station in list(left):
                    if self._goes_back(station):
                        left.remove(station)
                if not left:
                    return
        finally:
            for station in left:
                versions = station.possible_versions()
                self.say(f"{station.name}: {versions} judges {station.product}; to go on: {self.command}")

    def _goes_back(self, station: RolloutStation) -> bool:
        try:
            self.say(f"{station.name}: {station.go_back()}")
        except FlawscopeError as error:
            self.say(f"{station.name}: it did not go back: {error}")
            return False
        return True


def roll_out(
    model: str | os.PathLike[str],
    addresses: Iterable[StationAddress],
    seconds: float,
    say: Callable[[str], None],
    command: str = "",
    wait: Callable[[float], object] = time.sleep,
) -> bool:
    """Give the model to the stations; return whether all have it: else each judges as before.

    Args:
        model: file.
        addresses: of the stations; the first is the canary.
        seconds: for which the canary works before the others follow, and these work together.
        say: gets a line for each step of a station.
        command: that goes on, for the person who reads the lines.
        wait: sleeps for the seconds that it is given.

    Raises:
        FlawscopeError: a station cannot be asked; nothing was changed.
        KeyboardInterrupt: somebody ended it; the stations went back.
    """
    stations = [RolloutStation(address) for address in addresses]
    canary = stations[:1]
    others = stations[1:]
    rollout = Rollout(model, command, say, wait)
    try:
        why = rollout.give(canary) or rollout.watch(canary, seconds)
        why = why or rollout.give(others) or rollout.watch(others, seconds)
    except BaseException:
        rollout.go_back()
        raise
    if not why:
        return True
    say(why)
    rollout.go_back()
    return False
