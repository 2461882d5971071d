"""Prediction of the time that a fit takes, from the times of a first batch of views."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from flawscope.methods.method import ViewTimes
from flawscope.methods.patchcore import few_shot
from flawscope.methods.patchcore.bank_selection import bank_size
from flawscope.methods.patchcore.memory_bank import BankView, shallow_copy
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.patches import FitJob
from flawscope.methods.task import Task

STAND_IN = 1024  # elements of a bank that is searched instead of the one that there is not yet
# Times of a view that is learnt from, beside embedding it: selecting the banks searches them, and has its
# own work. Of fits with banks of 8,000 to 60,000 elements (bench/results/fit.json), within 40 %
SELECT_EMBEDS, SELECT_SEARCHES = 1.0, 0.8
LEAVE_OUT_SEARCHES = 1.8  # of a view whose bank is selected anew around it


def predict_times(model: Model, task: Task, images: Tensor) -> ViewTimes:
    """Seconds that a view takes one thread. images: [B, 3, H, W], of some views."""
    copies = few_shot.choose_orientations(FitJob(model, task))
    model.embed(images)  # the first time is slower
    began = time.perf_counter()
    features = model.embed(images)
    float(features.sum())  # other devices go on by themselves
    embedding = (time.perf_counter() - began) / len(images)
    places = task.views.position_count
    searching = 0.0
    for v, (view, part) in enumerate(zip(model.views, model.parts(features), strict=True)):
        patches = int(view.inside.sum()) * task.count * (1 + len(copies)) // (places or 1)
        known = 0 if task.old is None else view.bank.shape[-2]
        elements = min(model.config.cap, known + bank_size(model.config, v, patches, places))
        searching += _search_seconds(view, part[:1]) * elements / STAND_IN
    learning = (1 + len(copies)) * ((1 + SELECT_EMBEDS) * embedding + SELECT_SEARCHES * searching)
    return ViewTimes(learning, embedding + searching, embedding + LEAVE_OUT_SEARCHES * searching)


def _search_seconds(view: BankView, features: Tensor) -> float:
    """Seconds in which `STAND_IN` elements are searched for the patches of a view [1, P, D]."""
    stand_in = shallow_copy(view)
    stand_in._set_elements(torch.zeros(STAND_IN, features.shape[2], device=features.device))
    mask = view.valid_mask(None)
    for _ in range(2):  # the first time is slower
        began = time.perf_counter()
        float(stand_in.search(features, mask).sum())
    return time.perf_counter() - began
