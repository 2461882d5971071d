"""Pictures to features, in fixed batches, decoding and network side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.detector import Detector
from flawscope.methods.threads import workers
from flawscope.progress import ProgressCallback, ignore_progress

BATCH = 4  # fixed: the result must not depend on the machine. On two cores the fastest of 1, 2, 4, 8
GPU_BATCH = 32
PREFETCH = 4  # blocks that are loaded while a device works

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")
# Loads picture i as [3, H, W] float32 in 0..1, or None where it cannot be used
LoadPicture = Callable[[int], Tensor | None]
# Takes the features of picture i, and the pixels of it that count ([H, W] bool; None: the region of interest)
StoreFeatures = Callable[[int, Tensor, Tensor | None], None]


def check_region_visible(image: Tensor | None, region: Tensor) -> Tensor | None:
    """Check that a picture [3, H, W], negative in its padding, shows the region, and return the picture.

    Raises:
        InputError: the region of interest [H, W] lies in its padding alone.
    """
    if image is not None and not (region & (image[0] >= 0)).any():
        raise InputError("the region of interest lies in the padding of a good picture: give another --roi")
    return image


def embed_pictures(
    model: Detector,
    load: LoadPicture,
    indices: Sequence[int],
    store: StoreFeatures,
    step: ProgressCallback = ignore_progress,
    stage: str = "features",
) -> None:
    """Embed the pictures `indices`; `store` is called once for each that could be loaded, in any order."""
    device = model.roi.device

    def embed(batch: Sequence[int], loaded: list[Tensor | None]) -> None:
        used = [(i, image) for i, image in zip(batch, loaded, strict=True) if image is not None]
        if used:
            images = torch.stack([image for _, image in used]).to(device)
            features, inside = model.embed(images), model.inside(images)
            for k, (i, _) in enumerate(used):
                store(i, features[k], None if inside is None else inside[k])

    size = BATCH if device.type == "cpu" else GPU_BATCH
    process_blocks(indices, size, load, embed, lambda *_: None, device, step, stage)


def process_blocks(
    items: Sequence[T],
    size: int,
    load: Callable[[T], R],
    work: Callable[[Sequence[T], list[R]], W],
    take: Callable[[Sequence[T], W], None],
    device: torch.device,
    step: ProgressCallback = ignore_progress,
    stage: str = "",
) -> None:
    """Call `take(block, work(block, loaded))` for every block of `size` items. `take` gets the blocks one
    at a time and in their order.

    On a CPU every thread loads and works on whole blocks with one torch thread each, which is faster than
    sharing a block among threads and gives the same result whatever their number. On other devices threads
    load ahead while the device works.
    """
    blocks = [items[k : k + size] for k in range(0, len(items), size)]
    found: dict[int, W] = {}
    waiting, done, lock = 0, 0, Lock()

    def run(k: int, loaded: list[R]) -> None:
        nonlocal waiting, done
        made = work(blocks[k], loaded)
        with lock:
            found[k] = made
            while waiting in found:
                take(blocks[waiting], found.pop(waiting))
                waiting += 1
            done += len(blocks[k])
            if stage:
                step(stage, done, len(items))

    if device.type == "cpu":
        with workers(device) as each:
            each(lambda k: run(k, [load(item) for item in blocks[k]]), range(len(blocks)))
        return
    with torch.inference_mode(), ThreadPoolExecutor(max(2, torch.get_num_threads())) as pool:
        jobs = [pool.submit(list, map(load, block)) for block in blocks[:PREFETCH]]
        for k in range(len(blocks)):
            loaded = jobs.pop(0).result()
            jobs += [pool.submit(list, map(load, block)) for block in blocks[k + PREFETCH : k + PREFETCH + 1]]
            run(k, loaded)
