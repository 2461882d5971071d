"""Times a model's answers on this machine, in a process of its own. Torch-free."""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from flawscope.errors import one_line
from flawscope.machine import machine, peak_memory

__all__ = ["in_process", "latency", "peak_memory", "rate", "surroundings", "timed"]

TIMED, WARM = 20, 3  # calls, and untimed ones before them


def surroundings() -> dict[str, Any]:
    """Machine, versions and time of a measurement, and how busy the machine was before it."""
    from flawscope.artefact.model_file import versions  # numpy

    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # Windows has none
    return {"machine": machine(), "versions": versions(), "date": made, "load_average": load}


def timed(
    model: Any, pictures: Sequence[Any], batch: int = 1, calls: int = TIMED, enough: float = math.inf
) -> list[float]:
    """Seconds of each call of a predictor: `predict` of one picture, or `stream` of `batch` of them.

    Args:
        enough: seconds after which `TIMED` calls will do.
    """

    def call(k: int) -> float:
        chosen = [pictures[(k * batch + i) % len(pictures)] for i in range(batch)]
        begun = time.perf_counter()
        model.predict(chosen[0]) if batch == 1 else list(model.stream(chosen, batch=batch))
        return time.perf_counter() - begun

    found: list[float] = []
    while len(found) < WARM + calls and (len(found) < WARM + TIMED or sum(found) < enough):
        found.append(call(len(found)))
    return found[WARM:]


def rate(model: Any, pictures: Sequence[Any], batch: int = 1, count: int = TIMED) -> float:
    """Pictures a second of a predictor's `stream` of at least `count` pictures."""
    many = [pictures[k % len(pictures)] for k in range(max(count, 2 * batch))]
    begun = time.perf_counter()
    list(model.stream(many, batch=batch))
    return len(many) / (time.perf_counter() - begun)


def latency(seconds: Sequence[float]) -> dict[str, Any]:
    """Median and 95th percentile (nearest rank) of calls, in milliseconds."""
    ordered = sorted(seconds)
    p95 = ordered[-(-95 * len(ordered) // 100) - 1]
    median = statistics.median(ordered)
    return {"median_ms": round(1000 * median, 2), "p95_ms": round(1000 * p95, 2), "calls": len(ordered)}


def in_process(work: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """Calls `work` in a fresh process; `error` says why there is nothing."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work, *given).result()
    except BrokenProcessPool:
        return {"error": "its process ended early, as one without memory does"}
    except Exception as error:
        return {"error": one_line(error)}
