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

PREFETCH_BATCHES = 4  # decoded while one is being computed
LARGE_PICTURE_PIXELS = 50_000_000  # from more on, a picture is in memory alone

T = TypeVar("T")
Source = TypeVar("Source")  # of a picture, or its number
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
    """Picture as the network sees it."""

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
        judge: Judges loaded pictures that are computed together, by a run.
        session: Engine whose `run` or `run_alone` is handed to `judge`.
        batch: Number of pictures that are computed together; None: the fastest number.
        tiled: Whether pictures are seen in tiles, and each is computed by itself.
    """
    lanes = session.lanes if batch is None and not tiled else 1
    sources = iter(pictures)
    first = list(islice(sources, 1 if batch == 1 else max(2, lanes)))
    sources = chain(first, sources)
    if len(first) < 2:  # a single picture, or each as soon as it is given
        for source in sources:
            yield from judge([load(source)], session.run)
    elif 1 < lanes == len(first):  # each on one core, from its path to its answer: none waits for another

        def answer(source: Source) -> tuple[bool, list[Judged]]:
            loaded = load(source)
            return _is_small(loaded), judge([loaded], session.run_alone)

        for _, found in _prefetch(sources, answer, lanes, 2 * lanes, may_go_on=lambda done: done[0]):
            yield from found
    else:  # several together on all that the engine has; large pictures with their tiles one by one
        size = 1 if tiled else batch or session.batch
        most, light = (1, _is_small) if tiled else (size * PREFETCH_BATCHES, lambda _: True)
        results = _prefetch(sources, load, min(4, os.cpu_count() or 1), most, light)
        while loaded := list(islice(results, size)):
            yield from judge(loaded, session.run)


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
        ahead: Number of sources that are worked on at once.
        may_go_on: Whether further work may begin while the caller holds a result.
    """
    with ThreadPoolExecutor(threads) as pool:
        queue = deque(pool.submit(work, source) for source in islice(sources, ahead))
        try:
            while queue:
                done = queue.popleft().result()
                if may_go_on(done):
                    queue.extend(pool.submit(work, source) for source in islice(sources, ahead - len(queue)))
                yield done
                if not queue:  # the next one may not exist before this one is answered
                    queue.extend(pool.submit(work, source) for source in islice(sources, 1))
        finally:  # nobody asks for these any more
            for future in queue:
                future.cancel()


def _is_small(loaded: tuple[object, LoadResult]) -> bool:
    """Whether a loaded picture is small enough for others to be held in memory beside it."""
    picture = loaded[1]
    return (
        isinstance(picture, InputError) or math.prod(picture[0].geometry.picture_size) <= LARGE_PICTURE_PIXELS
    )


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
    return _prediction_or_raise(next(stream([pictures]))[1])


def _prediction_or_raise(result: Prediction | InputError) -> Prediction:
    if isinstance(result, InputError):
        raise result
    return result


def memory_errors(
    batch: Sequence[tuple[PictureSource, LoadResult]], error: MemoryError
) -> list[SourceResult]:
    """Return an error for each picture of a batch that memory does not suffice for."""
    return [
        (
            source,
            loaded if isinstance(loaded, InputError) else InputError(error_reason(error, f"{source!s:.200}")),
        )
        for source, loaded in batch
    ]


def resolve_pictures(pictures: Iterable[PictureSource] | PictureSource) -> Iterable[PictureSource]:
    """Return the pictures of `stream`'s argument: a folder's, a single picture, or any number of them."""
    if isinstance(pictures, str | os.PathLike):
        return list_pictures(pictures)
    if isinstance(pictures, bytes | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [pictures]
    if isinstance(pictures, Mapping) or not isinstance(pictures, Iterable):
        what = describe_value(pictures)
        raise InputError(f"pictures is {what}; give a folder, a picture, or several of these")
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
        bgr: Whether it is a numpy array with the channels in OpenCV's order.
        leave_out: Hashes of decoded pixels (`pixel_hash`) of pictures that are refused.
        read: Decodes it.

    Raises:
        ExcludedPictureError: The picture's hash is in `leave_out`.
        InputError: The picture cannot be read.
    """
    picture = read(from_bgr(source) if bgr else source)
    if len(leave_out) and pixel_hash(picture) in leave_out:
        raise ExcludedPictureError(f"{source!s:.200} is one of the pictures to leave out")
    return picture


def reading_error(error: Exception, source: PictureSource) -> InputError:
    """Return the InputError that says why a picture cannot be read."""
    return error if isinstance(error, InputError) else InputError(error_reason(error, source_name(source)))


def from_bgr(source: PictureSource) -> NDArray[Any]:
    """Convert a picture of OpenCV, [H, W], [H, W, 3] BGR or [H, W, 4] BGRA, to RGB order."""
    if not isinstance(source, np.ndarray):
        raise InputError(f"bgr=True is for numpy arrays, not for {type(source).__name__}: leave it out")
    if source.ndim != 3 or source.shape[2] not in (3, 4):
        return source
    return source[:, :, [2, 1, 0, 3][: source.shape[2]]]
