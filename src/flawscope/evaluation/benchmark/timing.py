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

from flawscope.errors import one_line_message
from flawscope.machine import machine_info, peak_memory

__all__ = ["environment_facts", "in_process", "peak_memory", "summarize", "throughput", "time_calls"]

CALLS, WARMUP = 20, 3  # timed calls, and untimed calls before them


def environment_facts() -> dict[str, Any]:
    """Returns machine, versions, date and load average, taken before a measurement."""
    from flawscope.artefact.model_file import package_versions  # numpy

    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # Windows has none
    return {"machine": machine_info(), "versions": package_versions(), "date": made, "load_average": load}


def time_calls(
    model: Any, pictures: Sequence[Any], batch: int = 1, calls: int = CALLS, max_seconds: float = math.inf
) -> list[float]:
    """Times each call of a predictor, in seconds: `predict` of a picture, or `stream` of `batch` pictures.

    Args:
        max_seconds: total after which `CALLS` calls are enough.
    """

    def call(k: int) -> float:
        chosen = [pictures[(k * batch + i) % len(pictures)] for i in range(batch)]
        begun = time.perf_counter()
        model.predict(chosen[0]) if batch == 1 else list(model.stream(chosen, batch=batch))
        return time.perf_counter() - begun

    found: list[float] = []
    while len(found) < WARMUP + calls and (len(found) < WARMUP + CALLS or sum(found) < max_seconds):
        found.append(call(len(found)))
    return found[WARMUP:]


def throughput(model: Any, pictures: Sequence[Any], batch: int = 1, count: int = CALLS) -> float:
    """Measures the pictures a second of a predictor's `stream` over at least `count` pictures."""
    many = [pictures[k % len(pictures)] for k in range(max(count, 2 * batch))]
    begun = time.perf_counter()
    list(model.stream(many, batch=batch))
    return len(many) / (time.perf_counter() - begun)


def summarize(seconds: Sequence[float]) -> dict[str, Any]:
    """Median and 95th percentile (nearest rank) of calls, in milliseconds."""
    ordered = sorted(seconds)
    p95 = ordered[-(-95 * len(ordered) // 100) - 1]
    median = statistics.median(ordered)
    return {"median_ms": round(1000 * median, 2), "p95_ms": round(1000 * p95, 2), "calls": len(ordered)}


def in_process(work: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """Calls `work` in a fresh process, and returns its value; on failure, a dict with `error`, the reason."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work, *given).result()
    except BrokenProcessPool:
        return {"error": "its process ended early, as one without memory does"}
    except Exception as error:
        return {"error": one_line_message(error)}
