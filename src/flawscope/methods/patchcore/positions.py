"""Tiles that are told apart by where they lie: a memory bank for each place, from what was seen there.

A part that lies still shows the same in the same tile. The tile's bank then needs to cover only that, so that
it is denser and searched faster than one that covers the whole picture.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.leave_out import Raw, placed, to_others, without
from flawscope.methods.patchcore.loo_bank import Selection, nearest_distance
from flawscope.methods.patchcore.memory_bank import View, filled_up
from flawscope.methods.patchcore.memory_plan import KEPT, bank_size
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.selection import Job, Patches, collect, select
from flawscope.methods.task import Task
from flawscope.methods.threads import alone
from flawscope.progress import counted

STREAM = 62  # of random numbers
PLACES = 8  # that `prefer` looks at
PICTURES = 16  # of which it looks at those places


@dataclass
class Placed:
    """What was found while the banks were filled.

    groups: per position and view the groups of the bank's elements; none where nothing counts.
    selections: of some positions.
    left_out: every number against its place's banks as if its group had never been there.
    radii: the covering radius of each view, at the position where it is largest.
    """

    groups: dict[int, list[Tensor]] = field(default_factory=dict)
    selections: dict[int, list[Selection]] = field(default_factory=dict)
    left_out: dict[int, Raw] = field(default_factory=dict)
    radii: list[float] = field(default_factory=list)
    patches: int = 0

    def groups_of(self, model: Model) -> list[Tensor]:
        """Per view those of all positions' elements, [R, M]."""
        none = torch.zeros(0, dtype=torch.long, device=model.roi.device)
        return [
            torch.stack(
                [
                    filled_up(self.groups[p][v] if p in self.groups else none, view.norms.shape[1])
                    for p in range(len(view.bank))
                ]
            )
            for v, view in enumerate(model.views)
        ]

    def answer(self, model: Model, number: int) -> tuple[Tensor, Tensor] | None:
        """Score [1] and map [1, H, W] of what was learnt from, as if its group had never been there."""
        raw = self.left_out.get(number)
        if raw is None:
            return None
        inside = None if raw.inside is None else raw.inside[None]
        return model.combine([], [away[None] for away in raw.distances], inside)


def fill(job: Job, blocks: int) -> Placed:
    """Give the model a memory bank for every position.

    Args:
        blocks: of positions, whose features are in memory one block after the other.
    """
    model, where, total = job.model, np.asarray(job.task.positions), job.task.places
    assert total is not None
    order = np.random.default_rng([job.config.seed, STREAM]).permutation(total)
    found, models, room = Placed(radii=[0.0] * len(job.views)), {}, float(KEPT)
    highest: dict[tuple[int, int], float] = {}  # of tiles
    # the first places of a random order stay
    for block, positions in enumerate(np.array_split(order, min(blocks, total))):
        numbers = np.flatnonzero(np.isin(where, positions)).tolist()
        name = "features" if blocks == 1 else f"features {block + 1}/{blocks}"
        patches = collect(job, numbers, name) if numbers else None
        lying = where[[] if patches is None else patches.rows]
        for done, position in enumerate(positions.tolist()):
            here, rows = job.at(position), np.flatnonzero(lying == position).tolist()
            models[position] = here.model
            if patches is None or not rows:  # nothing of it counts: it is never asked
                continue
            part = patches.of(rows)
            if len(part.groups.unique()) == 1:
                raise InputError("--positions each needs good pictures of at least two parts: leave it out")
            selections, results = select(here, part)
            # the view of the whole is brought to another scale later, and says nothing of tiles
            so_far = highest if position else {}
            found.left_out |= _left_out(here, part, selections, results, so_far)
            found.groups[position] = [selection.groups for selection in selections]
            found.radii = [max(r, result.radius) for r, result in zip(found.radii, results, strict=True)]
            found.patches += part.total
            room -= sum(own.nbytes for own in part.features)
            if room >= 0:
                found.selections[position] = selections
            job.task.step("coresets", done + 1, len(positions))
        del patches
        gc.collect()
    model.join([models[position] for position in range(total)])
    return found


