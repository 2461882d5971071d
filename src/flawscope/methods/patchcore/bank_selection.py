"""Selection of the memory banks."""

from __future__ import annotations

import torch
from torch import Tensor

from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.patches import FitJob, Patches
from flawscope.methods.patchcore.record import Config
from flawscope.methods.patchcore.selected_bank import SelectedBank

# Smallest bank at the larger sizes: with fewer elements, good pictures of a small set score too high
MIN_FINE_BANK = 2000
MIN_SECOND_BANK = 4000  # smallest bank of a second backbone


def bank_size(config: Config, v: int, patch_count: int) -> int:
    """Return the number of elements to select from a branch's patches.

    Args:
        config: Settings of the model.
        v: Number of the branch, from 0.
        patch_count: How many patches the branch has.
    """
    spec = config.branch_specs[v]
    if config.count is not None:
        size = config.count
    elif spec.second:
        size = max(round(config.fine_ratio * patch_count), MIN_SECOND_BANK)
    elif spec.size == config.network_sizes[0]:  # the smallest size
        size = round(config.ratio * patch_count)
    else:
        size = max(round(config.fine_ratio * patch_count), MIN_FINE_BANK)
    return max(1, min(size, config.cap, patch_count))


def select_banks(job: FitJob, patches: Patches) -> list[SelectedBank]:
    """Select a coreset per branch, and put it into the model as the branch's memory bank."""
    banks = []
    for v in range(len(job.branches)):
        points, groups = patches.points(v)
        banks.append(select_bank(job, v, points, groups, patches=len(points), stage="coreset"))
    return banks


def select_bank(
    job: FitJob, v: int, points: Tensor, groups: Tensor, patches: int, stage: str
) -> SelectedBank:
    """Select a coreset of a branch's points, and make it the branch's memory bank.

    If a model is extended, the coreset is added to its bank.

    Args:
        job: The fit.
        v: Number of the branch.
        points: Absolute features `[N, D]`.
        groups: Group of each point, `[N]`.
        patches: Number of all patches of the branch, which decides the size of the bank. The points may be a
            selection of these patches.
        stage: Name of the stage in the progress.
    """
    branch = job.branches[v]
    config = job.config
    progress = job.progress(job.stage_name(stage, branch))
    if job.existing_banks is None:
        count = min(bank_size(config, v, patches), len(points))
        result = coreset.select(points, count, groups=groups, progress=progress)
        branch.set_bank(points[result.indices])
        return SelectedBank(
            branch, groups=groups[result.indices], points=points, point_groups=groups, result=result
        )
    existing = job.existing_banks[v]
    free_places = max(0, config.cap - len(existing.bank))
    count = min(bank_size(config, v, patches), len(points), free_places)
    result = coreset.select(
        points,
        count,
        groups=groups,
        start=existing.bank,
        start_groups=existing.groups,
        until=existing.radius,
        progress=progress,
    )
    branch.bank = branch.bank[: len(existing.bank)]  # remove the elements of an earlier round of this fit
    branch.extend_bank(points[result.indices])
    element_groups = torch.cat([existing.groups, groups[result.indices]])
    return SelectedBank(branch, groups=element_groups, points=points, point_groups=groups, result=result)
