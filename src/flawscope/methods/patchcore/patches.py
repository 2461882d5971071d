"""A fit of PatchCore, the patches of its pictures, and turned and mirrored copies of few pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError
from flawscope.methods import feature_memory
from flawscope.methods.detector import LoadPicture, StoreFeatures, check_region_visible, embed_pictures
from flawscope.methods.patchcore.model import BankBranch, Model
from flawscope.methods.patchcore.record import Config
from flawscope.methods.task import Task
from flawscope.methods.threads import return_freed_memory
from flawscope.pictures.apart import GRID, MAX_COMPARED
from flawscope.progress import Detail

RETURNED_AFTER = 128  # freed memory is returned after the features of so many pictures
FEW_PICTURES = 10  # number of pictures up to which `auto` tries copies
COMPARED_PATCHES = 1024  # largest number of a left-out picture's patches for `distance_gain`
FARTHEST_PATCHES = 64  # number of the farthest of these patches, whose distances are compared
# Gain (`distance_gain`) from which copies stay in the bank. It is 0 to 0.07 for products whose parts always
# lie in one direction, where copies change no result, and 0.3 for parts in any direction (docs/patchcore.md)
MIN_GAIN = 0.08
# Ways to turn and mirror a picture, by the values of the setting `augment`. A way is a number 1 to 7 of three
# bits: 4 swaps rows and columns; then 1 mirrors the rows, and 2 mirrors the columns
ORIENTATIONS: dict[str, tuple[int, ...]] = {
    "none": (),
    "turn": (3, 5, 6),
    "mirror": (1, 2),
    "all": (1, 2, 3, 4, 5, 6, 7),
}


@dataclass
class FitJob:
    """Fit in progress.

    Attributes:
        model: The model that is filled.
        task: The task of the fit.
        existing_banks: Bank of each branch of the model that is extended; None: the model is new.
        orientations: Ways in which copies in the bank are turned and mirrored (`choose_orientations`).
        cells: Picture number -> features `[C, D]` of the cells of a coarse grid on it (`Fitted.cells`).
        stage_times: Name of a stage -> its end, in seconds on the clock `time.perf_counter`. The first entry
            is the start of the fit.
    """

    model: Model
    task: Task
    existing_banks: list[ExistingBank] | None = None
    orientations: Sequence[int] = ()
    cells: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    stage_times: dict[str, float] = field(default_factory=lambda: {"start": time.perf_counter()})

    @property
    def config(self) -> Config:
        """Settings of the model."""
        return self.model.config

    @property
    def branches(self) -> list[BankBranch]:
        """Branches of the model."""
        return list(self.model.branches)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.roi.device

    def groups_of(self, pictures: Sequence[int]) -> Tensor:
        """Return the group numbers `[N]` of the pictures, which the model's banks use."""
        return torch.tensor([self.task.groups[i] for i in pictures], device=self.device)

    def record_time(self, stage: str) -> None:
        """Record the end of a stage."""
        self.stage_times[stage] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage."""
        ends = list(self.stage_times.items())
        return {name: round(end - start, 3) for (_, start), (name, end) in pairwise(ends)}

    def stage_name(self, stage: str, branch: BankBranch) -> str:
        """Return the name of a stage of the fit for a branch.

        If the model has several branches, the branch's size is added. If several branches have this size, the
        stage of the backbone is added, too.
        """
        if len(self.branches) == 1:
            return stage
        is_only_one_of_size = [other.size for other in self.branches].count(branch.size) == 1
        backbone_stage = "" if is_only_one_of_size else f", stage {branch.stages[0]}"
        return f"{stage} at {branch.size[0]}{backbone_stage}"

    def progress(self, stage: str) -> Callable[[int, int], None]:
        """Return a function that reports a stage's progress: it takes the number done and the total."""
        return partial(self.task.step, stage)


