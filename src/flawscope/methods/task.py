"""Input and output of a method's `fit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.files import training_log_path
from flawscope.artefact.model_file import Artefact
from flawscope.calibration.holding_out import hold_out
from flawscope.calibration.rows import Values
from flawscope.errors import ExcludedPictureError, FlawscopeError, pluralize
from flawscope.methods.detector import Detector, LoadPicture, check_region_visible
from flawscope.methods.good_pictures import GoodPictures, HeldOut, unpack_image
from flawscope.methods.threads import workers
from flawscope.pictures.table import learnt_units
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.types import Array, Json

CHECKPOINT_INTERVAL = 60.0  # seconds between checkpoints
LeftOut = tuple[Tensor, Tensor]  # score [1] and map [1, H, W] of an image that was left out
LeftOutRun = Callable[[Tensor], tuple[Array, Array]]  # images [n, 3, H, W] to scores, maps


@dataclass(frozen=True)
class Budget:
    """Time that a method which learns in steps may take, and the file that keeps its state until it ends.

    minutes: until all must be done; None: the settings' number of steps.
    checkpoint: file; None: a run that is stopped is lost.
    resume: go on where the checkpoint stops; from the start if there is none.
    checkpoint_interval: seconds between checkpoints.
    scored_later: pictures that are scored after the method's `fit`, within the time too.
    scored_if_time: pictures that are scored then if there is time.
    started: beginning of the minutes on `time.monotonic`'s clock.
    """

    minutes: float | None = None
    checkpoint: Path | None = None
    resume: bool = False
    checkpoint_interval: float = CHECKPOINT_INTERVAL
    scored_later: int = 0
    scored_if_time: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def log(self) -> Path | None:
        """The training log, a CSV file beside the checkpoint, which stays."""
        return None if self.checkpoint is None else training_log_path(self.checkpoint)

    @property
    def until(self) -> float | None:
        """End of the minutes on `time.monotonic`'s clock."""
        return None if self.minutes is None else self.started + 60 * self.minutes


@dataclass(frozen=True)
class SeenDefect:
    """A defect that was seen, for methods that learn from them too.

    packed_image: [3, H, W], as the network sees it: uint8 where that loses nothing, else float32 in 0..1.
    mask: [H, W] bool, True somewhere.
    """

    packed_image: Tensor
    mask: NDArray[np.bool_]
    name: str

    @property
    def image(self) -> Tensor:
        """The picture [3, H, W] float32 in 0..1."""
        return unpack_image(self.packed_image)


@dataclass(frozen=True)
class TaskViews:
    """Views of a task; without any its numbers are of pictures.

    per_picture: how many, on average.
    picture_of: [views], the number of each one's picture.
    """

    per_picture: float = 1
    picture_of: Sequence[int] = ()


@dataclass(frozen=True)
class Task:
    """Input of `fit` beside the model.

    load: picture i as [3, H, W] float32, or None where it must be left out (unreadable). A method that holds
        pictures out has none: `divide` gives it those that it learns from.
    groups: of each good picture; those of one and the same part share a number, and are held or left out
        together. Those of an extended model's parts have its units' numbers.
    rate: target false-alarm rate.
    drop_suspects: leave out the pictures that do not look good.
    reserved: numbers of good pictures that the data set sets apart, to be held out and not learnt from.
    settle: gets the numbers of the pictures that were loaded, in order; gives those to keep (no copies).
    seen: defects to learn from.
    old: the artefact the model was rebuilt from, if it is being extended.
    decoded_bytes: of the largest picture, for predictions of memory.
    views: what the numbers are of.
    calibration_pictures: how many to calibrate on, since the caller calibrates again; None: all.
    say, step: get lines for a person and progress.
    """

    load: LoadPicture
    groups: Sequence[int]
    rate: float
    drop_suspects: bool = False
    reserved: Sequence[int] = ()
    settle: Callable[[list[int]], list[int]] = list
    seen: Sequence[SeenDefect] = ()
    old: Artefact | None = None
    decoded_bytes: int = 0
    views: TaskViews = TaskViews()
    calibration_pictures: int | None = None
    budget: Budget = Budget()
    say: Say = discard
    step: ProgressCallback = ignore_progress

    @property
    def count(self) -> int:
        """Number of good pictures."""
        return len(self.groups)

    @property
    def known_groups(self) -> set[int]:
        """Groups that an extended model has learnt from."""
        return set() if self.old is None else {*learnt_units(self.old.manifest.pictures).values()}

    def without_load(self) -> Task:
        """The task without `load`, so that a method that holds pictures out cannot learn from them."""
        return self if isinstance(self.load, _RefusedLoad) else replace(self, load=_RefusedLoad(self.load))

    def divide(
        self, method: str, model: Detector, *, share: float = 0.1, more: int = 0, room: int = 2**30
    ) -> tuple[GoodPictures, HeldOut]:
        """Read the pictures, and divide them into those to learn from and those to calibrate by.

        Args:
            method: its name.
            share, more: of pictures to hold out, and beyond what the rate needs, as `hold_out` has them.
            room: bytes of pictures kept in memory.

        Raises:
            InputError: too few pictures, or the region of interest lies in the padding of one.
        """
        read = self.load.read if isinstance(self.load, _RefusedLoad) else self.load
        region = model.roi.cpu()

        def load(index: int) -> Tensor | None:
            image = read(index)
            return check_region_visible(image, region) if model.config.pads else image

        images = GoodPictures(load, self.count, room)
        used = self.settle(images.read(self.step))
        parts = hold_out(
            used,
            [self.groups[i] for i in used],
            share=share,
            rate=self.rate,
            seed=model.config.seed,
            method=method,
            reserved=self.reserved,
            more=more,
        )
        held = {i for part in parts for i in part}
        others = images.set_apart([i for i in used if i not in held])
        return images, HeldOut(parts, self.step, others)

    def pluralize(self, count: int, what: str = "") -> str:
        """A number of pictures, or of views where the task's numbers are of views, in words."""
        return pluralize(count, f"{what} {'picture' if self.views.per_picture == 1 else 'view'}".strip())


