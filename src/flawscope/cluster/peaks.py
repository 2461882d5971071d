"""How much memory fits will take: what their tasks ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flawscope.benchmark.run import CELL_MEMORY
from flawscope.cluster.jobs import Share
from flawscope.methods import registry

FEW = 8  # fits that one task predicts: importing torch takes as long as some of them


def peaks(fits: Sequence[Mapping[str, Any]], share: Share) -> list[int]:
    """Bytes that each fit takes, as its method predicts it (`Method.peak`), in tasks, so that this process
    needs no torch. `CELL_MEMORY` where a method predicts nothing, where a fit cannot be begun, and on
    graphics cards, whose own memory is what is predicted.

    fits: arguments of `fitting.predicted_peak`.
    """
    import ray

    found = [CELL_MEMORY] * len(fits)
    asked = [i for i, fit in enumerate(fits) if registry.method(fit["method"]).peak and not share.gpus]
    task: Any = ray.remote(max_calls=1)(_predicted).options(num_cpus=share.threads)
    parts = [asked[k : k + FEW] for k in range(0, len(asked), FEW)]
    answers = [task.remote([dict(fits[i]) for i in part], share.threads) for part in parts]
    for part, answer in zip(parts, answers, strict=True):
        with suppress(ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError):
            for i, peak in zip(part, ray.get(answer), strict=True):
                found[i] = peak or CELL_MEMORY
    return found


def _predicted(fits: list[dict[str, Any]], threads: int) -> list[int | None]:
    from flawscope.fitting.memory_estimate import predicted_peak
    from flawscope.runtime.torch import use_threads

    use_threads(threads)
    found: list[int | None] = []
    for fit in fits:
        peak = None
        with suppress(Exception):  # it fails again, and is reported, when it is begun
            peak = predicted_peak(**fit)
        found.append(peak)
    return found
