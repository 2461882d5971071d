"""Times as people write them.

A time without an offset is in the station's time zone (`settings.shifts.station_zone`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo


def to_utc(text: str, zone: tzinfo | None) -> str:
    """Return a time, or the beginning of a day, in UTC and in ISO format.

    A text of another form is returned unchanged; the search refuses it.

    Args:
        text: Time or day in ISO format.
        zone: Zone of a time without an offset; None: this machine's.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return moment.astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return text


def query_in_utc(query: Mapping[str, str], zone: tzinfo | None) -> dict[str, str]:
    """Return the query of a search with `since` and `until` in UTC."""
    times = {name: to_utc(query[name], zone) for name in ("since", "until") if name in query}
    return {**query, **times}


def to_local_input(text: str, zone: tzinfo | None) -> str:
    """Convert a time to the value of a form's field, in the time zone `zone`.

    The page's script converts the value to the browser's time zone.

    Returns:
        A time such as `2026-11-22T14:30`; "": the text is no time.
    """
    try:
        moment = datetime.fromisoformat(to_utc(text, zone)).astimezone(zone)
        return moment.replace(tzinfo=None).isoformat(timespec="minutes")
    except ValueError:
        return ""
