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
from flawscope_station.settings.values import CONFIG, Section, name_validator

_CLOCK = re.compile(r"\d{1,2}(:\d\d){1,2}")
REPORT_DAYS = 3  # days whose shifts are listed


def clock_time(text: str) -> time:
    """Return the time of day of a text such as 06:00, 6:00 or 06:00:30.

    Raises:
        ValueError: The text is no time of day. A number alone, such as 6, is none.
    """
    if not _CLOCK.fullmatch(text):
        raise ValueError(text)
    has_seconds = text.count(":") == 2
    iso_length = len("06:00:00" if has_seconds else "06:00")
    return time.fromisoformat(text.zfill(iso_length))  # 6:00 becomes 06:00


def _check_time_of_day(text: str) -> str:
    """Return the text unchanged. InputError: it is no time of day."""
    try:
        clock_time(text)
    except ValueError:
        is_hour = re.fullmatch("[01]?[0-9]|2[0-3]", text)
        hint = f'; write "{int(text):02}:00"' if is_hour else ""
        raise InputError(f'begin must be times of day such as "06:00", and not {text}{hint}') from None
    return text


@dataclass(frozen=True, config=CONFIG)
class ShiftSettings(Section):
    """Settings of shifts.

    Attributes:
        begin: Time of day at which each shift begins, by the shift's name, such as `early: "06:00"`. A shift
            ends when the next one begins.
        zone: Time zone of `begin`, such as Europe/Berlin; None: this machine's.
    """

    REMOVED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("folder", "webhook", "language", "secret_file", "ca_file"),
        "take it out; a program of yours fetches the reports of shifts, as in docs/station-shifts.md",
    )

    begin: dict[
        Annotated[str, name_validator(r"[\w-]{1,30}", "use letters, digits, _ and -")],
        Annotated[str, AfterValidator(_check_time_of_day)],
    ] = field(default_factory=dict)
    zone: str | None = None

    def __post_init__(self) -> None:
        if not self.begin:
            raise InputError('write `begin: {early: "06:00", late: "14:00"}`')
        if len(set(self.times.values())) < len(self.begin):
            raise InputError("two begin at the same time")
        _ = self.tz  # InputError where the zone is unknown

    @property
    def times(self) -> dict[str, time]:
        """Times of day at which the shifts begin, by the shifts' names."""
        return {name: clock_time(text) for name, text in self.begin.items()}

    @property
    def tz(self) -> tzinfo | None:
        """Time zone of the times of day in `begin`; None: this machine's.

        Raises:
            InputError: No zone has the name `zone`, or this machine knows no zones.
        """
        try:
            return None if self.zone is None else ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            if available_timezones():
                hint = "write one such as Europe/Berlin"
            else:  # slim images come without time zones
                hint = "this machine has no zones: pip install tzdata"
            raise InputError(f"zone {self.zone!r:.40} is unknown: {hint}") from None


def station_zone(shifts: ShiftSettings | None) -> tzinfo | None:
    """Return the time zone of the station's shifts and days; None: this machine's."""
    return None if shifts is None else shifts.tz


def times_of_day(names: Sequence[str], shifts: ShiftSettings | None) -> list[time]:
    """Return the times of day of the setting `challenge`.

    Args:
        names: Times such as "06:00", or names of shifts, each for the time at which the shift begins.
        shifts: Settings of the shifts; None: there are no shifts.

    Raises:
        InputError: A name is neither a time nor the name of a shift.
    """
    begin_by_shift = {} if shifts is None else shifts.times
    try:
        return [begin_by_shift[name] if name in begin_by_shift else clock_time(name) for name in names]
    except ValueError:
        shift_names = "".join(f", {name}" for name in begin_by_shift)
        raise InputError(f'challenge: write times of day or names of shifts: "06:00"{shift_names}') from None


def moments(
    times: Iterable[time], zone: tzinfo | None, microseconds: int, days: range
) -> Iterator[tuple[int, time]]:
    """Yield each time of day on each day: its moment, and the time of day itself.

    Moments are in microseconds since 1970. Each time of day has exactly one moment on a day, even if a change
    of the clocks skips or repeats this time.

    Args:
        times: Times of day.
        zone: Time zone of the times; None: this machine's.
        microseconds: Any moment of day 0, in microseconds since 1970.
        days: Numbers of the days: 0 is day 0, -1 the day before it.
    """
    day_0 = datetime.fromtimestamp(microseconds / 1e6, UTC).astimezone(zone).date()
    for day, time_of_day in product(days, times):
        moment = datetime.combine(day_0 + timedelta(days=day), time_of_day, tzinfo=zone)
        yield round(moment.timestamp() * 1e6), time_of_day
