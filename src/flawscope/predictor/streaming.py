"""Runs many pictures through a session, in order: decoded ahead, and side by side where that is faster."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.appearance import Measures
from flawscope.pictures.decoding import Source, reason
from flawscope.pictures.listing import list_pictures
from flawscope.pictures.views import Views
from flawscope.results.prediction import Prediction
from flawscope.runtime import Runner

PREFETCH_BATCHES = 4  # batches decoded while one is being computed
LARGE_PICTURE_PIXELS = 50_000_000  # pixels of a picture beside which no other one is held

T = TypeVar("T")

Loaded = tuple[Views, Measures]  # its views, and the look of the picture as a whole
LoadResult = Loaded | InputError
SourceResult = tuple[Source, Prediction | InputError]


@dataclass(frozen=True)
class Prepared:
    """Picture as the network sees it."""

    source: Source = field(repr=False)
    seen: Loaded = field(repr=False)


def stream_predictions(
    pictures: Iterable[Source],
    load: Callable[[Source], tuple[Source, LoadResult]],
    judge: Callable[[Sequence[tuple[Source, LoadResult]], Callable[..., Any]], list[SourceResult]],
    session: Runner,
    batch: int | None,
    tiled: bool,
) -> Iterator[SourceResult]:
    """Yields every picture with its prediction, or with the reason why there is none (`Predictor.stream`)."""
    lanes = session.lanes if batch is None and not tiled else 1
    waiting = iter(pictures)
    first = list(islice(waiting, 1 if batch == 1 else max(2, lanes)))
    waiting = chain(first, waiting)
    if len(first) < 2:  # a single picture, or each as soon as it is given
        for source in waiting:
            yield from judge([load(source)], session.run)
    elif 1 < lanes == len(first):  # each on one core, from its path to its answer: none waits for another

        def answer(source: Source) -> tuple[bool, list[SourceResult]]:
            loaded = load(source)
            return _is_small(loaded), judge([loaded], session.run_alone)

        for _, found in _prefetch(waiting, answer, lanes, 2 * lanes, light=lambda done: done[0]):
            yield from found
    else:  # several together on all that the engine has; large pictures with their tiles one by one
        size = 1 if tiled else batch or session.batch
        most, light = (1, _is_small) if tiled else (size * PREFETCH_BATCHES, _always_true)
        several = _prefetch(waiting, load, min(4, os.cpu_count() or 1), most, light)
        while together := list(islice(several, size)):
            yield from judge(together, session.run)


def _prefetch(
    waiting: Iterator[Source],
    work: Callable[[Source], T],
    threads: int,
    most: int,
    light: Callable[[T], bool],
) -> Iterator[T]:
    """Yields results of `work` in order, for `most` sources at once; where a result is not `light`, no work
    is begun beside it and the work under way."""
    with ThreadPoolExecutor(threads) as pool:
        queue = deque(pool.submit(work, source) for source in islice(waiting, most))
        try:
            while queue:
                done = queue.popleft().result()
                if light(done):
                    queue.extend(pool.submit(work, source) for source in islice(waiting, most - len(queue)))
                yield done
                if not queue:  # the next one may not exist before this one is answered
                    queue.extend(pool.submit(work, source) for source in islice(waiting, 1))
        finally:  # nobody asks for these any more
            for future in queue:
                future.cancel()


def _is_small(loaded: tuple[Source, LoadResult]) -> bool:
    """Whether another picture may be held beside this one."""
    one = loaded[1]
    return isinstance(one, InputError) or math.prod(one[0].geometry.picture_size) <= LARGE_PICTURE_PIXELS


def _always_true(loaded: tuple[Source, LoadResult]) -> bool:
    return True


def collect_predictions(
    pictures: Source | list[Source], stream: Callable[[list[Source]], Iterator[SourceResult]]
) -> Prediction | list[Prediction]:
    """The prediction of one picture, or a list for a list or a batch `[B, H, W, 3]`. InputError: a picture
    cannot be read."""
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


def memory_errors(batch: Sequence[tuple[Source, LoadResult]], error: MemoryError) -> list[SourceResult]:
    """Answers about pictures for which there is not enough memory."""
    return [
        (source, one if isinstance(one, InputError) else InputError(reason(error, f"{source!s:.200}")))
        for source, one in batch
    ]


def resolve_pictures(pictures: Iterable[Source] | Source) -> Iterable[Source]:
    """Pictures that the argument of `stream` means."""
    if isinstance(pictures, str | os.PathLike):
        return list_pictures(pictures)
    if isinstance(pictures, bytes | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [pictures]
    return pictures


def from_bgr(source: Source) -> NDArray[Any]:
    """Converts a picture of OpenCV, [H, W], [H, W, 3] BGR or [H, W, 4] BGRA, to RGB order."""
    if not isinstance(source, np.ndarray):
        raise InputError(f"bgr=True is for numpy arrays, not for {type(source).__name__}: leave it out")
    if source.ndim != 3 or source.shape[2] not in (3, 4):
        return source
    return source[:, :, [2, 1, 0, 3][: source.shape[2]]]
