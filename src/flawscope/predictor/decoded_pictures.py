"""Judges pictures that are decoded already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flawscope.errors import InputError
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import error_reason, source_name
from flawscope.predictor.product_model import ProductModel
from flawscope.predictor.streaming import LoadResult, stream_predictions
from flawscope.results.prediction import Prediction
from flawscope.runtime import Run


def loader(model: ProductModel, pictures: DecodedPictures) -> Callable[[int], tuple[int, LoadResult]]:
    """Return a function that loads a picture by its number.

    The function returns the number, and either the loaded picture or the error that says why it cannot be
    used.
    """

    def load(number: int) -> tuple[int, LoadResult]:
        source = pictures.sources[number]
        try:
            return number, model.see(source, pictures.read(number))
        except InputError as error:
            return number, error
        except Exception as error:  # libraries that read pictures may raise errors of any kind
            return number, InputError(error_reason(error, source_name(source)))

    return load


def predict_decoded(
    model: ProductModel, pictures: DecodedPictures, numbers: Sequence[int]
) -> Iterator[tuple[int, Prediction | InputError]]:
    """Yield each picture's number, with its prediction or the error that says why there is none.

    Args:
        model: The model.
        pictures: The pictures.
        numbers: Numbers of the pictures to judge.
    """

    def judge(batch: Sequence[tuple[int, LoadResult]], run: Run) -> list[tuple[int, Prediction | InputError]]:
        with_sources = [(pictures.sources[number], loaded) for number, loaded in batch]
        results = model.judge(with_sources, run)
        return [(number, result) for (number, _), (_, result) in zip(batch, results, strict=True)]

    is_tiled = model.manifest.preprocess.tile is not None
    load = loader(model, pictures)
    yield from stream_predictions(numbers, load, judge, model.session, batch=None, tiled=is_tiled)
