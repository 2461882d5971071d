"""How much memory a fit will take, said before it starts, and what to do when it is too much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from flawscope.errors import InputError
from flawscope.methods.extract import BATCH, GPU_BATCH
from flawscope.methods.patchcore import byte_bound, coreset
from flawscope.methods.patchcore.config import Config
from flawscope.methods.patchcore.memory_bank import BLOCK
from flawscope.methods.patchcore.model import Model
from flawscope.methods.task import HERE, Workers
from flawscope.progress import counted

MIB, GIB = 2**20, 2**30
MOST = 2 * GIB  # of features that are kept in memory if nobody asks for more
ENGINE = 60 * MIB  # code and buffers that torch's kernels bring in when they are first used
COPIES = 1.45  # of the widest layer's input and output, as measured (bench/fit.py)
FEWEST = 2000  # elements at the larger sizes: sparser banks score good pictures of a small set too high
ALL_PLACES = 400_000  # elements of the banks of all places together: 250 MB with the default backbone
PLACE = 500  # of a place, however many there are
KEPT = 1 * GIB  # of patches of some places that stay, to leave pictures out of their banks once more
PART = 16  # pictures that a part for a worker has at least
REFIT = 512 * MIB  # of features at the smallest size that may be copied for a real refit
MAX_CALIBRATION = 500  # pictures read again for calibration when the features did not stay in memory


@dataclass(frozen=True)
class Plan:
    """Shards the features are split into, and the process's predicted peak in bytes."""

    shards: int
    peak: int
    features: int
    free: int

    def line(self) -> str:
        how = (
            "features stay in memory"
            if self.shards == 1
            else f"{self.features / GIB:.1f} GiB of features are streamed in {self.shards} shards"
        )
        tight = "; that may not fit: close other programs" if self.peak > self.free else ""
        free = f"{self.free / GIB:.1f} GiB free"
        return f"memory: about {self.peak / GIB:.2f} GiB at the peak, {free}; {how}{tight}"


def bank_size(config: Config, view: int, patches: int, positions: int | None = None) -> int:
    """How many of so many patches of a view are kept; views are counted from the smallest size.

    Args:
        positions: the bank is that of one of so many places in the pictures.
    """
    if config.count is not None:
        wanted = config.count
    elif view == 0:
        wanted = round(config.ratio * patches)
    else:
        wanted = max(round(config.fine_ratio * patches), FEWEST)
    if positions is not None and config.count is None:
        wanted = min(wanted, max(ALL_PLACES // positions, PLACE))
    return max(1, min(wanted, config.cap, patches))


def plan(
    model: Model,
    count: int,
    decoded: int = 0,
    positions: int | None = None,
    workers: Workers = HERE,
) -> Plan:
    """Predict the peak of a process, and split until it fits.

    Args:
        decoded: bytes of the largest picture as it comes from its file.
        positions: that are told apart; None: none are.
        workers: that the parts are for: at least one each, unless pictures are too few.

    Raises:
        InputError: not even a single picture's features fit, or the pictures are fewer than the setting
            `shards`.
    """
    config, device = model.config, model.roi.device
    on_cpu = device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    base = psutil.Process().memory_info().rss if on_cpu else 0
    free = psutil.virtual_memory().available if on_cpu else _device_free(device)
    if workers.memory is not None:
        free = workers.memory
    width = model.views[0].embedding.width
    patches = [int(view.inside.sum()) for view in model.views]
    # features, three distances or norms, a group number, the nearest element, a place in its cell
    per_picture = sum(patches) * (width * 4 + 4 * 3 + 8 + 4 + 8)
    if config.pads:  # what counts, of patches and pixels, and the points without the others
        per_picture += sum(patches) * (1 + width * 4) + model.roi.numel()
    if positions is None:
        banks = [bank_size(config, v, n * count) for v, n in enumerate(patches)]
    else:
        banks = [bank_size(config, v, n * count // positions, positions) for v, n in enumerate(patches)]
    batch = BATCH if on_cpu else GPU_BATCH
    # a thread holds the decoded picture, its upright copy and what the resize reads
    embedding = threads * (batch * _activations(model) + (3 * decoded if on_cpu else 0)) + ENGINE
    # products of a block with a batch of picks, and the block itself
    selecting = threads * coreset.ROWS * (coreset.BATCH + 2 * width) * 4
    rounded = byte_bound.width_of(width) + 4 if on_cpu and byte_bound.pays() else 0
    # one row block of the neighbours' table against the bank; the bank in its forms
    installing = threads * BLOCK // 4 * max(banks) * 4 + 4 * sum(banks) * (positions or 1) * width * 4
    features = count * per_picture
    budget = config.memory * GIB if config.memory is not None else min(MOST, 0.5 * free)
    shards = max(1, math.ceil(features / max(budget, 1)), min(workers.count, count // PART))
    if config.shards is not None:
        shards = config.shards
        if shards > count:
            raise InputError(
                f"setting shards: {shards} for {counted(count, 'picture')}: write {count} or less"
            )
    elif shards > count:
        raise InputError(
            f"one picture's features take {per_picture / MIB:.0f} MiB and only {budget / MIB:.0f} MiB may be "
            "used: free some memory, raise --set memory=GiB, or choose a smaller --size"
        )
    if positions is not None:
        union = min(KEPT, features) + 4 * sum(patches) * count  # some places' patches, distances of all
    else:
        union = 0 if shards == 1 else 2 * sum(banks) * width * 4 * 2
    beside = max(patches) * count * rounded  # of one view at a time, beside its features
    copied = patches[0] * count * width * 4
    if shards == 1 and positions is None and copied <= REFIT:
        beside = max(beside, copied + patches[0] * count * rounded)
    peak = base + features // shards + embedding + selecting + beside + installing + union
    return Plan(shards, int(peak), features, int(free))


def _activations(model: Model) -> int:
    """Bytes that one picture takes in the backbone at once: the widest layer's input and output, and the
    copies that convolutions make of them (padding, memory layout)."""
    widest = 0

    def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal widest
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            widest = max(widest, (inputs[0].numel() + output.numel()) * 4)

    leaves = [m for m in model.backbone.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(look) for m in leaves]
    try:
        with torch.inference_mode():
            model.embed(torch.zeros(1, 3, *model.size, device=model.roi.device))
    finally:
        for hook in hooks:
            hook.remove()
    return int(COPIES * widest)


def _device_free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # MPS shares the machine's memory
