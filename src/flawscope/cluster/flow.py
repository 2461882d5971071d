"""The missing parts of a run, judged by a pool of actors that Ray Data grows, feeds and starts again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.cluster.shards import Job, Judge, Told

AHEAD = 2  # parts that a worker has been given: the next one begins at once
HEAD = "node:__internal_head__"


def judged(
    job: Job,
    missing: NDArray[np.int64],
    needs: Mapping[str, Any],
    workers: int = 1,
    worker: type[Judge] = Judge,
) -> Iterator[Told]:
    """What the workers tell of the parts, in the order in which they end. The pool takes what the nodes have,
    also those that join later; a part whose worker is lost is judged by the process that takes its place.

    Args:
        missing: numbers of the parts.
        needs: of a worker: num_cpus, num_gpus, memory in bytes.
        workers: that the nodes have room for now. They begin together; those that join later come one by one.
        worker: what judges a part.
    """
    import ray

    if not ray.util.client.ray.is_connected():
        yield from _rows(job, missing, needs, workers, worker)
        return
    # Ray Data does not run in a client: it runs beside the cluster's head, and is asked for row after row
    made: Any = ray.remote(_Beside)
    beside = made.options(num_cpus=0, resources={HEAD: 0.001}).remote(job, missing, needs, workers, worker)
    while (told := ray.get(beside.next.remote())) is not None:
        yield Told(*told)


class _Beside:
    def __init__(self, *given: Any):
        self.rows = _rows(*given)

    def next(self) -> tuple[Any, ...] | None:
        told = next(self.rows, None)
        return None if told is None else tuple(told)


def _rows(
    job: Job, missing: NDArray[np.int64], needs: Mapping[str, Any], workers: int, worker: type[Judge]
) -> Iterator[Told]:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised, too
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A block for each part, so that a part is the unit of work and of retry
    numbers = ray.data.from_items([{"part": int(part)} for part in missing], override_num_blocks=len(missing))
    told = numbers.map_batches(
        worker,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            initial_size=max(1, min(workers, len(missing))),
            max_tasks_in_flight_per_actor=AHEAD,
        ),
        **needs,
    )
    for batch in told.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        table: Any = batch
        for row in table.to_pylist():
            yield Told(**row)
