"""Runs many pictures through a session, in order: decoded ahead, and side by side where that is faster."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import ExcludedPictureError, InputError, describe_value
from flawscope.pictures.appearance import FeatureValues
from flawscope.pictures.decoding import PictureSource, decode, error_reason, pixel_hash, source_name
from flawscope.pictures.listing import list_pictures
from flawscope.results.prediction import Prediction, Recognition
from flawscope.runtime import Runner
from flawscope.views.views import Views

PREFETCH_BATCHES = 4  # batches that are decoded while one is being computed
MAX_LOADING_THREADS = 4
LARGE_PICTURE_PIXELS = 50_000_000  # a picture with more pixels is in memory alone

T = TypeVar("T")
Source = TypeVar("Source")  # a picture, or its number
Key = TypeVar("Key")  # names a picture in the results: its source, or its number
Judged = TypeVar("Judged")

# A picture's views, and its appearance as a whole; of a `Router` also how its product was recognised
Loaded = tuple[Views, FeatureValues] | tuple[Views, FeatureValues, Recognition]
LoadResult = Loaded | InputError
SourceResult = tuple[PictureSource, Prediction | InputError]


@dataclass(frozen=True)
class PictureOf:
    """Picture with the name of its product or view; `stream` and `prepare` take it in the picture's place."""

    source: PictureSource = field(repr=False)
    product: str


@dataclass(frozen=True)
class PreparedPicture:
    """Picture as the network sees it; `stream` takes it in the picture's place."""

    source: PictureSource = field(repr=False)
    seen: Loaded = field(repr=False)


def stream_predictions(
    pictures: Iterable[Source],
    load: Callable[[Source], tuple[Key, LoadResult]],
    judge: Callable[[Sequence[tuple[Key, LoadResult]], Callable[..., Any]], list[Judged]],
    session: Runner,
    batch: int | None,
    tiled: bool,
) -> Iterator[Judged]:
    """Yield the results of `judge` on pictures, in their order (`Predictor.stream`).

    Args:
        pictures: Pictures, or their numbers.
        load: Reads a picture.
        judge: Function (loaded pictures, run) that judges pictures together by a run of the session.
        session: Engine; its `run` or `run_alone` is passed to `judge`.
        batch: Number of pictures that are computed together; None: the fastest number.
        tiled: Whether pictures are seen in tiles; each picture is then computed by itself.
    """
    lanes = session.lanes if batch is None and not tiled else 1
    iterator = iter(pictures)
    # take the first pictures: their number decides which of the ways below is used
    first = list(islice(iterator, 1 if batch == 1 else max(2, lanes)))
    sources = chain(first, iterator)
    thread_count = min(MAX_LOADING_THREADS, os.cpu_count() or 1)
    if len(first) < 2:  # a single picture, or each as soon as it comes
        for source in sources:
            yield from judge([load(source)], session.run)
    elif lanes > 1 and len(first) == lanes:  # each picture is loaded and judged on one core

        def load_and_judge(source: Source) -> tuple[bool, list[Judged]]:
            loaded = load(source)
            return _is_small(loaded), judge([loaded], session.run_alone)

        def was_small(result: tuple[bool, list[Judged]]) -> bool:
            is_small, _ = result
            return is_small

        results = _prefetch(sources, load_and_judge, lanes, ahead=2 * lanes, may_go_on=was_small)
        for _, judged in results:
            yield from judged
    elif tiled:  # large pictures, one after the other
        for loaded in _prefetch(sources, load, thread_count, ahead=1, may_go_on=_is_small):
            yield from judge([loaded], session.run)
    else:  # batches of pictures
        batch_size = batch or session.batch
        ahead = batch_size * PREFETCH_BATCHES
        loaded_pictures = _prefetch(sources, load, thread_count, ahead, may_go_on=lambda _: True)
        while loaded_batch := list(islice(loaded_pictures, batch_size)):
            yield from judge(loaded_batch, session.run)


def _prefetch(
    sources: Iterator[Source],
    work: Callable[[Source], T],
    threads: int,
    ahead: int,
    may_go_on: Callable[[T], bool],
) -> Iterator[T]:
    """Yield results of `work` in order, computed ahead in threads.

    Args:
        sources: Arguments of `work`.
        work: Makes a result.
        threads: Number of threads.
        ahead: Largest number of sources that are being worked on, or wait for a thread.
        may_go_on: Function that takes a result, and returns whether further work may begin while the caller
            uses this result.
    """
    with ThreadPoolExecutor(threads) as pool:
        queue = deque(pool.submit(work, source) for source in islice(sources, ahead))
        try:
            while queue:
                done = queue.popleft().result()
                if may_go_on(done):
                    queue.extend(pool.submit(work, source) for source in islice(sources, ahead - len(queue)))
                yield done
                if not queue:  # a caller may make the next source only after it has got this result
                    queue.extend(pool.submit(work, source) for source in islice(sources, 1))
        finally:  # if the caller stopped early, the remaining work is not needed
            for future in queue:
                future.cancel()


