"""`flawscope station rollout`: give a model to many stations, over their API.

The first station of the list is the canary: it gets the model and works with it for a time. If it reports no
problem meanwhile, the other stations follow one after another, and are watched together for as long. After a
problem with the product or an interruption, each station that has the model goes back to its earlier version.
Every activation names the hash of its file. A station that cannot be reached to go back is named, with the
versions that may be active there and the command that continues the roll-out.
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

LOOK_SECONDS = 10.0  # time between two looks at the stations that are watched
MISSED_LOOKS = 3  # looks in a row without an answer of the station, from which on the silence is a problem
BACK_TRIES = 6  # attempts to let a station go back, LOOK_SECONDS apart
INSPECTION_PROBLEMS = ("not_inspecting", "waiting")  # problems without a product that a model may cause
STORE_PROBLEMS = ("disk_full", "store_unreachable", "store_silent")  # with these no product is inspected


@dataclass(frozen=True, config=CONFIG)
class StationAddress(Section):
    """Station of a list.

    Attributes:
        url: Address, such as https://line3.example.
        product: Name of the product; None: the station's only product.
        token_file: Holds an engineer's token; None: the environment has it in FLAWSCOPE_TOKEN.
    """

    url: str
    product: str | None = None
    token_file: FilePath | None = None


@dataclass(frozen=True, config=CONFIG)
class StationList(Section):
    """Content of the file that lists the stations."""

    stations: tuple[StationAddress, ...] = field(default_factory=tuple)


def read_stations(path: str | os.PathLike[str]) -> tuple[StationAddress, ...]:
    """Read the list of stations; paths in the list are relative to the file.

    Raises:
        InputError: The file cannot be read, is invalid, or has no stations.
    """
    try:
        station_list = read_as(StationList, read_file(Path(path)), home=Path(path).resolve().parent)
        stations = station_list.stations
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not stations:
        raise InputError(f"{path}: it has no stations: write `stations:` and `- url: ADDRESS` below it")
    return stations


def open_client(address: StationAddress) -> Client:
    """Return a client of a station, with its token.

    Raises:
        InputError: The token cannot be read, or the address is invalid.
    """
    token = None if address.token_file is None else secret(address.token_file, "token_file")
    return Client(address.url, token, tries=2)


class RolloutStation:
    """Station that gets the model.

    Attributes:
        old_version: Version that was active before the roll-out; None: nothing was changed.
        new_version: Version of the model; None: the model was not added yet.
    """

    def __init__(self, address: StationAddress):
        self.client = open_client(address)
        self.name = redact_address(self.client.url)
        self.old_version: Version | None = None
        self.new_version: Version | None = None
        self.product = address.product or self.client.product().name
        self._path = f"products/{quote(self.product, safe='')}"
        self._first_active = self._active_version()
        self._earlier_codes: set[str] = set()  # codes of the problems at the start of the roll-out
        self._printed_codes: set[str] = set()  # codes of printed problems, which are not the product's
        self._missed = 0  # looks in a row without an answer

    def use(self, model: str | os.PathLike[str]) -> str:
        """Add the model file to the station and activate it; return a text on the outcome.

        The problems that the station has before are noted: `look` does not blame the model for them.
        """
        product_problems, other_problems = self._problems()
        self._earlier_codes = {*product_problems, *other_problems}
        version = self.client.add_version(model, self.product)
        self.new_version = version
        if version.active:
            return f"version {version.id} judges already"
        self.old_version = self._first_active
        self.client.activate(self.product, version.id, version.hash)
        return f"version {version.id} judges, {self.old_version.id} before"

    def go_back(self) -> str:
        """Activate the version from before the roll-out again; return a text on the outcome."""
        if self.old_version is None:
            return "nothing was changed"
        self.client.activate(self.product, self.old_version.id, self.old_version.hash)
        return f"version {self.old_version.id} judges again"

    def possible_versions(self) -> str:
        """Return a text with the versions that may be active while the station does not answer."""
        changed_versions = [
            version for version in (self.new_version, self.old_version) if version is not None
        ]
        versions = changed_versions or [self._first_active]
        return "version " + " or ".join(str(version.id) for version in versions)

    def look(self, print_line: Callable[[str], None]) -> str:
        """Return a line with the product's new problems since the model went live; "": there are none.

        If the station refuses the request, its error is the problem. If the station does not answer, that is
        a problem only after `MISSED_LOOKS` looks in a row without an answer. A new problem that does not
        concern the product is not returned, but printed once.

        Args:
            print_line: Prints a line.
        """
        try:
            product_problems, other_problems = self._problems()
        except InputError as error:  # the station refuses the request
            return str(error)
        except FlawscopeError as error:
            self._missed += 1
            return str(error) if self._missed >= MISSED_LOOKS else ""
        self._missed = 0
        # A printed problem, such as parts that wait for a full disk, is not blamed on the model later, when
        # the disk has space again and the parts still wait.
        known_codes = self._earlier_codes | self._printed_codes
        for code in other_problems.keys() - known_codes:
            print_line(f"{self.name}: not of {self.product}: {other_problems[code]}")
            self._printed_codes.add(code)
        return "; ".join(text for code, text in product_problems.items() if code not in known_codes)

    def _active_version(self) -> Version:
        """Return the product's active version.

        Raises:
            InputError: There is none.
        """
        for version in self.client.versions(self.product):
            if version.active:
                return version
        raise InputError(f"{self.name}: no version judges {self.product}: activate one there first")

    def _problems(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the product's problems and all other problems, each as a dictionary: code -> text.

        Alarms of drift and more false alarms than expected are problems of the product, too.
        """
        state = self._read(self._path)
        kinds_and_products = zip(state["problems"], state["problem_products"], strict=True)
        # product None: the problem concerns all products, or the only one
        product_kinds = {kind for kind, product in kinds_and_products if product in (None, self.product)}
        problems: list[dict[str, Any]] = self._read("status")["problems"]
        is_store_stopped = any(problem["kind"] in STORE_PROBLEMS for problem in problems)
        product_problems = dict[str, str]()
        other_problems = dict[str, str]()
        for problem in problems:
            code, kind = problem["code"], problem["kind"]
            # A code is its kind, followed by the numbers of a product, camera, folder or sink if it concerns
            # one.
            has_numbers = code != kind
            is_of_product = has_numbers and kind in product_kinds
            # while the store is away or its disk is full, nothing is inspected, whatever the model is
            is_inspection_failure = kind in INSPECTION_PROBLEMS and not is_store_stopped
            problem_texts = product_problems if is_of_product or is_inspection_failure else other_problems
            problem_texts[code] = f"{code}: {problem['text']}"
        false_alarms = self.client.read(f"{self._path}/promise")
        if false_alarms is not None and false_alarms["state"] == "broken":
            code = f"promise {false_alarms['version']}"
            product_problems[code] = "more false alarms than the version promises"
        return product_problems, other_problems

    def _read(self, path: str) -> dict[str, Any]:
        """Return the JSON object that the station answers to GET; empty where it answers null."""
        return self.client.read(path) or {}


