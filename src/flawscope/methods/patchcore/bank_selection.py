"""Selection of the memory banks, and prediction of the memory that a fit takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from flawscope.errors import InputError, pluralize
from flawscope.machine import peak_memory
from flawscope.methods.detector import BATCH, GPU_BATCH
from flawscope.methods.patchcore import coreset, quantized_search
from flawscope.methods.patchcore.model import BLOCK, Model
from flawscope.methods.patchcore.patches import FitJob, Patches, choose_orientations
from flawscope.methods.patchcore.record import Config
from flawscope.methods.patchcore.selected_bank import NEXT_ELEMENTS, SelectedBank
from flawscope.methods.task import Task
from flawscope.progress import Detail
from flawscope.types import Json

MIB = 2**20
GIB = 2**30
MAX_FEATURE_BYTES = 2 * GIB  # of features that are kept in memory if nobody asks for more
KEPT_SHARE = 0.5  # of that memory, at most, for pictures that a streamed fit calibrates on
KERNEL_BYTES = 60 * MIB  # code and buffers that torch's kernels bring in when they are first used
ACTIVATION_FACTOR = 1.45  # of the widest layer's input and output, as measured (bench/fit.py)
MIN_FINE_BANK = (
    2000  # elements at the larger sizes: sparser banks score good pictures of a small set too high
)
MIN_SECOND_BANK = 4000  # of a second backbone


# -------------------------------------------------------------------------------------------------- coresets


def bank_size(config: Config, branch: int, patches: int) -> int:
    """Return the number of elements to keep of a branch's patches; branch 0 is of the smallest size."""
    if config.count is not None:
        wanted = config.count
    elif config.branch_specs[branch].second:
        wanted = max(round(config.fine_ratio * patches), MIN_SECOND_BANK)
    elif config.branch_specs[branch].size == config.network_sizes[0]:
        wanted = round(config.ratio * patches)
    else:
        wanted = max(round(config.fine_ratio * patches), MIN_FINE_BANK)
    return max(1, min(wanted, config.cap, patches))


def select_banks(job: FitJob, patches: Patches) -> list[SelectedBank]:
    """Select a coreset per branch, and put it into the model as its memory bank."""
    found = []
    for v in range(len(job.branches)):
        points, groups = patches.points(v)
        found.append(select_bank(job, v, points, groups, len(points), "coreset"))
    return found


def select_bank(
    job: FitJob, v: int, points: Tensor, groups: Tensor, patches: int, stage: str
) -> SelectedBank:
    """Select a coreset of a branch's points, and make it the model's memory bank, or add it to the old bank.

    Args:
        job: The fit.
        v: Number of the branch.
        points: Absolute features `[N, D]`.
        groups: Group of each point, `[N]`.
        patches: Number of patches that the points stand for.
        stage: Name of the stage in the progress.
    """
    branch = job.branches[v]
    config = job.config
    progress = job.progress(job.stage_name(stage, branch))
    if job.existing_banks is None:
        count = min(bank_size(config, v, patches), len(points))
        result = coreset.select(points, count, groups=groups, progress=progress)
        branch.set_bank(points[result.indices])
        return SelectedBank(branch, groups[result.indices], points, groups, result)
    start = job.existing_banks[v]
    count = min(bank_size(config, v, patches), len(points), max(0, config.cap - len(start.bank)))
    known: Json = {"start": start.bank, "start_groups": start.groups, "until": start.radius}
    result = coreset.select(points, count, groups=groups, progress=progress, **known)
    branch.bank = branch.bank[: len(start.bank)]  # a second selection starts as the first did
    branch.extend_bank(points[result.indices])
    return SelectedBank(branch, torch.cat([start.groups, groups[result.indices]]), points, groups, result)


# ---------------------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class MemoryPlan:
    """Plan of a fit's memory.

    Attributes:
        shards: Number of shards into which the features are split.
        peak: Predicted peak of the process, in bytes.
        features: Size of all features, in bytes.
        free: Free memory, in bytes.
        kept: Number of pictures to calibrate on whose features stay in memory beside a shard's.
    """

    shards: int
    peak: int
    features: int
    free: int
    kept: int

    def describe(self) -> str:
        """Return a line for a person, with a remedy where the memory may not suffice."""
        how = (
            "features stay in memory"
            if self.shards == 1
            else f"{self.features / GIB:.1f} GiB of features are streamed in {self.shards} shards"
        )
        free = f"{self.free / GIB:.1f} GiB free"
        line = f"memory: about {self.peak / GIB:.2f} GiB at the peak, {free}; {how}"
        return f"{line}; that may not fit: close other programs" if self.peak > self.free else Detail(line)


