"""Files of a folder that belong together: all views of a part, and none of another part with its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SECOND = 1_000_000_000  # ns
MOST_CLOCKS_DIFFER = 3600.0  # seconds between two files above which they hardly show the same part
ROUNDED = 2 * SECOND  # ns to which a file system (FAT) may round times


@dataclass(frozen=True)
class SeenView:
    """File that shows a view of a part.

    Attributes:
        path: Path of the file.
        part: Number and batch of the part.
        view: View that it shows; None: its name has none.
        changed_ns: Time of change of the file, in ns.
        is_known: Whether the store has its key already, but with other content.
    """

    path: Path
    part: tuple[str | None, str | None]
    view: str | None
    changed_ns: int
    is_known: bool = False


class Group(NamedTuple):
    """Files of a part.

    Attributes:
        files: Files; if all views are there, in the order of the views.
        why: Why the files are not all views of the part; "": they are.
        is_over: Whether no further file of the part may come.
    """

    files: list[SeenView]
    why: str
    is_over: bool


def gather(files: Iterable[SeenView], views: Sequence[str], max_seconds: float) -> Iterator[Group]:
    """Yield the files of each part.

    If two files show the same view and another view is missing, nobody knows which file belongs to the part:
    the group is not complete.

    Args:
        files: Files in the order of their times.
        views: Views in which the model judges parts.
        max_seconds: Longest time from the first to the last file of a part.
    """
    open_groups: dict[tuple[str | None, str | None], list[SeenView]] = {}
    for file in files:
        group = open_groups.setdefault(file.part, [])
        came_too_late = bool(group) and (
            file.changed_ns - group[0].changed_ns > _longest_ns(group[0], file, max_seconds)
        )
        if came_too_late:
            reason = _incomplete_reason(group, views, max_seconds) + _clock_hint(group, file)
            yield Group(group, reason, is_over=True)
            group = open_groups[file.part] = []
        group.append(file)
        has_each_view_once = sorted(str(file.view) for file in group) == sorted(views)
        if has_each_view_once:
            ordered_files = sorted(group, key=lambda file: views.index(str(file.view)))
            yield Group(ordered_files, "", is_over=True)
            del open_groups[file.part]
    for group in open_groups.values():
        yield Group(group, _incomplete_reason(group, views, max_seconds), is_over=False)


def _longest_ns(first: SeenView, last: SeenView, seconds: float) -> float:
    """Return the longest time between two files of a part, in ns."""
    is_rounded = first.changed_ns % SECOND == last.changed_ns % SECOND == 0
    return seconds * SECOND + (ROUNDED if is_rounded else 0)


def _clock_hint(group: Sequence[SeenView], later: SeenView) -> str:
    """Return a hint that a clock may be wrong, if a missing view came a little too late; else ""."""
    seconds_apart = (later.changed_ns - group[0].changed_ns) / SECOND
    # no hint if the view is not missing, or if a wrong clock hardly explains so long a time
    if later.view in [file.view for file in group] or seconds_apart > MOST_CLOCKS_DIFFER:
        return ""
    return (
        f"; a file that shows {later.view} is {seconds_apart:.0f} s younger: if it is of the same part, the "
        "clocks of the computers that write them differ, and are to be set alike"
    )


def _incomplete_reason(group: Sequence[SeenView], views: Sequence[str], seconds: float) -> str:
    """Return why a group of files is not complete: it has a view twice, or lacks views."""
    seen_views = [file.view for file in group]
    number, _ = group[0].part
    if repeated_views := [view for view in views if seen_views.count(view) > 1]:
        repeated = ", ".join(repeated_views)
        return f"part {number} came twice within {seconds:g} s, {repeated} of both: not all of each"
    missing = ", ".join(view for view in views if view not in seen_views)
    return f"part {number} lacks {missing}"
