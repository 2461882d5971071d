"""Detector: a method's inference path, from images to scores and maps; and the features of many pictures.

Features are computed in fixed batches, while other pictures are decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from flawscope.errors import InputError, pluralize
from flawscope.methods.settings import PictureSettings
from flawscope.methods.threads import workers
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.types import Json
from flawscope.views.views import HIDDEN_GREY

BATCH = 4  # fixed: the result must not depend on the machine. The fastest of 1, 2, 4 and 8 on two cores
GPU_BATCH = 32
PREFETCH = 4  # blocks that are loaded while a device works

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")
# Loads picture i as [3, H, W] float32 in 0..1, or None where it cannot be used
LoadPicture = Callable[[int], Tensor | None]
# An operator of torch, or the function that writes it in ONNX operators
Operator = Callable[..., object]
# Takes the features of picture i, and its pixels that count ([H, W] bool; None: the region of interest)
StoreFeatures = Callable[[int, Tensor, Tensor | None], None]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Detector(nn.Module, ABC):
    """The whole inference path of a method: everything that decides a score is in `forward`.

    It includes normalisation, features, search, re-weighting, resizing, smoothing and the region of interest.
    Evaluation, prediction, export and benchmarks therefore cannot drift apart. `forward` has two named steps,
    `embed` and `score`; calibration and leave-one-out reuse `score` on stored features.
    """

    METHOD: ClassVar[Any]  # its `Method`, for `rebuild`; not imported, as that module names this one
    # names of the tensors that held-out pictures decide, such as quantiles of maps: no other tensor depends
    # on these
    calibrated: ClassVar[Sequence[str]] = ()
    config: PictureSettings
    size: tuple[int, int]  # (H, W) of the input images
    roi: Tensor  # [H, W] bool: the region of interest
    nearest: Tensor | None  # [H W]: for each pixel, the pixel whose value networks see; None: the same pixel

    def __init__(self, config: PictureSettings, roi: Tensor | None = None):
        """Set up the region of interest.

        Args:
            config: Settings of the method.
            roi: Region of interest, `[H, W]` bool at the size of the images; None: everywhere.
        """
        super().__init__()
        self.config = config
        self.size = config.network_size
        self.register_buffer("roi", torch.ones(self.size, dtype=torch.bool) if roi is None else roi)
        needs_nearest = config.hidden and config.tile is None
        nearest = nearest_pixels(self.roi) if needs_nearest else None
        self.register_buffer("nearest", nearest, persistent=False)

    @property
    def score_is_map_maximum(self) -> bool:
        """Whether a score is its map's maximum."""
        return True

    # ---- inference

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` float32 in 0..1, RGB, padding marked, into the method's features."""

    @abstractmethod
    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn features into scores `[B]` and maps `[B, H, W]` float32; higher is more anomalous.

        Args:
            features: Features of pictures from `embed`.
            inside: The pixels that count, from the method `inside`.
        """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn images `[B, 3, H, W]` into scores `[B]` and maps `[B, H, W]`: `score` of `embed`."""
        return self.score(self.embed(images), self.inside(images))

    def residuals(self, images: Tensor) -> Tensor:
        """Return a grid of cells `[B, C, h, w]` float32 that describe how images differ from good ones.

        The C numbers of a cell are about 0 where there is no difference, and similar for similar differences.

        Args:
            images: Images `[B, 3, H, W]`.

        Raises:
            InputError: The method does not compute them.
        """
        raise InputError("this method does not say how pictures differ from good ones: it names no kinds")

    def inside(self, images: Tensor) -> Tensor | None:
        """Return the pixels that count, `[B, H, W]` bool: the region of interest without padding.

        If the settings exclude padding, the result is None: the pixels of `roi` count in every picture.
        """
        return self.roi & (images[:, 0] >= 0) if self.config.pads else None

    def region(self, inside: Tensor | None) -> Tensor:
        """Return `inside`, the pixels that count; where it is None, the region of interest `[H, W]` bool."""
        return self.roi if inside is None else inside

    def filled(self, images: Tensor) -> Tensor:
        """Return images `[B, 3, H, W]` for the networks, without the negative marks of `Preprocess`.

        Padding gets the values of the picture's edge. With the setting `hidden`, pixels outside the region of
        interest are replaced by the nearest pixel inside or, in tiles, by grey; otherwise they would change
        results inside.
        """
        if self.config.hidden and self.config.tile is not None:
            return torch.where(images < 0, HIDDEN_GREY, images)
        if self.config.pads:
            images = torch.where(images < 0, -1 - images, images)  # a mark is -1 - value
        if self.nearest is None:
            return images
        return images.flatten(2)[:, :, self.nearest].view(images.shape)

    def bounded(self, maps: Tensor, inside: Tensor | None) -> Tensor:
        """Return maps `[B, H, W]` with pixels that do not count set to the lowest value of those that do.

        Args:
            maps: Maps `[B, H, W]`.
            inside: The pixels that count, from the method `inside`.
        """
        return fill_with_lowest(maps, self.region(inside))

    @contextmanager
    def reduced(self) -> Iterator[None]:
        """Let networks compute in the precision of the settings within this context.

        fp32 excludes TF32, which has a mantissa of ten bits and is cuDNN's default for convolutions.
        """
        with autocast(self.roi.device, DTYPES.get(self.config.precision)), without_tf32(self.roi.device):
            yield

    # ---- export and calibration

    def for_export(self) -> None:
        """Prepare this detector for the tracing of `forward` by an exporter."""

    def operators(self) -> dict[Operator, Operator]:
        """Return ONNX translations by torch operators, for operators that the exporter does not know."""
        return {}

    def ties(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return `[B]` bool: whether a picture's score rests on a tie that only rounding decides.

        Args:
            features: Features of pictures from `embed`.
            inside: The pixels that count, from the method `inside`.
        """
        return torch.zeros(len(features), dtype=torch.bool)

    def left_out(
        self, features: Tensor, group: int, kept: Mapping[str, Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Score a training picture as if its group had not been seen.

        Args:
            features: Features of the picture from `embed`, in a batch of one.
            group: Number of the picture's group at fit.
            kept: The artefact's tensors.
            inside: The pixels that count, from the method `inside`.

        Returns:
            Score `[1]` and map `[1, H, W]`; None where the features do not suffice.
        """
        return None

    def left_out_excess(self, group: int, kept: Mapping[str, Tensor]) -> tuple[float, float]:
        """Return by how much `left_out` is too high for the pictures of a group.

        It is 0 here. Override it for a method whose fit leaves the group out more exactly than `left_out`,
        because the fit has the features of the other pictures.

        Args:
            group: Number of the group at fit.
            kept: The artefact's tensors.

        Returns:
            The excess of the score, and that of the map's maximum.
        """
        return 0.0, 0.0

    # ---- model files

    @classmethod
    def rebuild(cls, config: Json, tensors: dict[str, Tensor]) -> Self:
        """Build the detector that an artefact describes. No code that the artefact names is imported.

        Args:
            config: Settings of the artefact.
            tensors: Tensors of the artefact, by their names.

        Raises:
            InputError: The settings are wrong, or the region of interest has another size.
        """
        settings = cls.METHOD.parse_stored(config)
        model = cls(settings, stored_region(settings, tensors))
        model.fill(tensors)
        return model.eval()

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a model file that belong to this detector."""
        state = self.state_dict()
        self.load_state_dict({name: tensor for name, tensor in tensors.items() if name in state})


def nearest_pixels(region: Tensor) -> Tensor:
    """Return for each pixel the flat index of the nearest pixel inside a region: `[H W]` int64.

    Args:
        region: The region, `[H, W]` bool.
    """
    from scipy import ndimage

    outside = ~region.cpu().numpy()
    indices = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(indices).long().flatten(1)
    return rows * region.shape[1] + columns


def fill_with_lowest(values: Tensor, counted: Tensor) -> Tensor:
    """Replace values that do not count by the lowest value of their picture that counts.

    A picture without a value that counts gets 0 everywhere.

    Args:
        values: Values `[B, ...]` of pictures.
        counted: Whether a value counts, bool of the same shape; `[...]` or `[1, ...]` holds for all pictures.
    """
    axis_count = values.ndim - 1  # without the batch
    lowest = torch.where(counted, values, torch.inf).amin([*range(1, values.ndim)], keepdim=True)
    has_counted = counted.flatten(-axis_count).any(-1)  # `[B]` or `[1]`
    has_counted = has_counted.view(-1, *[1] * axis_count)  # to broadcast one value a picture
    return torch.where(counted, values, torch.where(has_counted, lowest, 0.0))


def stored_region(config: PictureSettings, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a model file's region of interest `[H, W]` bool; raise InputError for another size or type."""
    roi = tensors["roi"]
    if tuple(roi.shape) != config.network_size or roi.dtype != torch.bool:
        raise InputError("the model's region of interest does not fit its picture size: fit anew")
    return roi


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Return a context in which layers on a device compute in `dtype`; None: fp32.

    Where layers compute in fp32 already, it is an empty context: the ONNX exporter would trace the inside of
    autocast as a separate graph, which takes twice as long.
    """
    if dtype is None and not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def without_tf32(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which cuDNN does not use TF32.

    Without a CUDA device it is an empty context, because cuDNN's flags hold for the entire process.
    """
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the fastest one here: CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: torch has no such device.
    """
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in is_available.items() if available)
    kind = name.split(":")[0]
    if kind in is_available and not is_available[kind]:
        raise InputError(f"torch sees no {kind} device here: use --device cpu, or install torch for {kind}")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or kind not in is_available:
        raise InputError(f"no device called {name}: use auto, cpu, cuda or mps")
    if kind == "cuda":
        device_count = torch.cuda.device_count()
        if (device.index or 0) >= device_count:
            devices = pluralize(device_count, "cuda device")
            raise InputError(f"torch sees {devices}, and no {name}: use --device cuda")
    return device


# --------------------------------------------------------------------------------------- features of pictures


def check_region_visible(image: Tensor | None, region: Tensor) -> Tensor | None:
    """Return `image` unchanged; raise an error if it shows nothing of the region of interest.

    Args:
        image: A picture `[3, H, W]`, negative in its padding; None: no picture, which passes.
        region: The region of interest, `[H, W]` bool.

    Raises:
        InputError: The region of interest lies entirely in the picture's padding.
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
    """Compute the features of pictures, and pass them to a function.

    Args:
        model: The detector.
        load: Loads a picture by its number.
        indices: Numbers of the pictures.
        store: Called once for each picture that could be loaded, in any order.
        step: Called with the stage, the number of pictures done and the number of pictures.
        stage: Name of the stage.
    """
    device = model.roi.device

    def embed(batch: Sequence[int], loaded: list[Tensor | None]) -> None:
        usable = [(i, image) for i, image in zip(batch, loaded, strict=True) if image is not None]
        if not usable:
            return
        images = torch.stack([image for _, image in usable]).to(device)
        features = model.embed(images)
        inside = model.inside(images)
        for k, (i, _) in enumerate(usable):
            store(i, features[k], None if inside is None else inside[k])

    def ignore(batch: Sequence[int], result: None) -> None:
        pass  # `embed` has stored the features already

    batch_size = BATCH if device.type == "cpu" else GPU_BATCH
    process_blocks(
        indices, batch_size, load=load, work=embed, take=ignore, device=device, step=step, stage=stage
    )


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
    """Call `take(block, work(block, loaded))` for every block of `size` items.

    On a CPU every thread loads a block and works on it, with one torch thread. This is faster than to share a
    block among threads, and the result does not depend on their number. On other devices threads load ahead
    while the device works.

    Args:
        items: The items.
        size: Number of items in a block; the last block may have fewer.
        load: Loads an item.
        work: Computes the result of a block from its items and what `load` returned for them.
        take: Gets the blocks with their results, one at a time and in the order of the blocks.
        device: Device on which `work` computes.
        step: Called with the stage, the number of items done and the number of items.
        stage: Name of the stage; empty: `step` is not called.
    """
    blocks = [items[start : start + size] for start in range(0, len(items), size)]
    results: dict[int, W] = {}  # number of a finished block that waits for an earlier one -> its result
    next_block = 0
    done_count = 0
    lock = Lock()

    def load_block(block: Sequence[T]) -> list[R]:
        return [load(item) for item in block]

    def run(k: int, loaded: list[R]) -> None:
        nonlocal next_block, done_count
        result = work(blocks[k], loaded)
        with lock:
            results[k] = result
            while next_block in results:
                take(blocks[next_block], results.pop(next_block))
                next_block += 1
            done_count += len(blocks[k])
            if stage:
                step(stage, done_count, len(items))

    if device.type == "cpu":
        with workers(device) as map_blocks:
            map_blocks(lambda k: run(k, load_block(blocks[k])), range(len(blocks)))
        return
    with torch.inference_mode(), ThreadPoolExecutor(max(2, torch.get_num_threads())) as pool:
        jobs = [pool.submit(load_block, block) for block in blocks[:PREFETCH]]
        for k in range(len(blocks)):
            loaded = jobs.pop(0).result()
            if k + PREFETCH < len(blocks):
                jobs.append(pool.submit(load_block, blocks[k + PREFETCH]))
            run(k, loaded)
