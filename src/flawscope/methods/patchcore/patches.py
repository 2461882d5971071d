"""A fit of PatchCore, and the patches of its pictures; of few pictures, turned and mirrored copies too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

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

RETURNED_AFTER = 128  # pictures whose features were collected
FEW_PICTURES = 10  # pictures up to which `auto` tries copies
COMPARED_PATCHES = 1024  # patches of a left-out picture, at most
FARTHEST_PATCHES = 64  # of them, whose distances are compared
# From which share on copies are kept. Products whose parts always lie alike have 0 to 0.07, and copies do not
# change what is found there; where parts lie any way round it is 0.3 (docs/patchcore.md)
MIN_GAIN = 0.08
# A way to turn a picture, 1 to 7: its bits mirror the rows, mirror the columns, and, first, swap both
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
        existing_banks: Bank of each branch, if a model is being extended.
        orientations: Ways of turning pictures for copies in the bank (`choose_orientations`).
        cells: Features `[C, D]` of the cells of a coarse grid on a picture, by its number (`Fitted.cells`).
        stage_times: End of each stage, in seconds on `time.perf_counter`'s clock; the first is the start.
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
        names = list(self.stage_times)
        times = list(self.stage_times.values())
        return {n: round(t - s, 3) for n, s, t in zip(names[1:], times, times[1:], strict=False)}

    def stage_name(self, stage: str, branch: BankBranch) -> str:
        """Return the stage's name, with the size and the stage of the backbone where there are several."""
        if len(self.branches) == 1:
            return stage
        alone = [other.size for other in self.branches].count(branch.size) == 1
        of_stage = "" if alone else f", stage {branch.stages[0]}"
        return f"{stage} at {branch.size[0]}{of_stage}"

    def progress(self, stage: str) -> Callable[[int, int], None]:
        """Return a function that reports a stage's progress: the number done, and the number of all."""
        return partial(self.task.step, stage)


@dataclass(frozen=True)
class ExistingBank:
    """Bank of a branch that is being extended.

    Attributes:
        bank: Absolute elements, `[M, D]`.
        groups: Group of each element, `[M]`: numbers that the new pictures do not have.
        radius: Covering radius; patches that are closer to an element are nothing new.
    """

    bank: Tensor
    groups: Tensor
    radius: float

    @classmethod
    def read_all(cls, old: Artefact, model: Model) -> list[ExistingBank]:
        """Return the banks of all branches of a fitted model, with the facts of its artefact."""
        starts = []
        for v, branch in enumerate(model.branches):
            groups = torch.from_numpy(old.tensors[f"bank_groups.{v}"]).to(branch.bank.device)
            radius = float(old.manifest.facts["covering_radius"][v])
            starts.append(cls(branch.bank + branch.centre, groups.long(), radius))
        return starts


@dataclass
class Patches:
    """Patches of N pictures, with their copies, which come last.

    Attributes:
        features: Features of the patches in the region of interest, per branch `[N, P, D]`.
        valid_mask: Which patches are not padding, per branch `[N, P]` bool; None: all of them.
        inside: The pixels that count, `[N, H, W]` bool; None: those of the region of interest.
        numbers: Numbers of the N pictures; a copy has its picture's number.
        groups: Groups of the pictures, `[N]`, which the banks use.
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
        """Return which of a branch's points are picture i's own, as numbers among its own patches.

        Args:
            v: Number of the branch.
            i: Row of the picture.
            points: Numbers of points in `points(v)`, `[L]`.

        Returns:
            Numbers `[M]` of patches of the picture.
        """
        count = self.features[v].shape[1]
        if self.valid_mask is not None:
            points = self.valid_mask[v].flatten().nonzero().flatten()[points]
        return points[points // count == i] % count

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
        """Return values `[K]` of a branch's points as `[N, P]`; 0 for patches that do not count."""
        shape = self.features[v].shape[:2]
        if self.valid_mask is None:
            return values.view(shape)
        whole = values.new_zeros(shape)
        whole[self.valid_mask[v]] = values
        return whole

    def select(self, rows: Sequence[int]) -> Patches:
        """Return a copy of the patches at `rows`."""
        return self._map_tensors(lambda tensor: tensor[list(rows)], rows)

    def keep(self, rows: Sequence[int]) -> Patches:
        """Keep the patches of the pictures at rising `rows`, and of their copies, in place."""
        kept = {self.numbers[i] for i in rows}
        return self.keep_rows([row for row, picture in enumerate(self.numbers) if picture in kept])

    def keep_rows(self, rows: Sequence[int]) -> Patches:
        """Keep the patches at rising `rows`, moved to the front in place: a second copy may not fit."""

        def moved(tensor: Tensor) -> Tensor:
            for new, old in enumerate(rows):
                if new != old:
                    tensor[new] = tensor[old]
            return tensor[: len(rows)]

        return self._map_tensors(moved, rows)

    def _map_tensors(self, some: Callable[[Tensor], Tensor], rows: Sequence[int]) -> Patches:
        features = [some(tensor) for tensor in self.features]
        valid_mask = None
        if self.valid_mask is not None:
            valid_mask = [some(tensor) for tensor in self.valid_mask]
        inside = None if self.inside is None else some(self.inside)
        numbers = [self.numbers[row] for row in rows]
        return Patches(features, valid_mask, inside, numbers, self.groups[list(rows)])


