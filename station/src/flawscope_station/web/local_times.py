"""Times as people write them: where they say no offset, the clocks of the station's zone count
(`settings.shifts.station_zone`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo


def to_utc(text: str, zone: tzinfo | None) -> str:
    """Return a time, or the beginning of a day, in UTC. Other text stays: a search refuses it.

    Args:
        zone: of a time without an offset; None: this machine's.
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
    """Convert a time to a form's value by the clocks of the zone; the script changes it to the browser's."""
    try:
        moment = datetime.fromisoformat(to_utc(text, zone)).astimezone(zone)
        return moment.replace(tzinfo=None).isoformat(timespec="minutes")
    except ValueError:
        return ""
