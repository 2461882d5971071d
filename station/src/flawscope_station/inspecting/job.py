"""A part on its way from its sender to its record."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from flawscope import Prediction
from flawscope.pictures import decoding
from flawscope_station.inspecting.capacity import without_traceback
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.writer import Answer, RecordedInspection
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.open_models import Model


class LateError(RefusalError):
    """A part cannot be judged before its deadline, or was not. why: for a person."""

    status, code = 504, "late"

    def __init__(self, why: str):
        super().__init__(f"not judged in time: {why}; send fewer at once, or allow more time")


class OverdueError(RefusalError):
    """A part had no answer for as long as `limits: wait` allows."""

    status, code = 504, "overdue"

    def __init__(self, seconds: float):
        super().__init__(
            f"it was not answered for {seconds:.0f} s (`limits: wait`): see what *Problems* says, and send "
            "it again"
        )


class EndingError(RefusalError):
    """The station ends, and could not answer a part before."""

    code = "ending"

    def __init__(self) -> None:
        super().__init__("the station ends: send the part again when it has started")


class ModelError(RefusalError):
    """The model failed on pictures that can be read."""

    code = "model_failed"


@dataclass
class View:
    """Picture of a part that waits to be judged, or is. prepared: as decoded for a model, where that is done.
    found: what the model said; None: nothing yet."""

    picture: Picture
    suffix: str
    file_hash: Future[str]
    source: decoding.HashedPicture
    prepared: tuple[Model, Any] | None = None
    found: Prediction | None = None

    def model_input(self, model: Model) -> Any:
        """The picture as decoded for this model, else its data."""
        if self.prepared is not None and self.prepared[0] is model:
            return self.prepared[1]
        return self.source


@dataclass
class Job:
    """Part that waits to be judged, or is."""

    part: Part
    views: Sequence[View]
    answer: Answer
    at: int
    is_judged: bool = False


def pass_error_on(done: Future[None], answer: Future[RecordedInspection]) -> None:
    """Answer a part whose step failed with the step's error."""
    if (error := done.exception()) is not None and not answer.done():
        answer.set_exception(without_traceback(error))