def orient(image: Tensor, way: int) -> Tensor:
    """Return an image `[..., H, W]`, turned by quarters and mirrored in a way of `ORIENTATIONS`."""
    if way & 4:
        image = image.transpose(-1, -2)
    return image.flip([axis for axis, bit in ((-2, 1), (-1, 2)) if way & bit]).contiguous()


def to_grid(values: Tensor, mask: Tensor) -> Tensor:
    """Return the values of patches inside the region at their places on the grid; 0 elsewhere."""
    if len(values) == len(mask):
        return values
    whole = values.new_zeros(len(mask), *values.shape[1:])
    whole[mask] = values
    return whole


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
    """Collect the patches of the pictures that can be used, and of their copies."""
    model = job.model
    task = job.task
    region = [branch.inside.bool() for branch in job.branches]
    # a picture's number plus `task.count` times the way that it is turned
    numbers = [index + way * task.count for way in (0, *job.orientations) for index in indices]
    rows = {number: row for row, number in enumerate(numbers)}
    count = len(numbers)
    features = [
        torch.empty(count, int(mask.sum()), branch.embedding.width, device=job.device)
        for branch, mask in zip(job.branches, region, strict=True)
    ]
    valid_mask = [torch.empty(tensor.shape[:2], dtype=torch.bool, device=job.device) for tensor in features]
    roi = model.roi.cpu()
    inside = torch.empty(count, *model.size, dtype=torch.bool, device=job.device) if job.config.pads else None
    stride = -(-task.count // MAX_COMPARED)  # picture whose cells are kept: bounded, however many there are
    got: list[int] = []

    def load(number: int) -> Tensor | None:
        way, index = divmod(number, task.count)
        image = task.load(index)
        if job.config.pads:
            image = check_region_visible(image, roi)
        return image if image is None or not way else orient(image, way)

    def store(number: int, embedded: Tensor, seen: Tensor | None) -> None:
        if not bool(embedded.sum().isfinite()):
            raise InputError(
                f"the backbone overflows in {job.config.precision}: choose another --set precision, "
                "or check its weights"
            )
        row = rows[number]
        if number % stride == 0 and number < task.count and job.config.tile is None:
            job.cells[number] = coarse_cells(job.branches[0], model.parts(embedded)[0])
        for tensor, part, mask in zip(features, model.parts(embedded), region, strict=True):
            tensor[row] = part if tensor.shape[1] == len(part) else part[mask]
        if inside is not None and seen is not None:
            inside[row] = seen
            for branch, branch_mask, mask in zip(job.branches, valid_mask, region, strict=True):
                branch_mask[row] = branch.valid_mask(seen[None])[0].bool()[mask]
        got.append(number)
        if len(got) % RETURNED_AFTER == 0:
            return_freed_memory()

    _embed_once(job, load, numbers, store, stage)
    used = set(task.settle(sorted(number for number in got if number < task.count)))
    pictures = [number % task.count for number in numbers]
    every = Patches(
        features, valid_mask if job.config.pads else None, inside, pictures, job.groups_of(pictures)
    )
    return every.keep_rows([rows[number] for number in sorted(got) if number % task.count in used])


def _embed_once(
    job: FitJob, load: LoadPicture, numbers: Sequence[int], store: StoreFeatures, stage: str
) -> None:
    """Embed pictures, except those that an earlier fit has embedded, if fits share a memory."""
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
        if (known := memory.find(keys[number])) is None:
            return image
        store(number, *known)
        return None

    def keep(number: int, features: Tensor, inside: Tensor | None) -> None:
        memory.keep(keys.pop(number), (features, inside))
        store(number, features, inside)

    embed_pictures(job.model, load_new, numbers, keep, job.task.step, stage)


def nearest_distance(features: Tensor, elements: Tensor) -> Tensor:
    """Return the distances `[P]` from features `[P, D]` to the nearest of elements `[K, D]`."""
    square = torch.addmm((elements * elements).sum(1), features, elements.T, alpha=-2).amin(1)
    return (square + (features * features).sum(1)).clamp(min=0).sqrt()


# ------------------------------------------------------------------------------------------------- copies


def choose_orientations(job: FitJob) -> tuple[int, ...]:
    """Choose the ways in which pictures are turned and mirrored for copies in the bank.

    They are the setting's. With `auto` they are those of the model that is extended; else, of few pictures,
    every way until `keep_helpful_copies` has decided, and none where parts are turned upright. Only ways
    count that keep the sides' lengths and the region of interest.

    Raises:
        InputError: The setting names ways, and none is possible.
    """
    old = job.task.old
    roi = job.model.roi
    augment = job.config.augment
    if augment == "auto":
        few = job.task.count <= FEW_PICTURES if old is None else old.manifest.facts.get("augment") == "all"
        return possible_orientations("all" if few and not job.config.upright else "none", roi)
    found = possible_orientations(augment, roi)
    if not found and augment != "none":
        raise InputError(
            f"setting augment: {augment} is not possible: a copy does not fit the picture size or the region "
            "of interest; take a square --size, a symmetric --roi, or augment: none"
        )
    return found


def possible_orientations(augment: str, roi: Tensor) -> tuple[int, ...]:
    """Return the ways of a setting that do not change a region of interest `[H, W]` bool."""
    return tuple(way for way in ORIENTATIONS[augment] if torch.equal(orient(roi, way), roi))


def augment_name(job: FitJob) -> str:
    """Return the value of the setting that describes the copies in the bank."""
    if job.config.augment != "auto":
        return job.config.augment
    return "all" if job.orientations else "none"


def keep_helpful_copies(job: FitJob, patches: Patches) -> Patches:
    """Keep the copies only where they bring left-out pictures nearer, or where there is a single part."""
    one_part = len(patches.groups.unique()) == 1
    if not one_part and (gain := distance_gain(patches)) < MIN_GAIN:
        job.orientations = ()
        return patches.keep_rows(range(len(patches.pictures)))
    why = ", which --augment none leaves out" if one_part else f": left-out pictures are {gain:.0%} nearer"
    job.task.say(Detail(f"turned and mirrored copies are in the bank too{why}"))
    return patches


def distance_gain(patches: Patches) -> float:
    """Return the mean share by which copies reduce the farthest patches' distances, at the smallest size."""
    features = patches.features[0]
    originals = len(patches.pictures)
    gains = []

    def counting(i: int) -> Tensor:
        return features[i] if patches.valid_mask is None else features[i][patches.valid_mask[0][i]]

    def away(points: Tensor, rows: Iterable[int]) -> Tensor:
        return torch.stack([nearest_distance(points, counting(j)) for j in rows if len(counting(j))]).amin(0)

    for i in range(originals):
        others = (patches.groups != patches.groups[i]).nonzero().flatten().tolist()
        count = counting(i)
        if not len(count):
            continue
        count = count[:: 1 + (len(count) - 1) // COMPARED_PATCHES]
        alone = away(count, (j for j in others if j < originals))
        far = alone.topk(min(FARTHEST_PATCHES, len(count))).indices
        copied = away(count[far], (j for j in others if j >= originals))
        after = torch.minimum(alone[far], copied)
        gains.append(1 - float(after.sum()) / max(float(alone[far].sum()), 1e-12))
    return sum(gains) / max(1, len(gains))