@dataclass(frozen=True)
class ExistingBank:
    """Bank of a branch that is extended.

    Attributes:
        bank: Absolute elements, `[M, D]`.
        groups: Group of each element, `[M]`: numbers that the new pictures do not have.
        radius: Covering radius. Patches that are closer to an element are not added.
    """

    bank: Tensor
    groups: Tensor
    radius: float

    @classmethod
    def read_all(cls, old: Artefact, model: Model) -> list[ExistingBank]:
        """Return the banks of all branches of a fitted model.

        Args:
            old: The model's artefact, for groups and radii.
            model: The model.
        """
        banks = []
        for v, branch in enumerate(model.branches):
            groups = torch.from_numpy(old.tensors[f"bank_groups.{v}"]).to(branch.bank.device)
            radius = float(old.manifest.facts["covering_radius"][v])
            absolute_bank = branch.bank + branch.centre
            banks.append(cls(absolute_bank, groups.long(), radius))
        return banks


@dataclass
class Patches:
    """Patches of N pictures in rows; turned and mirrored copies of pictures have the last rows.

    Attributes:
        features: Features of the patches in the region of interest, per branch `[N, P, D]`.
        valid_mask: Which patches count, per branch `[N, P]` bool: the others are padding. None: all count.
        inside: The pixels that count, `[N, H, W]` bool; None: those of the region of interest.
        numbers: Number of the picture in each row; a copy has its picture's number.
        groups: Group of the picture in each row, `[N]`, which the banks use.
    """

    features: list[Tensor]
    valid_mask: list[Tensor] | None
    inside: Tensor | None
    numbers: list[int]
    groups: Tensor

    @property
    def pictures(self) -> list[int]:
        """Numbers of the pictures, each once."""
        return list(dict.fromkeys(self.numbers))

    def points(self, v: int) -> tuple[Tensor, Tensor]:
        """Return the patches `[K, D]` of a branch that count, and the group of each, `[K]`."""
        features = self.features[v]
        groups = self.groups.repeat_interleave(features.shape[1])
        if self.valid_mask is None:
            return features.flatten(0, 1), groups
        mask = self.valid_mask[v].flatten()
        return features.flatten(0, 1)[mask], groups[mask]

    def place(self, v: int, i: int, points: Tensor) -> Tensor:
        """Select the points of a branch that are patches of picture i.

        Args:
            v: Number of the branch.
            i: Row of the picture.
            points: Numbers of points in `points(v)`, `[L]`.

        Returns:
            Numbers `[M]` of the patches within the picture.
        """
        patches_per_picture = self.features[v].shape[1]
        if self.valid_mask is not None:
            # from numbers among the patches that count to numbers among all patches
            numbers_with_padding = self.valid_mask[v].flatten().nonzero().flatten()
            points = numbers_with_padding[points]
        picture_rows = points // patches_per_picture
        return points[picture_rows == i] % patches_per_picture

    def pixel_mask(self, i: int) -> Tensor | None:
        """Return the pixels `[H, W]` of a picture that count; None: those of the region of interest."""
        return None if self.inside is None else self.inside[i]

    @property
    def patch_count(self) -> int:
        """Number of patches that count, of all branches."""
        if self.valid_mask is None:
            return sum(features.shape[0] * features.shape[1] for features in self.features)
        return sum(int(mask.sum()) for mask in self.valid_mask)

    def scatter_values(self, v: int, values: Tensor) -> Tensor:
        """Return values `[K]` of branch v's points as `[N, P]`; 0 for patches that do not count."""
        shape = self.features[v].shape[:2]
        if self.valid_mask is None:
            return values.view(shape)
        patch_values = values.new_zeros(shape)
        patch_values[self.valid_mask[v]] = values
        return patch_values

    def select(self, rows: Sequence[int]) -> Patches:
        """Return a copy of the patches at `rows`."""
        return self._map_tensors(lambda tensor: tensor[list(rows)], rows)

    def keep(self, rows: Sequence[int]) -> Patches:
        """Return the patches of the pictures at `rows` and of their copies, by `keep_rows`."""
        pictures = {self.numbers[i] for i in rows}
        return self.keep_rows([row for row, picture in enumerate(self.numbers) if picture in pictures])

    def keep_rows(self, rows: Sequence[int]) -> Patches:
        """Return the patches at `rows`, which must be in rising order.

        The result uses the memory of this object, because a copy may not fit: the patches are moved to the
        front of its tensors. Do not use this object afterwards.
        """

        def move_to_front(tensor: Tensor) -> Tensor:
            for new_row, row in enumerate(rows):
                if new_row != row:
                    tensor[new_row] = tensor[row]
            return tensor[: len(rows)]

        return self._map_tensors(move_to_front, rows)

    def _map_tensors(self, select: Callable[[Tensor], Tensor], rows: Sequence[int]) -> Patches:
        """Return the patches at `rows`; `select` takes these rows from a tensor `[N, ...]`."""
        features = [select(tensor) for tensor in self.features]
        valid_mask = None
        if self.valid_mask is not None:
            valid_mask = [select(tensor) for tensor in self.valid_mask]
        inside = None if self.inside is None else select(self.inside)
        numbers = [self.numbers[row] for row in rows]
        groups = self.groups[list(rows)]
        return Patches(features, valid_mask=valid_mask, inside=inside, numbers=numbers, groups=groups)


