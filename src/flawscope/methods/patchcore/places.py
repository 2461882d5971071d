"""Tiles that are told apart by where they lie: a memory bank for each place, from the tiles seen there.

A part that lies still shows the same in the same tile. The tile's bank then needs to cover only that, so that
it is denser and searched faster than one that covers the whole picture. A place that good pictures show of
one part at most, such as a corner beside an aligned part, has a bank of all other tiles.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawscope.calibration.streams import Stream
from flawscope.errors import InputError, pluralize
from flawscope.methods.patchcore import Config, coreset
from flawscope.methods.patchcore.bank_selection import MAX_KEPT_BYTES, bank_size, select_bank, select_banks
from flawscope.methods.patchcore.leave_one_out import (
    LeftOutPicture,
    distances_in_view,
    distances_to_others,
)
from flawscope.methods.patchcore.model import Model, pad_rows
from flawscope.methods.patchcore.patches import FitJob, Patches, collect_patches, nearest_distance, to_grid
from flawscope.methods.patchcore.selected_bank import SelectedBank
from flawscope.methods.task import Task
from flawscope.methods.threads import run_serially
from flawscope.progress import Detail

COMPARED_POSITIONS = 8  # compared by `prefers_own_banks`
COMPARED_PICTURES = 16  # whose tiles at those places are compared


@dataclass
class PositionBanks:
    """Results of filling the banks.

    groups: per position and view the groups of the bank's elements; none where nothing counts.
    selections: by position, of as many as there is room for.
    left_out: by number, each tile against its place's banks as if its group had never been there.
    radii: the covering radius of each view, at the position where it is largest.
    """

    groups: dict[int, list[Tensor]] = field(default_factory=dict)
    selections: dict[int, list[SelectedBank]] = field(default_factory=dict)
    left_out: dict[int, LeftOutPicture] = field(default_factory=dict)
    radii: list[float] = field(default_factory=list)
    patches: int = 0

    def groups_of(self, model: Model) -> list[Tensor]:
        """Groups [R, M] of all positions' elements, per view."""
        none = torch.zeros(0, dtype=torch.long, device=model.roi.device)
        return [
            torch.stack(
                [
                    pad_rows(self.groups[p][v] if p in self.groups else none, view.norms.shape[1])
                    for p in range(len(view.bank))
                ]
            )
            for v, view in enumerate(model.views)
        ]


def fill_position_banks(job: FitJob, blocks: int) -> PositionBanks:
    """Give the model a memory bank for every position.

    Args:
        blocks: of positions, whose features are in memory one block after the other.
    """
    assert job.task.views.positions is not None
    model, where, total = (
        job.model,
        np.asarray(job.task.views.positions.position_of),
        job.task.views.positions.count,
    )
    order = Stream.POSITIONS.rng(job.config.seed).permutation(total)
    found, models, room = PositionBanks(radii=[0.0] * len(job.views)), {}, float(MAX_KEPT_BYTES)
    highest: dict[tuple[int, int], float] = {}  # of tiles
    unknown: list[int] = []  # positions that good pictures show of one part at most
    # selections of the first places of a random order are kept
    for block, positions in enumerate(np.array_split(order, min(blocks, total))):
        numbers = np.flatnonzero(np.isin(where, positions)).tolist()
        name = "features" if blocks == 1 else f"features {block + 1}/{blocks}"
        patches = collect_patches(job, numbers, name) if numbers else None
        lying = where[[] if patches is None else patches.numbers]
        for done, position in enumerate(positions.tolist()):
            here, rows = job.at(position), np.flatnonzero(lying == position).tolist()
            models[position] = here.model
            part = patches.select(rows) if patches is not None and rows else None
            if here.existing_banks is None and (part is None or len(part.groups.unique()) == 1):
                unknown += [position] if position in where else []  # else nothing counts there
                continue
            if part is None:
                continue
            selections = select_banks(here, part)
            # the whole picture's map gets another scale later, and cannot be compared with tiles
            found.left_out |= _score_left_out(here, part, selections, highest if position else {})
            found.groups[position] = [selection.groups for selection in selections]
            found.radii = [max(r, one.radius) for r, one in zip(found.radii, selections, strict=True)]
            found.patches += part.patch_count
            room -= sum(own.nbytes for own in part.features)
            if room >= 0:
                found.selections[position] = selections
            job.task.step("coresets", done + 1, len(positions))
        del patches
        gc.collect()
    if not found.groups and job.existing_banks is None:
        raise InputError("--positions each needs good pictures of at least two parts: leave it out")
    if any(unknown) and any(found.groups):
        _share_bank(job, found, models, [position for position in unknown if position])
    model.join_banks([models[position] for position in range(total)])
    return found


def _share_bank(job: FitJob, found: PositionBanks, models: dict[int, Model], positions: list[int]) -> None:
    """Gives `positions` the bank of all other tiles."""
    tiles = [position for position in found.groups if position]
    for position in positions:
        found.groups[position] = []
    for v in range(len(job.views)):
        banks = [models[position].views[v] for position in tiles]
        points = torch.cat([view.bank + view.centre for view in banks])
        groups = torch.cat([found.groups[position][v] for position in tiles])
        here = job.at(positions[0])
        selection = select_bank(here, v, points, groups, len(points), "coreset")
        for position in positions:
            models[position].views[v].set_bank(points[selection.result.indices])
            found.groups[position].append(selection.groups)


def _score_left_out(
    job: FitJob, patches: Patches, selections: list[SelectedBank], highest: dict[tuple[int, int], float]
) -> dict[int, LeftOutPicture]:
    """Compare the pictures of one position with its banks as if their groups had never been there.

    The distances to other groups' elements are at hand, and nowhere too low. Selecting a bank anew takes
    long, and is done only where a distance could be the highest of its picture. Then the lower of both
    distances counts: each is right on average, and of many tiles the one that errs most would decide.

    Args:
        highest: by picture and view, the largest map value so far where a tile is alone, which is in the
            picture's map as it is; kept up to date.
    """
    others, places = distances_to_others(patches, selections), job.task.views.positions
    assert places is not None

    def one(i: int, v: int) -> Tensor:
        number, selection, view = patches.numbers[i], selections[v], selections[v].view
        away = to_grid(others[v][i], view.inside.bool())
        picture = places.frame_of[number], v
        if float(view.anomaly_map(away[None]).max()) > highest.get(picture, -np.inf):
            away = torch.minimum(away, distances_in_view(patches, i, v, selection, away))
            inner = view.anomaly_map(away[None])[0][places.unshared_part(number)]
            if inner.numel():
                highest[picture] = max(highest.get(picture, -np.inf), float(inner.max()))
        return away

    nothing = patches.features[0].new_zeros(())  # the score is the map's
    found = {}
    for i, number in enumerate(patches.numbers):
        # one after the other: a selection is many small steps, at which threads only wait for each other
        pairs = [(nothing, run_serially(partial(one, i, v), job.device)) for v in range(len(selections))]
        found[number] = LeftOutPicture(pairs, patches.pixel_mask(i))
    return found


# ------------------------------------------------------------------------------------------- positions: auto


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
    rng = Stream.POSITIONS.rng(job.config.seed)
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
    away = f"{count} are {of_own:.4g} away from banks of their own places, {of_shared:.4g} from a shared one"
    task.say(Detail(f"positions: {which}, since {away}"))
    return which == "each"


def _select_bank(points: Tensor, count: int) -> Tensor:
    return points[coreset.select(points, max(1, min(count, len(points)))).indices]