def _is_small(loaded: tuple[object, LoadResult]) -> bool:
    """Whether a loaded picture is small enough to be in memory together with other pictures."""
    _, picture = loaded
    if isinstance(picture, InputError):
        return True
    return math.prod(picture[0].geometry.picture_size) <= LARGE_PICTURE_PIXELS


def collect_predictions(
    pictures: PictureSource | list[PictureSource],
    stream: Callable[[list[PictureSource]], Iterator[SourceResult]],
) -> Prediction | list[Prediction]:
    """Return the prediction of one picture, or a list for a list or a batch `[B, H, W, 3]`.

    Raises:
        InputError: A picture cannot be read.
    """
    if isinstance(pictures, np.ndarray) and pictures.ndim == 4:
        pictures = list(pictures)
    if isinstance(pictures, list | tuple):
        return [_prediction_or_raise(result) for _, result in stream(list(pictures))]
    if isinstance(pictures, str | os.PathLike) and os.path.isdir(pictures):
        raise InputError(f"{pictures} is a folder: stream({str(pictures)!r}) judges the pictures in it")
    _, result = next(stream([pictures]))
    return _prediction_or_raise(result)


def _prediction_or_raise(result: Prediction | InputError) -> Prediction:
    """Return a prediction; raise an error."""
    if isinstance(result, InputError):
        raise result
    return result


def memory_errors(
    batch: Sequence[tuple[PictureSource, LoadResult]], error: MemoryError
) -> list[SourceResult]:
    """Return an error for each picture of a batch for which there is not enough memory.

    Pictures that could not be loaded keep their own errors.
    """
    errors: list[SourceResult] = []
    for source, loaded in batch:
        if isinstance(loaded, InputError):
            errors.append((source, loaded))
        else:
            errors.append((source, InputError(error_reason(error, f"{source!s:.200}"))))
    return errors


def resolve_pictures(pictures: Iterable[PictureSource] | PictureSource) -> Iterable[PictureSource]:
    """Return the pictures that are given to `stream`: as a folder, a single picture, or several pictures.

    Raises:
        InputError: The argument is neither a folder nor pictures.
    """
    if isinstance(pictures, str | os.PathLike):
        return list_pictures(pictures)
    if isinstance(pictures, bytes | Image.Image):
        return [pictures]
    if isinstance(pictures, np.ndarray) and pictures.ndim < 4:  # with four dimensions it is a batch
        return [pictures]
    if isinstance(pictures, Mapping) or not isinstance(pictures, Iterable):
        value = describe_value(pictures)
        raise InputError(f"pictures is {value}; give a folder, a picture, or several of these")
    return pictures


def read_picture(
    source: PictureSource,
    bgr: bool = False,
    leave_out: Collection[str] = (),
    read: Callable[[PictureSource], NDArray[Any]] = decode,
) -> NDArray[Any]:
    """Decode a picture.

    Args:
        source: The picture.
        bgr: Whether the picture is a numpy array with the channels in OpenCV's order.
        leave_out: Pictures that are refused, each by the `pixel_hash` of its decoded pixels.
        read: Function that decodes a picture.

    Raises:
        ExcludedPictureError: The picture's hash is in `leave_out`.
        InputError: The picture cannot be read.
    """
    picture = read(from_bgr(source) if bgr else source)
    if len(leave_out) and pixel_hash(picture) in leave_out:
        raise ExcludedPictureError(f"{source!s:.200} is one of the pictures to leave out")
    return picture


def reading_error(error: Exception, source: PictureSource) -> InputError:
    """Convert any error of reading a picture into an InputError that names the picture."""
    if isinstance(error, InputError):
        return error
    return InputError(error_reason(error, source_name(source)))


def from_bgr(source: PictureSource) -> NDArray[Any]:
    """Convert a picture of OpenCV, [H, W], [H, W, 3] BGR or [H, W, 4] BGRA, to RGB order.

    Raises:
        InputError: The picture is no numpy array.
    """
    if not isinstance(source, np.ndarray):
        raise InputError(f"bgr=True is for numpy arrays, not for {type(source).__name__}: leave it out")
    if source.ndim != 3 or source.shape[2] not in (3, 4):
        return source
    rgba_order = [2, 1, 0, 3]
    return source[:, :, rgba_order[: source.shape[2]]]