class Rollout:
    """A model on its way to stations.

    Args:
        model: Model file.
        command: Command that continues this roll-out.
        say: Prints a line; called for each step of a station.
        wait: Sleeps for a number of seconds.

    Attributes:
        reached_stations: Stations to which the model was given, with or without success.
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
        self.reached_stations: list[RolloutStation] = []

    def give(self, stations: Sequence[RolloutStation]) -> str:
        """Activate the model at the stations, one after another, until there is a problem.

        Return the text of the problem; "": all stations have the model.
        """
        for station in stations:
            self.reached_stations.append(station)
            try:
                self.say(f"{station.name}: {station.use(self.model)}")
            except FlawscopeError as error:
                return f"{station.name}: {error}"
            if problem := self.look([station]):
                return problem
        return ""

    def watch(self, stations: Sequence[RolloutStation], seconds: float) -> str:
        """Look for problems of stations, again and again for `seconds`.

        Return the text of the first problem; "": there was none.
        """
        remaining_seconds = seconds if stations else 0.0
        while remaining_seconds > 0:
            pause_seconds = min(remaining_seconds, LOOK_SECONDS)
            self.wait(pause_seconds)
            remaining_seconds -= pause_seconds
            if problem := self.look(stations):
                return problem
        return ""

    def look(self, stations: Sequence[RolloutStation]) -> str:
        """Return the problem of the first station that has one, with its name; "": none has."""
        for station in stations:
            if problem := station.look(self.say):
                return f"{station.name}: {problem}"
        return ""

    def go_back(self) -> None:
        """Let each station in `reached_stations` go back to its earlier version.

        For each station that did not go back in `BACK_TRIES` attempts, a line is printed with the versions
        that may be active there and the command that continues the roll-out. The same holds if a person
        interrupts the attempts.
        """
        remaining_stations = list(self.reached_stations)
        try:
            for attempt in range(BACK_TRIES):
                if attempt:
                    self.wait(LOOK_SECONDS)
                for station in list(remaining_stations):  # a copy, because stations are removed meanwhile
                    if self._try_back(station):
                        remaining_stations.remove(station)
                if not remaining_stations:
                    return
        finally:
            for station in remaining_stations:
                versions = station.possible_versions()
                self.say(f"{station.name}: {versions} judges {station.product}; to go on: {self.command}")

    def _try_back(self, station: RolloutStation) -> bool:
        """Let a station go back, and print the outcome; return whether it went back."""
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
    """Give the model to the stations; return whether all have it.

    After a problem, each station goes back to its earlier version.

    Args:
        model: Model file.
        addresses: Addresses of the stations; the first is the canary.
        seconds: Time for which the canary is watched before the other stations follow, and for which these
            are watched afterwards.
        say: Prints a line; called for each step of a station.
        command: Command that continues the roll-out, for the person who reads the lines.
        wait: Sleeps for a number of seconds.

    Raises:
        FlawscopeError: A station cannot be asked; nothing was changed.
        KeyboardInterrupt: A person ended the roll-out; the stations went back.
    """
    stations = [RolloutStation(address) for address in addresses]
    canary = stations[:1]
    others = stations[1:]
    rollout = Rollout(model, command, say, wait)
    try:
        problem = (
            rollout.give(canary)
            or rollout.watch(canary, seconds)
            or rollout.give(others)
            or rollout.watch(others, seconds)
        )
    except BaseException:
        rollout.go_back()
        raise
    if not problem:
        return True
    say(problem)
    rollout.go_back()
    return False