def orient(image: Tensor, way: int) -> Tensor:
    """Return an image `[..., H, W]`, turned and mirrored in a way of `ORIENTATIONS`."""
    if way & 4:  # swap rows and columns
        image = image.transpose(-1, -2)
    mirrored_axes = []
    if way & 1:
        mirrored_axes.append(-2)
    if way & 2:
        mirrored_axes.append(-1)
    return image.flip(mirrored_axes).contiguous()


def to_grid(values: Tensor, mask: Tensor) -> Tensor:
    """Expand the values of a region's patches to values of all patches; 0 for patches outside.

    Args:
        values: Values `[K, ...]` of the patches in the region.
        mask: Which patches lie in the region, `[P]` bool.
    """
    if len(values) == len(mask):
        return values
    grid_values = values.new_zeros(len(mask), *values.shape[1:])
    grid_values[mask] = values
    return grid_values


def coarse_cells(branch: BankBranch, patches: Tensor) -> NDArray[np.float32]:
    """Average a picture's patches `[P, D]` in a branch over the cells of a coarse grid.

    Returns:
        Means of the cells, `[C, D]` float32; patches outside the region of interest count as 0.
    """
    inside = branch.inside.to(patches).view(-1, 1)
    maps = (patches * inside).T.reshape(1, -1, *branch.grid)
    height, width = (min(GRID, side) for side in branch.grid)
    return adaptive_avg_pool2d(maps, (height, width))[0].flatten(1).T.cpu().numpy()