@dataclass(frozen=True)
class _RefusedLoad:
    """`load` of a method that holds pictures out. read: loads them for `divide`."""

    read: LoadPicture

    def __call__(self, index: int) -> Tensor | None:
        raise FlawscopeError("a method that holds pictures out learns from those that `task.divide` gives")


@dataclass
class Fitted:
    """Output of `fit`, beside the model that it filled.

    scored: values of the pictures to calibrate on, by number, rising: as if they had not been learnt from.
    used: numbers of the pictures learnt from.
    how: the pictures were scored, for the reader: "held out", "leave-one-picture-out", ...
    promised: whether new pictures score like them.
    held: numbers of the pictures kept for other purposes, by role.
    dropped: numbers of the pictures left out.
    suspects: numbers of the pictures that do not look good, with their scores, most suspicious first.
    cells: features [C, D] of the cells of a grid on each picture learnt from, by its number, where the method
        has such: by them groups of one kind are found.
    extra: tensors kept beside the model's own.
    leave_out: of a fit that leaves pictures out better than its model file can; None: of none.
    summary: lines for a person, beside what the threshold means.
    """

    scored: dict[int, Values]
    used: list[int]
    how: str = "held out"
    promised: bool = True
    held: dict[str, list[int]] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)
    suspects: dict[int, float] = field(default_factory=dict)
    cells: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    leave_out: LeaveOut | None = None
    facts: Json = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)


class LeaveOut:
    """Scores images as if their group had not been learnt from, by what the model file holds
    (`Detector.left_out`). A fit that knows better has a class of its own, which lasts as long as the fit.

    learnt: groups that were learnt from; images of others are scored as they are. tensors: of the model file.
    has_bound: `bound` is faster than `score`.
    """

    has_bound = False

    def __init__(self, model: Detector, learnt: Collection[int], tensors: Mapping[str, Tensor]):
        self.model, self.learnt = model, {*learnt}
        self.tensors = {name: tensor.to(model.roi.device) for name, tensor in tensors.items()}

    @classmethod
    def of_fit(cls, model: Detector, fitted: Fitted, task: Task) -> Self:
        """Leaves out the groups of a fit's task."""
        learnt = {task.groups[number] for number in fitted.used} | task.known_groups
        return cls(model, learnt, {**model.state_dict(), **fitted.extra})

    def bound(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """`score`, or one that is nowhere lower, by what the model file holds."""
        model, counted = self.model, None if inside is None else inside[None]
        if group not in self.learnt:
            return model.score(features[None], counted)
        return model.left_out(features[None], group, self.tensors, counted)

    def score(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """Score an image of a picture of the task's `group`, from its features (`embed`, without the batch)
        and the pixels `inside` [H, W] that count (None: the region of interest). None: the method cannot
        leave out what it has learnt from.
        """
        found = self.bound(group, features, inside)
        if found is None or group not in self.learnt:
            return found
        above_score, above_map = self.model.left_out_excess(group, self.tensors)
        if above_score <= 0 and above_map <= 0:
            return found
        # as in the fit, but not below what it scores where its own part is in the bank
        score, drawn = found
        plain, plain_map = self.model.score(features[None], None if inside is None else inside[None])
        highest = torch.maximum(drawn.amax() - above_map, torch.minimum(drawn.amax(), plain_map.amax()))
        return torch.maximum(score - above_score, torch.minimum(score, plain)), drawn.clamp(max=highest)

    def embed(self, images: Tensor) -> Tensor:
        """Features of images [1, 3, H, W]."""
        return self.model.embed(images)

    def run(self, group: int) -> LeftOutRun:
        """Runs images as a session does, as if the group had not been learnt from.

        An `ExcludedPictureError` where the method cannot leave it out.
        """
        return partial(self._run, group, self.score)

    def bound_run(self, group: int) -> LeftOutRun | None:
        """A faster run, whose maps are nowhere lower; None: there is none."""
        if not (self.has_bound and self.model.score_is_map_maximum and group in self.learnt):
            return None
        return partial(self._run, group, self.bound)

    def _run(
        self,
        group: int,
        answer: Callable[[int, Tensor, Tensor | None], LeftOut | None],
        images: Sequence[NDArray[np.float32]],
    ) -> tuple[Array, Array]:
        device = self.model.roi.device

        def score(image: NDArray[np.float32]) -> tuple[Array, Array]:
            given = torch.from_numpy(np.ascontiguousarray(image))[None].to(device)
            features, inside = self.embed(given), self.model.inside(given)
            found = answer(group, features[0], None if inside is None else inside[0])
            if found is None:
                raise ExcludedPictureError("the method cannot leave it out")
            return found[0].cpu().numpy(), found[1].float().cpu().numpy()

        with workers(device) as each:
            scores, maps = zip(*each(score, images), strict=True)
        return np.concatenate(scores), np.concatenate(maps)
