"""Settings of shifts, and of the reports that are made at their ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flawscope.config import build_config
from flawscope.errors import InputError
from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.settings.values import resolve_paths

REPORT_DAYS = 3  # that reports are made for afterwards, where the station did not run
_NAME = re.compile(r"[\w-]{1,30}")


@dataclass(frozen=True)
class ShiftSettings:
    """Settings of shifts.

    begin: when each begins, by name, such as `early: "06:00"`; it ends where the next one begins.
    zone: whose clocks count, such as Europe/Berlin; None: this machine's.
    language: of the reports that are sent.
    folder: where a report of each shift and product is written, as HTML and CSV.
    webhook: an address that gets the counts of each. secret_file, ca_file: as of other webhooks.
    """

    begin: Mapping[str, str] = field(default_factory=dict)
    zone: str | None = None
    language: str = "en"
    folder: str | None = None
    webhook: str | None = None
    secret_file: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if not self.begin:
            raise InputError('shifts: write `begin: {early: "06:00", late: "14:00"}`')
        for name in self.begin:
            if not _NAME.fullmatch(name):
                raise InputError(f"shifts: {name!r:.40} cannot be a name: use letters, digits, _ and -")
        if len(set(self.times.values())) < len(self.begin):
            raise InputError("shifts: two begin at the same time")
        _ = self.tz, self.webhook_settings

    @property
    def times(self) -> dict[str, time]:
        """Times of day at which the shifts begin. InputError."""
        try:
            return {name: time.fromisoformat(str(text)) for name, text in self.begin.items()}
        except ValueError:
            wrong = next(iter(self.begin.values()))
            raise InputError(f'shifts: begin must be times of day such as "06:00", and not {wrong}') from None

    @property
    def tz(self) -> tzinfo | None:
        """Zone; None: this machine's. InputError."""
        try:
            return None if self.zone is None else ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            why = f"shifts: zone {self.zone!r:.40} is unknown: write one such as Europe/Berlin"
            raise InputError(why) from None

    @property
    def webhook_settings(self) -> SinkSettings | None:
        """Webhook, with the settings of a sink. InputError."""
        if self.webhook is None:
            return None
        return SinkSettings(self.webhook, secret_file=self.secret_file, ca_file=self.ca_file)


def read_shifts(given: Any, home: Path) -> ShiftSettings | None:
    """Read the setting `shifts`; paths are relative to `home`. InputError."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InputError('shifts: write `begin: {early: "06:00", late: "14:00"}` below it')
    begin = {str(name): clock_text(one) for name, one in dict(given.get("begin") or {}).items()}
    return resolve_paths(
        build_config(ShiftSettings, {**given, "begin": begin}), home, "folder", "secret_file", "ca_file"
    )


def times_of_day(names: Sequence[str], shifts: ShiftSettings | None) -> list[time]:
    """Return times of day, of which each is given so or by the shift that begins then. InputError."""
    begins = {} if shifts is None else shifts.times
    try:
        return [begins[name] if name in begins else time.fromisoformat(name) for name in names]
    except ValueError:
        known = "".join(f", {name}" for name in begins)
        raise InputError(f'challenge: write times of day or names of shifts: "06:00"{known}') from None


def moments(times: Iterable[time], zone: tzinfo | None, at: int, days: range) -> Iterator[tuple[int, time]]:
    """Yield the moment of each time of day on each day, microseconds since 1970, and the time. One that the
    clocks skip counts, one that comes twice counts once.

    Args:
        zone: whose clocks count; None: this machine's.
        days: counted from that of `at`, microseconds since 1970.
    """
    first = datetime.fromtimestamp(at / 1e6, UTC).astimezone(zone).date()
    for day, begin in product(days, times):
        moment = datetime.combine(first + timedelta(days=day), begin, tzinfo=zone)
        yield round(moment.timestamp() * 1e6), begin


def clock_text(given: Any) -> str:
    """Return the text of a time of day; YAML reads 14:00 without quotes as 840 minutes."""
    return f"{given // 60:02}:{given % 60:02}" if isinstance(given, int) else str(given)