def _left_out(
    job: Job,
    patches: Patches,
    selections: list[Selection],
    results: list[coreset.Coreset],
    highest: dict[tuple[int, int], float],
) -> dict[int, Raw]:
    """The pictures of one position against its banks as if their groups had never been there.

    The distances to the elements of other groups are at hand, and nowhere too low. A bank is selected anew,
    which takes long, only where they could be the highest of a picture. Then the lower of both counts: each
    is right on average, and of many tiles the one that errs most would decide.

    Args:
        highest: by picture and view, the largest map value so far where a tile is alone, which is in the
            picture's map as it is; kept up to date.
    """

    others = to_others(patches, results)

    def one(k: tuple[int, int]) -> Tensor:
        i, v = k
        selection, view = selections[v], selections[v].view
        away = placed(others[v][i], view.inside.bool())
        picture = job.task.pictures[patches.rows[i]], v
        if float(view.anomaly_map(away[None]).max()) > highest.get(picture, -np.inf):
            away = torch.minimum(away, without(patches, i, v, selection, away)[1])
            assert job.task.alone is not None
            inner = view.anomaly_map(away[None])[0][job.task.alone(patches.rows[i])]
            if inner.numel():
                highest[picture] = max(highest.get(picture, -np.inf), float(inner.max()))
        return away

    each_view = [(i, v) for i in range(len(patches.rows)) for v in range(len(selections))]
    # one after the other: a selection is many small steps, at which threads only wait for each other
    distances = {k: alone(partial(one, k), job.device) for k in each_view}
    nothing = patches.features[0].new_zeros(())  # the score is the map's
    return {
        number: Raw(
            [nothing] * len(selections),
            [distances[i, v] for v in range(len(selections))],
            None if patches.inside is None else patches.inside[i],
        )
        for i, number in enumerate(patches.rows)
    }


# ---------------------------------------------------------------------------------------------------- auto


def prefer(model: Model, task: Task) -> bool:
    """Whether left-out tiles are nearer to banks of their own places than to a shared one.

    What a place's bank is selected from is a part of what a shared one is, so that defects are no nearer to
    it; what counts is whether good tiles are. At some places half of the pictures are compared with the
    other half: by the bank of their place, and by one for all these places that is as dense as a shared one.
    """
    job, where = Job(model, replace(task, settle=list)), np.asarray(task.positions)
    rng = np.random.default_rng([job.config.seed, STREAM])
    tiles, groups = np.unique(where[where > 0]), np.asarray(task.groups)
    places = np.sort(rng.permutation(tiles)[:PLACES])
    chosen = rng.permutation(np.unique(groups))[:PICTURES]
    numbers = np.flatnonzero(np.isin(where, places) & np.isin(groups, chosen)).tolist()
    patches = collect(job, numbers, "places")
    lying, group = where[patches.rows], groups[patches.rows]
    own: list[float] = []
    shared: list[float] = []
    for half in (chosen[::2], chosen[1::2]):
        learnt = np.isin(group, half)
        for v, view in enumerate(job.views):
            part = patches.of(np.flatnonzero(learnt).tolist()).points(v)[0]
            if not len(part):
                continue
            whole = bank_size(job.config, v, len(part) * len(tiles) // len(places))
            common = _bank(part, whole * len(places) // len(tiles))
            for place in places:
                here = [np.flatnonzero(rows & (lying == place)).tolist() for rows in (learnt, ~learnt)]
                if not all(here):
                    continue
                part = patches.of(here[0]).points(v)[0]
                near = _bank(part, bank_size(job.config, v, len(part), len(tiles)))
                left = [_map_maxima(view, patches.of(here[1]), v, bank) for bank in (near, common)]
                own += left[0]
                shared += left[1]
    if not own:
        return False
    of_own, of_shared = float(np.mean(own)), float(np.mean(shared))
    which, count = "each" if of_own < of_shared else "shared", counted(len(own), "left-out tile")
    task.say(
        f"positions: {which}, since {count} are {of_own:.4g} away from banks of their own places, "
        f"{of_shared:.4g} from a shared one"
    )
    return of_own < of_shared


def _bank(points: Tensor, count: int) -> Tensor:
    return points[coreset.select(points, max(1, min(count, len(points)))).indices]


def _map_maxima(view: View, patches: Patches, v: int, bank: Tensor) -> list[float]:
    """The largest value of each tile's map."""
    centre = bank.mean(0)
    points = patches.points(v)[0]
    away = patches.spread(v, nearest_distance(points - centre, bank - centre))
    region = view.inside.bool()
    return [float(view.anomaly_map(placed(one, region)[None]).max()) for one in away]
