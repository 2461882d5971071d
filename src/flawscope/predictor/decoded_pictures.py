"""Judges pictures that are decoded already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from flawscope.errors import InputError
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import error_reason, source_name
from flawscope.predictor.streaming import LoadResult, stream_predictions
from flawscope.results.prediction import Prediction
from flawscope.runtime import Run

if TYPE_CHECKING:
    from flawscope.predictor import Predictor


def loader(predictor: Predictor, pictures: DecodedPictures) -> Callable[[int], tuple[int, LoadResult]]:
    """Returns what loads a picture by its number as the model sees it, or says why it cannot be used."""

    def load(number: int) -> tuple[int, LoadResult]:
        source = pictures.sources[number]
        try:
            return number, predictor.see(source, pictures.read(number))
        except InputError as error:
            return number, error
        except Exception as error:  # also what a reader of pictures does not foresee
            return number, InputError(error_reason(error, source_name(source)))

    return load


def predict_decoded(
    predictor: Predictor, pictures: DecodedPictures, numbers: Sequence[int]
) -> Iterator[tuple[int, Prediction | InputError]]:
    """Yields the prediction of each of the pictures by its number, or why there is none."""

    def judge(batch: Sequence[tuple[int, LoadResult]], run: Run) -> list[tuple[int, Prediction | InputError]]:
        shown = [(pictures.sources[number], loaded) for number, loaded in batch]
        results = predictor.judge(shown, run)
        return [(number, result) for (number, _), (_, result) in zip(batch, results, strict=True)]

    tiled = predictor.manifest.preprocess.tile is not None
    load = loader(predictor, pictures)
    yield from stream_predictions(numbers, load, judge, predictor.session, None, tiled)
