"""Pictures to features, in fixed batches, decoding and network side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock

import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.detector import Detector
from flawscope.methods.threads import workers
from flawscope.progress import Step, silent

BATCH = 4  # fixed: the result must not depend on the machine. On two cores the fastest of 1, 2, 4, 8
GPU_BATCH = 32

# Loads picture i as [3, H, W] float32 in 0..1, or None where it cannot be used
Load = Callable[[int], Tensor | None]
# Takes the features of picture i, and the pixels of it that count ([H, W] bool; None: the region of interest)
Store = Callable[[int, Tensor, Tensor | None], None]


def counting(image: Tensor | None, region: Tensor) -> Tensor | None:
    """The picture [3, H, W], padded where it is negative, of which something counts.

    Raises:
        InputError: the region of interest [H, W] lies in its padding alone.
    """
    if image is not None and not (region & (image[0] >= 0)).any():
        raise InputError("the region of interest lies in the padding of a good picture: give another --roi")
    return image


def embed_pictures(
    model: Detector,
    load: Load,
    indices: Sequence[int],
    store: Store,
    step: Step = silent,
    stage: str = "features",
) -> None:
    """Embed the pictures `indices`; `store` is called once for each that could be loaded, in any order.

    On a CPU every thread decodes and embeds whole batches with one torch thread each, which is faster than
    sharing a batch among threads and gives the same features whatever their number. On other devices
    threads decode ahead while the device works.
    """
    device = model.roi.device
    done, lock, total = 0, Lock(), len(indices)

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            step(stage, done, total)

    def run(batch: Sequence[int], loaded: list[Tensor | None]) -> None:
        used = [(i, image) for i, image in zip(batch, loaded, strict=True) if image is not None]
        if used:
            images = torch.stack([image for _, image in used]).to(device)
            features, inside = model.embed(images), model.inside(images)
            for k, (i, _) in enumerate(used):
                store(i, features[k], None if inside is None else inside[k])
        advance(len(batch))

    if device.type == "cpu":
        batches = [indices[k : k + BATCH] for k in range(0, total, BATCH)]
        with workers(device) as each:
            each(lambda batch: run(batch, [load(i) for i in batch]), batches)
        return
    batches = [indices[k : k + GPU_BATCH] for k in range(0, total, GPU_BATCH)]
    with torch.inference_mode():
        for batch, loaded in prefetch(batches, lambda batch: [load(i) for i in batch]):
            run(batch, loaded)


def prefetch(
    batches: Sequence[Sequence[int]], load: Callable[[Sequence[int]], list[Tensor | None]], ahead: int = 4
) -> Iterator[tuple[Sequence[int], list[Tensor | None]]]:
    """Every batch with what `load` made of it, loaded by threads a few batches ahead."""
    waiting = iter(batches)
    with ThreadPoolExecutor(max(2, torch.get_num_threads())) as pool:
        queue: list[tuple[Sequence[int], Future[list[Tensor | None]]]] = [
            (batch, pool.submit(load, batch)) for batch in islice(waiting, ahead)
        ]
        while queue:
            batch, future = queue.pop(0)
            yield batch, future.result()
            for following in islice(waiting, 1):
                queue.append((following, pool.submit(load, following)))
