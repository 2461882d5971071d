"""Files of a folder that belong together: all views of a part, and none of another part with its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SECOND = 1_000_000_000  # ns
MOST_CLOCKS_DIFFER = 3600.0  # seconds between two files, beyond which they hardly show one part
ROUNDED = 2 * SECOND  # ns by which file systems may round times: FAT


@dataclass(frozen=True)
class SeenView:
    """File that shows a view of a part.

    Attributes:
        path: Path of the file.
        part: Number and batch of the part.
        view: View that it shows; None: its name says none.
        changed_ns: Time of change of the file, in ns.
        is_known: Whether the store has its key, with another content.
    """

    path: Path
    part: tuple[str | None, str | None]
    view: str | None
    changed_ns: int
    is_known: bool = False


class Group(NamedTuple):
    """Files of a part.

    Attributes:
        files: Files in the order of the views where all are there.
        why: Why they are not all its views; "": they are.
        is_over: Whether no other file is to come.
    """

    files: list[SeenView]
    why: str
    is_over: bool


def gather(files: Iterable[SeenView], views: Sequence[str], seconds: float) -> Iterator[Group]:
    """Yield the files of each part, in the order of the views where all are there.

    Two files with the same view, of which one may belong to a part that lacks another view, are not assigned
    by a guess: neither belongs to it.

    Args:
        files: Files in the order of their times.
        views: Views in which the model judges parts.
        seconds: Longest time from the first to the last file of a part.
    """
    begun: dict[tuple[str | None, str | None], list[SeenView]] = {}
    for file in files:
        group = begun.setdefault(file.part, [])
        if group and file.changed_ns - group[0].changed_ns > _longest(group[0], file, seconds):
            reason = _reason(group, views, seconds) + _clocks_differ(group, file)
            yield Group(group, reason, is_over=True)
            group = begun[file.part] = []
        group.append(file)
        if sorted(str(file.view) for file in group) == sorted(views):
            in_order = sorted(group, key=lambda file: views.index(str(file.view)))
            yield Group(in_order, "", is_over=True)
            del begun[file.part]
    for group in begun.values():
        yield Group(group, _reason(group, views, seconds), is_over=False)


def _longest(first: SeenView, last: SeenView, seconds: float) -> float:
    """Return the longest time between two files of a part, in ns."""
    is_rounded = first.changed_ns % SECOND == last.changed_ns % SECOND == 0
    return seconds * SECOND + (ROUNDED if is_rounded else 0)


def _clocks_differ(group: Sequence[SeenView], later: SeenView) -> str:
    """Return a hint that a clock may be wrong, where a missing view came later than it may; else ""."""
    apart = (later.changed_ns - group[0].changed_ns) / SECOND
    if later.view in [file.view for file in group] or apart > MOST_CLOCKS_DIFFER:
        return ""
    return (
        f"; a file that shows {later.view} is {apart:.0f} s younger: if it is of the same part, the clocks "
        "of the computers that write them differ, and are to be set alike"
    )


def _reason(group: Sequence[SeenView], views: Sequence[str], seconds: float) -> str:
    seen = [file.view for file in group]
    number = group[0].part[0]
    if twice := [view for view in views if seen.count(view) > 1]:
        return f"part {number} came twice within {seconds:g} s, {', '.join(twice)} of both: not all of each"
    return f"part {number} lacks {', '.join(view for view in views if view not in seen)}"
