"""How much memory a fit will take, said before it starts, and what to do when it is too much."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import dataclass

import psutil
import torch

from flawscope.errors import InputError
from flawscope.patchcore import coreset
from flawscope.patchcore.config import Config
from flawscope.patchcore.model import BLOCK, Model

MIB, GIB = 2**20, 2**30
MAX_CALIBRATION = 500  # pictures re-read for calibration when the features did not stay in memory


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
        return f"memory: about {self.peak / GIB:.2f} GiB at the peak, {self.free / GIB:.1f} GiB free; {how}"


def plan(config: Config, model: Model, count: int, device: torch.device) -> Plan:
    """Predict the peak, and split until it fits.

    Raises:
        InputError: not even a single picture's features fit.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    base = psutil.Process().memory_info().rss if device.type == "cpu" else 0
    free = psutil.virtual_memory().available if device.type == "cpu" else _device_free(device)
    patches = model.grid[0] * model.grid[1]
    width = model.embedding.width
    per_picture = patches * (width * 4 + 4 * 3 + 8)  # features, three distances or norms, a group number
    height, columns = model.size
    bank = min(config.cap, config.count or config.cap, max(1, round(config.ratio * patches * count)))
    working = (
        # activations of a batch, about 24 maps of the picture's size in the widest layers
        threads * 4 * 24 * height * columns * 4
        + threads * coreset.ROWS * (coreset.BATCH + 2 * width) * 4
        + threads * BLOCK // 4 * bank * 4  # the neighbours' table
        + 4 * bank * width * 4
    )
    features = count * per_picture
    budget = config.memory * GIB if config.memory is not None else 0.5 * free
    shards = max(1, math.ceil(features / max(budget, 1)))
    if shards > count:
        raise InputError(
            f"one picture's features take {per_picture / MIB:.0f} MiB and only {budget / MIB:.0f} MiB may be "
            "used: free some memory, raise --set memory=GiB, or choose a smaller --size"
        )
    union = 0 if shards == 1 else 2 * bank * width * 4 * 2
    maps = (count if shards == 1 else min(count, MAX_CALIBRATION)) * height * columns * 4
    peak = base + features // shards + working + union + maps
    return Plan(shards, int(peak), features, int(free))


def _device_free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # MPS shares the machine's memory


def peak_rss() -> int:
    """The largest memory this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
