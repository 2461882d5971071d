"""Decides whether tiles have a memory bank for each place (`--positions auto`), by the good pictures: are
left-out tiles nearer to banks of their own places than to a shared one?
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from flawscope.errors import pluralize
from flawscope.methods.patchcore import Config, coreset
from flawscope.methods.patchcore.bank_selection import bank_size
from flawscope.methods.patchcore.leave_one_out import nearest_distance
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.patches import FitJob, collect_patches, to_grid
from flawscope.methods.task import Task

RNG_STREAM = 62
COMPARED_POSITIONS = 8  # compared by `prefers_own_banks`
COMPARED_PICTURES = 16  # whose tiles at those places are compared


def choose(model: Model, task: Task) -> Config:
    """The model's settings with `positions` decided."""
    return replace(model.config, positions="each" if prefers_own_banks(model, task) else "shared")


def prefers_own_banks(model: Model, task: Task) -> bool:
    """Decide whether left-out tiles are nearer to banks of their own places than to a shared one.

    A place's bank is selected from a part of the shared bank's patches, so defects are no nearer to it; the
    question is whether good tiles are. At some places half of the pictures are compared with the other half:
    by the bank of their place, and by one for all these places that is as dense as a shared one.
    """
    assert task.views.positions is not None
    job, where = FitJob(model, replace(task, settle=list)), np.asarray(task.views.positions.position_of)
    rng = np.random.default_rng([job.config.seed, RNG_STREAM])
    tiles, groups = np.unique(where[where > 0]), np.asarray(task.groups)
    places = np.sort(rng.permutation(tiles)[:COMPARED_POSITIONS])
    chosen = rng.permutation(np.unique(groups))[:COMPARED_PICTURES]
    numbers = np.flatnonzero(np.isin(where, places) & np.isin(groups, chosen)).tolist()
    patches = collect_patches(job, numbers, "places")
    lying, group = where[patches.numbers], groups[patches.numbers]

    def points(rows: Any, v: int) -> Tensor:
        return patches.select(np.flatnonzero(rows).tolist()).points(v)[0]

    def highest(rows: Any, v: int, bank: Tensor) -> list[float]:
        """The largest value of each tile's map."""
        left, centre, view = patches.select(np.flatnonzero(rows).tolist()), bank.mean(0), job.views[v]
        away = left.scatter_values(v, nearest_distance(left.points(v)[0] - centre, bank - centre))
        drawn = (view.anomaly_map(to_grid(one, view.inside.bool())[None]) for one in away)
        return [float(one.max()) for one in drawn]

    found: list[tuple[float, float]] = []
    for half in (chosen[::2], chosen[1::2]):
        learnt = np.isin(group, half)
        for v in range(len(job.views) if learnt.any() else 0):
            part = points(learnt, v)
            whole = bank_size(job.config, v, len(part) * len(tiles) // len(places))
            common = _select_bank(part, whole * len(places) // len(tiles))
            for place in places:
                here, left = learnt & (lying == place), ~learnt & (lying == place)
                if here.any() and left.any():
                    part = points(here, v)
                    near = _select_bank(part, bank_size(job.config, v, len(part), len(tiles)))
                    found += zip(highest(left, v, near), highest(left, v, common), strict=True)
    if not found:
        return False
    of_own, of_shared = np.mean(found, axis=0).tolist()
    which, count = "each" if of_own < of_shared else "shared", pluralize(len(found), "left-out tile")
    task.say(
        f"positions: {which}, since {count} are {of_own:.4g} away from banks of their own places, "
        f"{of_shared:.4g} from a shared one"
    )
    return which == "each"


def _select_bank(points: Tensor, count: int) -> Tensor:
    return points[coreset.select(points, max(1, min(count, len(points)))).indices]