def predict_peak(model: Model, task: Task) -> int:
    """Predict the peak memory of the process of `fit`, in bytes, before it begins."""
    copies = choose_orientations(FitJob(model, task))
    return plan_memory(model, task, task.count * (1 + len(copies))).peak


def plan_memory(model: Model, task: Task, count: int) -> MemoryPlan:
    """Predict the peak of a process, and split the pictures until it fits.

    Args:
        model: The model that is fitted.
        task: The task of the fit.
        count: Number of pictures, with their copies.

    Raises:
        InputError: Not even a single picture's features fit, or the pictures are fewer than the setting
            `shards`.
    """
    config = model.config
    device = model.roi.device
    on_cpu = device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    base = psutil.Process().memory_info().rss if on_cpu else 0
    free = _free_bytes(device)
    width = model.width
    patches = [int(branch.inside.sum()) for branch in model.branches]
    # features, three distances or norms, a group number, the nearest element, a place in its cell, and the
    # next elements
    numbers = sum(n * branch.embedding.width for n, branch in zip(patches, model.branches, strict=True))
    per_picture = numbers * 4 + sum(patches) * (4 * 3 + 8 + 4 + 8 + 4 * NEXT_ELEMENTS)
    if config.pads:  # what counts, of patches and pixels, and the points without the others
        per_picture += sum(patches) + numbers * 4 + model.roi.numel()
    banks = [bank_size(config, v, n * count) for v, n in enumerate(patches)]
    features = count * per_picture
    budget = config.memory * GIB if config.memory is not None else min(MAX_FEATURE_BYTES, 0.5 * free)
    kept = min(_calibrated_count(config, task), int(KEPT_SHARE * budget / per_picture))
    shards = 1
    if features > budget:
        shards = math.ceil(features / max(budget - kept * per_picture, 1))
    if config.shards is not None:
        shards = config.shards
        if shards > count:
            raise InputError(
                f"setting shards: {shards} for {pluralize(count, 'picture')}: write {count} or less"
            )
    elif shards > count:
        raise InputError(
            f"one picture's features take {per_picture / MIB:.0f} MiB and only {budget / MIB:.0f} MiB may be "
            "used: free some memory, raise --set memory=GiB, or choose a smaller --size"
        )
    # a thread holds the decoded picture, its upright copy and what the resize reads
    batch, decoded = (BATCH, 3 * task.decoded_bytes) if on_cpu else (GPU_BATCH, 0)
    embedding = threads * (batch * _activation_bytes(model) + decoded) + KERNEL_BYTES
    # products of a block with a batch of picks, and the block itself
    selecting = threads * coreset.ROWS * (coreset.BATCH + 2 * width) * 4
    # of one branch and one shard at a time, beside its features
    rounded = quantized_search.row_bytes(width) + 4 if on_cpu and quantized_search.is_faster() else 0
    selecting += max(patches) * -(-count // shards) * rounded
    # one row block of the neighbours' table against the bank; the bank in its forms
    installing = threads * BLOCK // 4 * max(banks) * 4 + 4 * sum(banks) * width * 4
    coresets = 0 if shards == 1 else 2 * sum(banks) * width * 4 * 2  # of the shards
    calibrating = 0 if shards == 1 else kept * per_picture
    most = base + features // shards + embedding + selecting + installing + coresets + calibrating
    most = max(most, peak_memory() if on_cpu else 0)  # comparing a great many pictures took more already
    return MemoryPlan(shards, int(most), features, int(free), kept)


def _calibrated_count(config: Config, task: Task) -> int:
    """Return the number of pictures to calibrate on, where each counts as a part."""
    wanted = task.calibration_pictures
    return min(task.count, config.calibration_pictures if wanted is None else wanted)


def _activation_bytes(model: Model) -> int:
    """Return the bytes that a picture takes in the backbone at once.

    They are the widest layer's input and output, and the copies that convolutions make of them (padding,
    memory layout).
    """
    widest = 0

    def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal widest
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            widest = max(widest, (inputs[0].numel() + output.numel()) * 4)

    leaves = [m for network in model.backbones for m in network.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(look) for m in leaves]
    try:
        with torch.inference_mode():
            model.embed(torch.zeros(1, 3, *model.size, device=model.roi.device))
    finally:
        for hook in hooks:
            hook.remove()
    return int(ACTIVATION_FACTOR * widest)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # MPS shares the machine's memory
