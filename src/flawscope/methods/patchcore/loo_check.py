"""A few left-out pictures beside real refits: does leave-one-out keep its word on this product?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawscope.calibration.decision import NORMAL_MAD
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.leave_out import Raw, counted_of
from flawscope.methods.patchcore.loo_bank import Selection, nearest_distance
from flawscope.methods.patchcore.memory_plan import REFIT
from flawscope.methods.patchcore.selection import Job, Patches

STREAM = 60  # of random numbers
SHARE, MOST = 20, 5  # every so many pictures one is left out, this many at most, by one refit
FEWEST = 4  # groups: with fewer a refit is another model
FAR = 2.0  # spreads of good pictures between left-out and refitted scores that are reported


@dataclass(frozen=True)
class Refits:
    """Maxima of maps at the smallest size, on average over the pictures.

    left_out: as calibrated with.
    refitted: by a bank that was selected without these pictures.
    spread: of all left-out pictures, 1.4826 times the median absolute deviation.
    """

    pictures: int
    left_out: float
    refitted: float
    spread: float

    @property
    def note(self) -> str | None:
        """One line where they disagree."""
        if abs(self.left_out - self.refitted) <= max(FAR * self.spread, 0.05 * self.refitted):
            return None
        which, what = ("above", "few") if self.left_out > self.refitted else ("below", "many")
        return (
            f"left-out scores are {which} those of a real refit without {self.pictures} of the pictures "
            f"({self.left_out:.4g} against {self.refitted:.4g}): expect too {what} alarms; calibrate with "
            "good pictures that the model has not seen (flawscope calibrate)"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compared(job: Job, patches: Patches, selection: Selection, raw: list[Raw]) -> Refits | None:
    """None where it would take too many pictures away, or too much memory.

    Args:
        selection: of the smallest size.
        raw: every picture's left-out distances.
    """
    points, of, view = selection.points, selection.groups_of_points, selection.view
    every = patches.groups.unique()
    if job.starts is not None or len(every) < FEWEST or points.numel() * 4 > REFIT:
        return None
    order = np.random.default_rng([job.config.seed, STREAM]).permutation(len(every))
    chosen = every[order[: min(MOST, max(1, len(every) // SHARE))].tolist()]
    rest = points[~torch.isin(of, chosen)]
    count = max(1, round(len(view.bank) * len(rest) / len(points)))
    bank = rest[coreset.select(rest, count).indices] - view.centre
    rows = torch.isin(patches.groups[: len(raw)], chosen).nonzero().flatten().tolist()

    def maximum(i: int, distances: Tensor) -> float:
        return float(view.anomaly_map(distances[None])[0][job.model.region(raw[i].inside)].max())

    region = view.inside.bool()
    refitted = []
    for i in rows:
        distances = torch.zeros(len(region), device=job.device)
        own = patches.features[0][i] - view.centre
        distances[region] = torch.cat([nearest_distance(part, bank) for part in own.split(256)])
        refitted.append(maximum(i, distances * counted_of(view, raw[i].inside)))
    maxima = np.array([maximum(i, one.distances[0]) for i, one in enumerate(raw)])
    spread = NORMAL_MAD * float(np.median(np.abs(maxima - np.median(maxima))))
    return Refits(len(rows), float(maxima[rows].mean()), float(np.mean(refitted)), spread)
