"""Times of calls. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from flawscope.machine import peak_memory

TIMED, WARM = 20, 3  # calls, and untimed ones before them


def timed(
    predict: Callable[[Any], Any], stream: Callable[[Sequence[Any]], Any], pictures: Sequence[Any], batch: int
) -> dict[str, Any]:
    """Times `predict` of one picture, or of a list of `batch` of them, and `stream` of many.

    Returns:
        `seconds` of each call, `rate` in pictures a second, and the process's `peak` memory in bytes.
    """

    def call(k: int) -> float:
        chosen = [pictures[(k * batch + i) % len(pictures)] for i in range(batch)]
        begun = time.perf_counter()
        predict(chosen[0] if batch == 1 else chosen)
        return time.perf_counter() - begun

    seconds = [call(k) for k in range(WARM + TIMED)][WARM:]
    many = [pictures[k % len(pictures)] for k in range(max(TIMED, 2 * batch))]
    begun = time.perf_counter()
    stream(many)
    rate = len(many) / (time.perf_counter() - begun)
    return {"seconds": seconds, "rate": rate, "peak": peak_memory()}
