"""How much memory a fit would take, for somebody who has to find the room for it."""

from __future__ import annotations

from flawscope.methods.patchcore import few_shot, memory_plan
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.selection import Job
from flawscope.methods.task import Task


def peak(model: Model, task: Task) -> int:
    """Bytes that the process of `fit` takes at most, as it predicts them when it begins."""
    copies = () if task.places is not None else few_shot.ways(Job(model, task))
    return memory_plan.plan(model, task.count * (1 + len(copies)), task.decoded, task.places).peak
