"""Times a detector, untrained ones included: networks take as long before they have learnt."""

from __future__ import annotations

import time

from torch import Tensor

from flawscope.methods.detector import Detector
from flawscope.methods.method import ViewTimes
from flawscope.methods.task import Task


def time_views(model: Detector, task: Task, images: Tensor) -> ViewTimes:
    """`Method.predict_times` where learning takes as many steps as are asked for, and views are held out."""
    for _ in range(2):  # the first time is slower
        began = time.perf_counter()
        float(model(images)[0].sum())  # other devices go on by themselves
        took = (time.perf_counter() - began) / len(images)
    return ViewTimes(0.0, took, took)
