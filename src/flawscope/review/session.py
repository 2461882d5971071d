"""A review that goes on: what is to be decided, what was, and the folders that follow from it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flawscope.errors import FlawscopeError, InputError
from flawscope.review.decisions import DEFECT, FINE, UNDONE, Decisions
from flawscope.review.flagged import Flagged
from flawscope.review.folders import Folders

LOG = "review.csv"  # by which `open_dataset` knows the folder


class Session:
    """Pictures by their numbers; safe to use from several threads.

    Opening it brings the folders in line with the decisions that were made before.

    Attributes:
        pictures: what is reviewed, in order.
        problems: copies of earlier decisions that could not be made again.
    """

    def __init__(self, pictures: Sequence[Flagged], out: Path):
        self.pictures, self.out = pictures, out
        out.mkdir(parents=True, exist_ok=True)
        self.log, self.folders = Decisions(out / LOG), Folders(out)
        self._places = {one.row.path: k for k, one in enumerate(pictures)}
        self._lock = threading.Lock()
        self.problems: list[str] = []
        for path, line in self.log.current.items():
            copy = self.folders.path(line.decision, line.copy)
            if path in self._places and not copy.exists():
                try:
                    self._place(self._places[path], line.decision, line.copy)
                except FlawscopeError as error:
                    self.problems.append(str(error))

    def decided(self) -> dict[int, str]:
        """Number of a picture -> good or defect."""
        with self._lock:
            current = self.log.current
        return {self._places[path]: one.decision for path, one in current.items() if path in self._places}

    def copies(self) -> list[tuple[Flagged, str, Path]]:
        """What was decided: the picture, good or defect, and its copy."""
        decided, current = self.decided(), self.log.current
        chosen = [(self.pictures[number], decision) for number, decision in decided.items()]
        return [(one, what, self.folders.path(what, current[one.row.path].copy)) for one, what in chosen]

    def decide(self, number: int, decision: str) -> None:
        """FlawscopeError where it cannot be kept: then nothing has changed."""
        if decision not in (FINE, DEFECT) or not 0 <= number < len(self.pictures):
            raise InputError(f"no decision {decision!r} on picture {number}")
        one = self.pictures[number]
        with self._lock:
            path = one.row.path
            copy = self.log.copy_of(path) or self.folders.free_name(one, self.log.copies)
            self._place(number, decision, copy, log=True)

    def undo(self) -> int | None:
        """Take the latest decision back: the picture's number, None where there is none."""
        with self._lock:
            last = self.log.last
            if last is None or last.path not in self._places:
                return None
            self.log.add(last.path, UNDONE, last.copy)
            self.folders.remove(last.decision, last.copy)
            return self._places[last.path]

    def tally(self) -> Counter[str]:
        """How many are good, how many defect."""
        return Counter(self.decided().values())

    def _place(self, number: int, decision: str, copy: str, *, log: bool = False) -> None:
        """First a copy beside its place, then the line that holds, then the copy in its place: whatever ends
        in between, nothing is lost and nothing is there that was not decided."""
        one = self.pictures[number]
        temporary = self.folders.prepare(one, decision, copy)
        if log:
            try:
                numbers = (f"{one.row.severity:.4g}", f"{one.row.score:.6g}")
                self.log.add(one.row.path, decision, copy, *numbers)
            except FlawscopeError:
                temporary.unlink(missing_ok=True)
                raise
        self.folders.place(one, decision, copy, temporary)
