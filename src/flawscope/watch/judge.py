"""One round: what has arrived is judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flawscope.errors import InputError
from flawscope.predictor import Predictor
from flawscope.results.prediction import Prediction
from flawscope.results.table import Unjudged
from flawscope.watch.arrivals import Arrivals


def judge(
    arrivals: Arrivals, predictor: Predictor, clock: Callable[[], float] = time.monotonic
) -> Iterator[Prediction | Unjudged]:
    """List the folder once, and judge the pictures that are whole by now, several at a time where that is
    faster. A picture counts as judged when the next one is asked for: what happens with the result in between
    may fail, and then it is judged again.

    Raises:
        InputError: the folder cannot be read at the moment.
    """
    for path, result in predictor.stream(arrivals.scan(clock())):
        assert isinstance(path, Path)
        if not isinstance(result, InputError):
            yield result
            arrivals.done(path)
        elif arrivals.failed(path, clock()):
            yield Unjudged(str(path), str(result))
