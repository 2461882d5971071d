"""Settings of shifts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, time, timedelta, tzinfo
from itertools import product
from typing import Annotated, ClassVar
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from flawscope.errors import InputError
from flawscope_station.settings.values import CONFIG, Section, named

_CLOCK = re.compile(r"\d{1,2}(:\d\d){1,2}")
REPORT_DAYS = 3  # whose shifts are listed


def clock_time(text: str) -> time:
    """Return a time of day: 06:00, 6:00, 06:00:30. ValueError: 6 could be an hour or a minute."""
    if not _CLOCK.fullmatch(text):
        raise ValueError(text)
    return time.fromisoformat(text.zfill(len("06:00")) if len(text) < 6 else text.zfill(len("06:00:00")))


def _time_of_day(text: str) -> str:
    try:
        clock_time(text)
    except ValueError:
        hint = f'; write "{int(text):02}:00"' if re.fullmatch("[01]?[0-9]|2[0-3]", text) else ""
        raise InputError(f'begin must be times of day such as "06:00", and not {text}{hint}') from None
    return text


@dataclass(frozen=True, config=CONFIG)
class ShiftSettings(Section):
    """Settings of shifts.

    Attributes:
        begin: When each begins, by name, such as `early: "06:00"`; it ends where the next one begins.
        zone: Whose clocks count, such as Europe/Berlin; None: this machine's.
    """

    REMOVED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("folder", "webhook", "language", "secret_file", "ca_file"),
        "take it out; a program of yours fetches the reports of shifts, as in docs/station-shifts.md",
    )

    begin: dict[
        Annotated[str, named(r"[\w-]{1,30}", "use letters, digits, _ and -")],
        Annotated[str, AfterValidator(_time_of_day)],
    ] = field(default_factory=dict)
    zone: str | None = None

    def __post_init__(self) -> None:
        if not self.begin:
            raise InputError('write `begin: {early: "06:00", late: "14:00"}`')
        if len(set(self.times.values())) < len(self.begin):
            raise InputError("two begin at the same time")
        _ = self.tz

    @property
    def times(self) -> dict[str, time]:
        """Times of day at which the shifts begin."""
        return {name: clock_time(text) for name, text in self.begin.items()}

    @property
    def tz(self) -> tzinfo | None:
        """Time zone whose clocks count; None: this machine's.

        Raises:
            InputError: no zone has the name `zone`, or this machine knows no zones.
        """
        try:
            return None if self.zone is None else ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            knows = bool(available_timezones())  # slim images come without them
            hint = (
                "write one such as Europe/Berlin"
                if knows
                else "this machine has no zones: pip install tzdata"
            )
            raise InputError(f"zone {self.zone!r:.40} is unknown: {hint}") from None


def station_zone(shifts: ShiftSettings | None) -> tzinfo | None:
    """Return the zone whose clocks the station goes by: its shifts, its days. None: this machine's."""
    return None if shifts is None else shifts.tz


def times_of_day(names: Sequence[str], shifts: ShiftSettings | None) -> list[time]:
    """Return times of day. Each name is a time, or a shift, which stands for its beginning. InputError."""
    begins = {} if shifts is None else shifts.times
    try:
        return [begins[name] if name in begins else clock_time(name) for name in names]
    except ValueError:
        known = "".join(f", {name}" for name in begins)
        raise InputError(f'challenge: write times of day or names of shifts: "06:00"{known}') from None


def moments(times: Iterable[time], zone: tzinfo | None, at: int, days: range) -> Iterator[tuple[int, time]]:
    """Yield the moment of each time of day on each day, microseconds since 1970, and the time.

    A time that the clocks skip counts, one that comes twice counts once.

    Args:
        times: of day.
        zone: whose clocks count; None: this machine's.
        at: microseconds since 1970.
        days: counted from that of `at`, which is 0.
    """
    first = datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).date()
    for day, begin in product(days, times):
        moment = datetime.combine(first + timedelta(days=day), begin, tzinfo=zone)
        yield round(moment.timestamp() * 1e6), begin
