"""Calibrates a model that keeps its false-alarm rate in a range of light on new good pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from flawscope.calibration.threshold import envelope
from flawscope.pictures.decoding import Source, decode
from flawscope.pictures.light import Light, Normalization, lights_within
from flawscope.predictor.streaming import Judged

Values = list[tuple[float, float, float]]  # score, and the map's maximum and median
Stream = Callable[[Iterable[Source]], Iterator[Judged]]


def in_every_light(
    stream: Stream, pictures: Sequence[Source], values: Values, normalization: Normalization | None
) -> tuple[Values, str]:
    """Returns the values for a calibration, and the calibration's method.

    Args:
        stream: judges pictures in order.
        values: of the unchanged pictures. Without `normalization` they are returned as they are; with it
            scores and maxima become their envelopes over the lights of its range.

    Raises:
        InputError: a picture cannot be read again.
    """
    if normalization is None:
        return values, "held out"
    found = [[(score, maximum) for score, maximum, _ in values]]
    for light in lights_within(normalization.share)[1:]:
        found.append([_read(one) for one in stream(_lit(pictures, light))])
    scores, maxima = (envelope(part.T) for part in np.moveaxis(np.array(found), 2, 0))
    medians = [median for *_, median in values]
    together = list(zip(scores.tolist(), maxima.tolist(), medians, strict=True))
    return together, f"held out, in each light within {normalization.share:.0%}"


def _lit(pictures: Sequence[Source], light: Light) -> Iterator[Source]:
    return (light(decode(picture)) for picture in pictures)


def _read(judged: Judged) -> tuple[float, float]:
    result = judged[1]
    if isinstance(result, Exception):
        raise result
    return result.score, float(result.map.max())
