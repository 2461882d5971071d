"""Memory that a fit takes: how features are kept or streamed, and a forecast of the peak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from flawscope.errors import InputError, pluralize
from flawscope.machine import GIB, peak_memory
from flawscope.methods.detector import BATCH, GPU_BATCH
from flawscope.methods.patchcore import coreset, quantized_search
from flawscope.methods.patchcore.bank_selection import bank_size
from flawscope.methods.patchcore.model import BLOCK, Model
from flawscope.methods.patchcore.patches import FitJob, choose_orientations
from flawscope.methods.patchcore.record import Config
from flawscope.methods.patchcore.selected_bank import NEXT_ELEMENTS
from flawscope.methods.task import Task
from flawscope.progress import Detail

MIB = 2**20
MAX_FEATURE_BYTES = 2 * GIB  # features in memory without the setting `memory`
# Largest share of the features' memory for the pictures on which a streamed fit is calibrated
KEPT_SHARE = 0.5
KERNEL_BYTES = 60 * MIB  # code and buffers that torch's kernels load at their first use
# Memory of a pass, in units of the widest layer's input and output; measured by bench/fit.py
ACTIVATION_FACTOR = 1.45


@dataclass(frozen=True)
class MemoryPlan:
    """Plan of a fit's memory.

    Attributes:
        shards: Number of shards into which the features are split.
        peak: Predicted peak of the process, in bytes.
        features: Size of all features, in bytes.
        free: Free memory, in bytes.
        kept: Number of calibration pictures whose features stay in memory while shards are streamed.
    """

    shards: int
    peak: int
    features: int
    free: int
    kept: int

    def describe(self) -> str:
        """Return a line for a person, with a remedy where the memory may not suffice."""
        if self.shards == 1:
            plan = "features stay in memory"
        else:
            plan = f"{self.features / GIB:.1f} GiB of features are streamed in {self.shards} shards"
        free = f"{self.free / GIB:.1f} GiB free"
        line = f"memory: about {self.peak / GIB:.2f} GiB at the peak, {free}; {plan}"
        if self.peak > self.free:
            return f"{line}; that may not fit: close other programs"
        return Detail(line)  # only printed with --verbose


def predict_peak(model: Model, task: Task) -> int:
    """Predict the peak memory of the process of `fit`, in bytes, before it begins."""
    copies = choose_orientations(FitJob(model, task))
    return plan_memory(model, task, task.count * (1 + len(copies))).peak


def plan_memory(model: Model, task: Task, count: int) -> MemoryPlan:
    """Predict the peak memory of the process, and choose into how many shards the pictures are split.

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
    is_on_cpu = device.type == "cpu"
    free = _free_bytes(device)
    patch_counts = [int(branch.inside.sum()) for branch in model.branches]
    per_picture = _picture_bytes(model, patch_counts)  # bytes
    feature_bytes = count * per_picture
    budget = config.memory * GIB if config.memory is not None else min(MAX_FEATURE_BYTES, 0.5 * free)
    kept_count = min(_calibrated_count(config, task), int(KEPT_SHARE * budget / per_picture))
    shards = 1
    if feature_bytes > budget:
        shards = math.ceil(feature_bytes / max(budget - kept_count * per_picture, 1))
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
    peak = psutil.Process().memory_info().rss if is_on_cpu else 0
    peak += feature_bytes // shards
    peak += _working_bytes(model, task, patch_counts, count, shards)
    if shards > 1:
        peak += kept_count * per_picture
    if is_on_cpu:  # the process may have had a higher peak before the fit, in a comparison of many pictures
        peak = max(peak, peak_memory())
    return MemoryPlan(shards, peak=int(peak), features=feature_bytes, free=int(free), kept=kept_count)


