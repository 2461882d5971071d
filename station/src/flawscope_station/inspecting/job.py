"""A picture on its way from its sender to its record."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from flawscope.pictures import decoding
from flawscope_station.inspecting.capacity import without_traceback
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.writer import Answer, RecordedInspection
from flawscope_station.store.inspection import RefusalError
from flawscope_station.store.open_models import Model


class LateError(RefusalError):
    """A picture cannot be judged before its deadline, or was not. why: for a person."""

    status, code = 504, "late"

    def __init__(self, why: str):
        super().__init__(f"not judged in time: {why}; send fewer at once, or allow more time")


class ModelError(RefusalError):
    """The model failed on pictures that can be read."""

    code = "model_failed"


@dataclass
class Job:
    """Picture that waits to be judged, or is. prepared: as decoded for a model, where that is done."""

    picture: Picture
    suffix: str
    file_hash: Future[str]
    answer: Answer
    at: int
    source: decoding.HashedPicture
    prepared: tuple[Model, Any] | None = None
    is_judged: bool = False

    def model_input(self, model: Model) -> Any:
        """The picture as decoded for this model, else its data."""
        if self.prepared is not None and self.prepared[0] is model:
            return self.prepared[1]
        return self.source


def pass_error_on(done: Future[None], answer: Future[RecordedInspection]) -> None:
    """Answer a picture whose step failed with the step's error."""
    if (error := done.exception()) is not None and not answer.done():
        answer.set_exception(without_traceback(error))
