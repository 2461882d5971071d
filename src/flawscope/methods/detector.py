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

BATCH = 4  # fixed: the result must not depend on the machine. On two cores the fastest of 1, 2, 4, 8
GPU_BATCH = 32
PREFETCH = 4  # blocks that are loaded while a device works

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")
# Loads picture i as [3, H, W] float32 in 0..1, or None where it cannot be used
LoadPicture = Callable[[int], Tensor | None]
# An operator of torch, and the function that builds it of ONNX operators
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
    # names of the tensors that held-out pictures decide, such as quantiles of maps: no other depends on them
    calibrated: ClassVar[Sequence[str]] = ()
    config: PictureSettings
    size: tuple[int, int]  # (H, W) of the input images
    roi: Tensor  # [H, W] bool: the region of interest
    nearest: Tensor | None  # [H W]: for each pixel the one whose value networks see; None: its own

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
        hides = config.hidden and config.tile is None
        self.register_buffer("nearest", nearest_pixels(self.roi) if hides else None, persistent=False)

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
        """Return differences of images `[B, 3, H, W]` from good ones, cells `[B, C, h, w]` float32.

        A cell is about 0 where there is no difference, and equal differences have similar cells.

        Raises:
            InputError: The method does not compute them.
        """
        raise InputError("this method does not say how pictures differ from good ones: it names no kinds")

    def inside(self, images: Tensor) -> Tensor | None:
        """Return the pixels that count, `[B, H, W]` bool: the region of interest without padding.

        It is None where no picture is padded: then `roi` holds for all pictures.
        """
        return self.roi & (images[:, 0] >= 0) if self.config.pads else None

    def region(self, inside: Tensor | None) -> Tensor:
        """Return the pixels that count: `inside`, or if that is None the region of interest `[H, W]`."""
        return self.roi if inside is None else inside

    def filled(self, images: Tensor) -> Tensor:
        """Return images `[B, 3, H, W]` without marks: padding has the values of the picture's edge.

        Pixels outside the region of interest get the value of the nearest pixel inside. In tiles they are
        grey: they decide nothing through the networks' receptive fields. `Preprocess` sets the marks.
        """
        if self.config.hidden and self.config.tile is not None:
            return torch.where(images < 0, HIDDEN_GREY, images)
        images = torch.where(images < 0, -1 - images, images) if self.config.pads else images
        return images if self.nearest is None else images.flatten(2)[:, :, self.nearest].view(images.shape)

    def bounded(self, maps: Tensor, inside: Tensor | None) -> Tensor:
        """Return maps `[B, H, W]` with the lowest counted value at all pixels that do not count."""
        return fill_with_lowest(maps, self.region(inside))

    @contextmanager
    def reduced(self) -> Iterator[None]:
        """Let networks compute in the setting `precision` within this context.

        fp32 excludes TF32, which has ten bits and is cuDNN's default for convolutions.
        """
        with autocast(self.roi.device, DTYPES.get(self.config.precision)), without_tf32(self.roi.device):
            yield

    def choose(self, task: object) -> PictureSettings:
        """Return the settings, with those that are `auto` chosen by the pictures of a `Task`."""
        return self.config

    # ---- export and calibration

    def for_export(self) -> None:
        """Prepare the parts that only an exported graph needs, before `forward` is traced."""

    def operators(self) -> dict[Operator, Operator]:
        """Give {torch operator: its ONNX translation} for operators that the exporter does not know."""
        return {}

    def ties(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return, `[B]` bool, whether rounding alone decides a tie on which a picture's score rests."""
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
        """Return by how much `left_out` is too high for the pictures of a group: no excess here.

        Override it where the fit, which has the other pictures' features, leaves the group out more exactly.

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
        self.load_state_dict({k: v for k, v in tensors.items() if k in state})


def nearest_pixels(region: Tensor) -> Tensor:
    """Return the index `[H W]` int64 of the pixel inside a region `[H, W]` bool nearest to each pixel."""
    from scipy import ndimage

    found = ndimage.distance_transform_edt(~region.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(found).long().flatten(1)
    return rows * region.shape[1] + columns


def fill_with_lowest(values: Tensor, counted: Tensor) -> Tensor:
    """Replace values `[B, ...]` that do not count by the lowest that does; by 0 where none does.

    Args:
        values: Values `[B, ...]`.
        counted: Whether a value counts, bool of the same shape; of all pictures alike: `[...]` or `[1, ...]`.
    """
    sides = values.ndim - 1
    lowest = torch.where(counted, values, torch.inf).amin([*range(1, values.ndim)], keepdim=True)
    known = counted.flatten(-sides).any(-1).view(-1, *sides * [1])
    return torch.where(counted, values, torch.where(known, lowest, 0.0))


def stored_region(config: PictureSettings, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a model file's region of interest `[H, W]` bool; raise InputError for another size or type."""
    roi = tensors["roi"]
    if tuple(roi.shape) != config.network_size or roi.dtype != torch.bool:
        raise InputError("the model's region of interest does not fit its picture size: fit anew")
    return roi


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Return a context in which layers compute in `dtype`; None: fp32.

    The context does nothing where layers compute in fp32 already: the ONNX exporter traces the inside of
    autocast as a separate graph, which takes twice as long.
    """
    if dtype is None and not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def without_tf32(device: torch.device) -> AbstractContextManager[None]:
    """Return a context without TF32 in cuDNN. On a CPU it does nothing: the flags hold for the process."""
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
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in here.items() if there)
    kind = name.split(":")[0]
    if not here.get(kind, True):
        raise InputError(f"torch sees no {kind} device here: use --device cpu, or install torch for {kind}")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or kind not in here:
        raise InputError(f"no device called {name}: use auto, cpu, cuda or mps")
    if kind == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"torch sees {pluralize(count, 'cuda device')}, and no {name}: use --device cuda")
    return device


# --------------------------------------------------------------------------------------- features of pictures


def check_region_visible(image: Tensor | None, region: Tensor) -> Tensor | None:
    """Return a picture `[3, H, W]`, negative in its padding, that shows the region of interest.

    Raises:
        InputError: The region of interest `[H, W]` lies in its padding alone.
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
            features = model.embed(images)
            inside = model.inside(images)
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
    """Call `take(block, work(block, loaded))` for every block of `size` items.

    `loaded` is `load` of each item. `take` gets the blocks one at a time and in their order.

    On a CPU every thread loads and works on whole blocks with one torch thread each. This is faster than to
    share a block among threads, and the result does not depend on their number. On other devices threads
    load ahead while the device works.
    """
    blocks = [items[k : k + size] for k in range(0, len(items), size)]
    found: dict[int, W] = {}
    waiting = 0
    done = 0
    lock = Lock()

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