def collect_patches(job: FitJob, indices: Sequence[int], stage: str) -> Patches:
    """Collect the patches of the pictures that can be used, and of their copies.

    Args:
        job: The fit.
        indices: Numbers of the pictures.
        stage: Name of the stage in the progress.

    Raises:
        InputError: The backbone overflows, or a picture's padding covers the region of interest.
    """
    model = job.model
    task = job.task
    regions = [branch.inside.bool() for branch in job.branches]
    # An image is a picture or a copy of it in one of the ways of `ORIENTATIONS`, with 0 for the picture
    # itself. The image's number is the picture's number plus `task.count` times the way
    image_numbers = [index + way * task.count for way in (0, *job.orientations) for index in indices]
    rows = {number: row for row, number in enumerate(image_numbers)}
    count = len(image_numbers)
    features = [
        torch.empty(count, int(region.sum()), branch.embedding.width, device=job.device)
        for branch, region in zip(job.branches, regions, strict=True)
    ]
    valid_mask = [torch.empty(tensor.shape[:2], dtype=torch.bool, device=job.device) for tensor in features]
    roi = model.roi.cpu()
    inside = torch.empty(count, *model.size, dtype=torch.bool, device=job.device) if job.config.pads else None
    # cells are stored of every `cell_stride`-th picture: of at most MAX_COMPARED pictures
    cell_stride = -(-task.count // MAX_COMPARED)  # rounded up
    stored_numbers: list[int] = []

    def load(number: int) -> Tensor | None:
        way, index = divmod(number, task.count)
        image = task.load(index)
        if job.config.pads:
            image = check_region_visible(image, roi)
        return orient(image, way) if image is not None and way else image

    def store(number: int, image_features: Tensor, image_inside: Tensor | None) -> None:
        if not bool(image_features.sum().isfinite()):
            raise InputError(
                f"the backbone overflows in {job.config.precision}: choose another --set precision, "
                "or check its weights"
            )
        row = rows[number]
        branch_patches = model.parts(image_features)
        is_copy = number >= task.count
        if number % cell_stride == 0 and not is_copy and job.config.tile is None:
            job.cells[number] = coarse_cells(job.branches[0], branch_patches[0])
        for tensor, patches, region in zip(features, branch_patches, regions, strict=True):
            # a region of all patches needs no selection
            tensor[row] = patches if tensor.shape[1] == len(patches) else patches[region]
        if inside is not None and image_inside is not None:
            inside[row] = image_inside
            for branch, branch_mask, region in zip(job.branches, valid_mask, regions, strict=True):
                branch_mask[row] = branch.valid_mask(image_inside[None])[0].bool()[region]
        stored_numbers.append(number)
        if len(stored_numbers) % RETURNED_AFTER == 0:
            return_freed_memory()

    _embed_once(job, load, image_numbers, store, stage)
    loaded_pictures = sorted(number for number in stored_numbers if number < task.count)
    usable_pictures = set(task.settle(loaded_pictures))
    pictures = [number % task.count for number in image_numbers]
    patches = Patches(
        features,
        valid_mask=valid_mask if job.config.pads else None,
        inside=inside,
        numbers=pictures,
        groups=job.groups_of(pictures),
    )
    usable_rows = [
        rows[number] for number in sorted(stored_numbers) if number % task.count in usable_pictures
    ]
    return patches.keep_rows(usable_rows)


def _embed_once(
    job: FitJob, load: LoadPicture, numbers: Sequence[int], store: StoreFeatures, stage: str
) -> None:
    """Embed images, except those whose features are already kept in memory (`feature_memory`).

    Arguments as for `embed_pictures`.
    """
    memory = feature_memory.current()
    keys = dict[int, bytes]()
    if memory is None or job.device.type != "cpu":
        embed_pictures(job.model, load, numbers, store, job.task.step, stage)
        return

    def load_new(number: int) -> Tensor | None:
        image = load(number)
        if image is None:
            return None
        keys[number] = feature_memory.key_of(job.model, image)
        match = memory.find(keys[number])
        if match is None:
            return image
        features, inside = match
        store(number, features, inside)
        return None  # there is nothing to embed

    def keep_and_store(number: int, features: Tensor, inside: Tensor | None) -> None:
        memory.keep(keys.pop(number), (features, inside))
        store(number, features, inside)

    embed_pictures(job.model, load_new, numbers, keep_and_store, job.task.step, stage)


def nearest_distance(features: Tensor, elements: Tensor) -> Tensor:
    """Return the distances `[P]` from features `[P, D]` to the nearest of elements `[K, D]`."""
    # |x - m|² = |x|² + (|m|² - 2xm)
    smallest_terms = torch.addmm((elements * elements).sum(1), features, elements.T, alpha=-2).amin(1)
    return (smallest_terms + (features * features).sum(1)).clamp(min=0).sqrt()


# ------------------------------------------------------------------------------------------------- copies


def choose_orientations(job: FitJob) -> tuple[int, ...]:
    """Choose the ways in which pictures are turned and mirrored for copies in the bank.

    The setting `augment` names them. With `auto`, a model that is extended keeps its ways; for a new model,
    few pictures get all ways until `keep_helpful_copies` decides. Parts that are turned upright get none. A
    way is possible if it keeps the lengths of the sides, and the region of interest.

    Raises:
        InputError: The setting names ways, and none is possible.
    """
    old = job.task.old
    roi = job.model.roi
    augment = job.config.augment
    if augment == "auto":
        if old is None:
            wants_copies = job.task.count <= FEW_PICTURES
        else:
            wants_copies = old.manifest.facts.get("augment") == "all"
        ways = "all" if wants_copies and not job.config.upright else "none"
        return possible_orientations(ways, roi)
    orientations = possible_orientations(augment, roi)
    if not orientations and augment != "none":
        raise InputError(
            f"setting augment: {augment} is not possible: a copy does not fit the picture size or the region "
            "of interest; take a square --size, a symmetric --roi, or augment: none"
        )
    return orientations


def possible_orientations(augment: str, roi: Tensor) -> tuple[int, ...]:
    """Return the ways of a value of `augment` that do not change a region of interest `[H, W]` bool."""
    return tuple(way for way in ORIENTATIONS[augment] if torch.equal(orient(roi, way), roi))


def augment_name(job: FitJob) -> str:
    """Return the value of the setting `augment` that names the copies in the bank."""
    if job.config.augment != "auto":
        return job.config.augment
    return "all" if job.orientations else "none"


def keep_helpful_copies(job: FitJob, patches: Patches) -> Patches:
    """Return the patches, without the copies unless these bring left-out pictures nearer to the others.

    If all pictures show a single part, the copies stay. If the copies are dropped, `job.orientations` becomes
    empty, and the object `patches` must not be used afterwards (`Patches.keep_rows`).
    """
    is_single_part = len(patches.groups.unique()) == 1
    if is_single_part:
        reason = ", which --augment none leaves out"
    else:
        gain = distance_gain(patches)
        if gain < MIN_GAIN:
            job.orientations = ()
            picture_count = len(patches.pictures)
            return patches.keep_rows(range(picture_count))  # the copies' rows follow those of the pictures
        reason = f": left-out pictures are {gain:.0%} nearer"
    job.task.say(Detail(f"turned and mirrored copies are in the bank too{reason}"))
    return patches


def distance_gain(patches: Patches) -> float:
    """Return the mean share by which copies reduce the distances of farthest patches, at the smallest size.

    The distances are those of a picture's farthest patches to the patches of other groups, first without
    copies, then with copies.
    """
    features = patches.features[0]
    original_count = len(patches.pictures)
    gains = []

    def counted_patches(i: int) -> Tensor:
        if patches.valid_mask is None:
            return features[i]
        mask = patches.valid_mask[0][i]
        return features[i][mask]

    def distances_to_rows(points: Tensor, rows: Iterable[int]) -> Tensor:
        row_distances = [
            nearest_distance(points, counted_patches(row)) for row in rows if len(counted_patches(row))
        ]
        return torch.stack(row_distances).amin(0)

    for i in range(original_count):
        other_rows = (patches.groups != patches.groups[i]).nonzero().flatten().tolist()
        points = counted_patches(i)
        if not len(points):
            continue
        stride = 1 + (len(points) - 1) // COMPARED_PATCHES  # at most COMPARED_PATCHES points remain
        points = points[::stride]
        original_rows = [row for row in other_rows if row < original_count]
        copy_rows = [row for row in other_rows if row >= original_count]
        original_distances = distances_to_rows(points, original_rows)
        farthest = original_distances.topk(min(FARTHEST_PATCHES, len(points))).indices
        without_copies = original_distances[farthest]
        with_copies = torch.minimum(without_copies, distances_to_rows(points[farthest], copy_rows))
        remaining_share = float(with_copies.sum()) / max(float(without_copies.sum()), 1e-12)
        gains.append(1 - remaining_share)
    return sum(gains) / max(1, len(gains))
