"""Pictures of one part in several views, which are taken, judged and recorded together or not at all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from flawscope.errors import InputError
from flawscope_station.inspecting.capacity import BusyError
from flawscope_station.inspecting.writer import Answer, JudgedPicture, RecordedInspection
from flawscope_station.store.insert import PartViews


@dataclass(eq=False)
class PartSet(PartViews):
    """Pictures of one part on their way. count: of the pictures."""

    count: int = 0
    _answers: list[Answer] = field(default_factory=list)
    _judged: list[JudgedPicture] = field(default_factory=list)
    _error: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def join(self, answer: Answer) -> None:
        """Let a picture's answer fail with the others', one that has failed already among them."""
        with self._lock:
            self._answers.append(answer)
            error = self._error
        answer.add_done_callback(self._fail_with)
        if error is not None:
            answer.set_exception(error)

    def _fail_with(self, done: Future[RecordedInspection]) -> None:
        if (error := done.exception()) is not None:
            with self._lock:
                self._error = self._error or error
                answers = [*self._answers]
            for answer in answers:
                answer.set_exception(error)

    def collect(self, judged: JudgedPicture) -> list[JudgedPicture]:
        """Add a judged picture; return all, in their order, with the last one. InputError where they are not
        all views of one part; BusyError where another version has judged the first ones."""
        with self._lock:
            self._judged.append(judged)
            if len(self._judged) < self.count:
                return []
        seen = [one.inspection for one in self._judged]
        if len({(one.product_id, one.version_id) for one in seen}) > 1:
            raise BusyError(1.0, "its views were judged by different models")
        assert self.judge is not None
        check_views(self.judge.calibration.views, [(one.part, one.view) for one in seen])
        return sorted(self._judged, key=lambda one: self._answers.index(one.answer))


def check_views(views: Sequence[str], given: Sequence[tuple[str | None, str | None]]) -> None:
    """Raise InputError unless pictures, given by part and view, are all views of one part."""
    parts = sorted({str(part) for part, _ in given})
    if len(parts) > 1:
        raise InputError(f"the pictures show parts {', '.join(parts):.100}: send those of one part together")
    seen = [view for _, view in given]
    if missing := [view for view in views if view not in seen]:
        raise InputError(
            f"part {parts[0]} lacks {', '.join(missing)}: send the pictures of all its views together"
        )
    if len(seen) > len(views):
        raise InputError(f"part {parts[0]} has a view twice: send each once")