def _picture_bytes(model: Model, patch_counts: Sequence[int]) -> int:
    """Return the bytes that a picture takes while banks are selected.

    Args:
        model: The model that is fitted.
        patch_counts: Number of a picture's patches in each branch.
    """
    branches = zip(patch_counts, model.branches, strict=True)
    feature_bytes = 4 * sum(count * branch.embedding.width for count, branch in branches)
    # Bytes of a patch: three distances or norms (4 each), its group (8), its nearest element (4), its place
    # in the element's cell (8), and its next elements (4 each)
    patch_bytes = 4 * 3 + 8 + 4 + 8 + 4 * NEXT_ELEMENTS
    picture_bytes = feature_bytes + sum(patch_counts) * patch_bytes
    if model.config.pads:
        # masks of the patches and of the pixels, and a copy of the features without padding
        picture_bytes += sum(patch_counts) + model.roi.numel() + feature_bytes
    return picture_bytes


def _working_bytes(model: Model, task: Task, patch_counts: Sequence[int], count: int, shards: int) -> int:
    """Return the bytes that the steps of a fit take in addition to the pictures' features.

    Args:
        model: The model that is fitted.
        task: The task of the fit.
        patch_counts: Number of a picture's patches in each branch.
        count: Number of pictures, with their copies.
        shards: Number of shards.
    """
    is_on_cpu = model.roi.device.type == "cpu"
    threads = torch.get_num_threads() if is_on_cpu else 1
    width = model.width
    bank_sizes = [
        bank_size(model.config, branch, patch_count * count)
        for branch, patch_count in enumerate(patch_counts)
    ]
    bank_bytes = sum(bank_sizes) * width * 4  # fp32
    # on a CPU, each thread decodes: the decoded picture, its upright copy and the input of the resize
    decoding_bytes = 3 * task.decoded_bytes if is_on_cpu else 0
    batch = BATCH if is_on_cpu else GPU_BATCH
    embedding_bytes = threads * (batch * _activation_bytes(model) + decoding_bytes) + KERNEL_BYTES
    # products of a block with a batch of picks, and the block twice
    selecting_bytes = threads * coreset.ROWS * (coreset.BATCH + 2 * width) * 4
    if is_on_cpu and quantized_search.is_faster():
        # rounded features of one branch and one shard at a time
        shard_pictures = -(-count // shards)  # rounded up
        selecting_bytes += max(patch_counts) * shard_pictures * (quantized_search.row_bytes(width) + 4)
    # for each thread a block of BLOCK / 4 rows of `neighbour_table` against the bank, 4 bytes a number; and
    # four copies of the banks
    installing_bytes = threads * BLOCK // 4 * max(bank_sizes) * 4 + 4 * bank_bytes
    # the shards' coresets, which are twice as large as the banks, and a second time as their union
    merging_bytes = 0 if shards == 1 else 2 * 2 * bank_bytes
    return embedding_bytes + selecting_bytes + installing_bytes + merging_bytes


def _calibrated_count(config: Config, task: Task) -> int:
    """Return the number of pictures to calibrate on.

    The task's `calibration_pictures`, if it is given, replaces the setting of the same name.
    """
    max_count = (
        config.calibration_pictures if task.calibration_pictures is None else task.calibration_pictures
    )
    return min(task.count, max_count)


def _activation_bytes(model: Model) -> int:
    """Return the peak memory of a picture's pass through the backbones, in bytes.

    It is the largest sum of a layer's input and output, times `ACTIVATION_FACTOR` for the copies that
    convolutions make of both (padding, memory layout).
    """
    max_bytes = 0

    def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal max_bytes
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            max_bytes = max(max_bytes, (inputs[0].numel() + output.numel()) * 4)  # fp32

    modules = [module for network in model.backbones for module in network.modules()]
    layers = [module for module in modules if not list(module.children())]
    hooks = [layer.register_forward_hook(measure) for layer in layers]
    try:
        with torch.inference_mode():
            model.embed(torch.zeros(1, 3, *model.size, device=model.roi.device))
    finally:
        for hook in hooks:
            hook.remove()
    return int(ACTIVATION_FACTOR * max_bytes)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # MPS shares the machine's memory
