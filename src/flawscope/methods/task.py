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

    Attributes:
        minutes: Minutes until all must be done; None: the settings' number of steps decides.
        checkpoint: The file; None: a run that is stopped is lost.
        resume: Whether to continue where the checkpoint stops, or from the start if there is no checkpoint.
        checkpoint_interval: Seconds between checkpoints.
        scored_later: Number of pictures that are scored after the method's `fit`, within the time too.
        scored_if_time: Number of pictures that are scored then if there is time.
        started: Beginning of the minutes on `time.monotonic`'s clock.
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
        """Path of the training log, a CSV file beside the checkpoint that stays; None: no checkpoint."""
        return None if self.checkpoint is None else training_log_path(self.checkpoint)

    @property
    def until(self) -> float | None:
        """End of the minutes on `time.monotonic`'s clock; None: there are none."""
        return None if self.minutes is None else self.started + 60 * self.minutes


@dataclass(frozen=True)
class SeenDefect:
    """Defect that was seen, for methods that learn from defects too.

    Attributes:
        packed_image: Picture of the network's size, `[3, H, W]`: uint8 where that loses nothing, else
            float32 in 0..1.
        mask: Where the defect is, `[H, W]` bool, True somewhere.
        name: Name of the picture.
    """

    packed_image: Tensor
    mask: NDArray[np.bool_]
    name: str

    @property
    def image(self) -> Tensor:
        """The picture, `[3, H, W]` float32 in 0..1."""
        return unpack_image(self.packed_image)


@dataclass(frozen=True)
class TaskViews:
    """Views of a task. Without views, the task's numbers are of pictures.

    Attributes:
        per_picture: Mean number of views of a picture.
        picture_of: Number of each view's picture.
    """

    per_picture: float = 1
    picture_of: Sequence[int] = ()


@dataclass(frozen=True)
class Task:
    """Input of `fit` beside the model.

    Attributes:
        load: Loads picture i as `[3, H, W]` float32; None: it must be left out (unreadable). A method that
            holds pictures out may not call it: `divide` gives it the pictures to learn from.
        groups: Group number of each good picture. Pictures of the same part share a number, and are held or
            left out together. Parts of a model that is extended have its units' numbers.
        rate: Target false-alarm rate.
        drop_suspects: Whether to leave out the pictures that do not look good.
        reserved: Numbers of good pictures that the data set sets apart, to be held out and not learnt from.
        settle: Gets the numbers of the loaded pictures, in order; returns those to keep (no copies).
        seen: Defects to learn from.
        old: The artefact from which the model was rebuilt, if it is being extended.
        decoded_bytes: Bytes of the largest decoded picture, to predict memory.
        views: Views of the task.
        calibration_pictures: Number of pictures to calibrate on where the caller calibrates again; None: all.
        budget: Time and checkpoint of a training.
        say: Called with lines for a person.
        step: Called with the stage, the number done and the number of all.
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
        """Return the task without `load`: a method that holds pictures out cannot learn from them."""
        return self if isinstance(self.load, _RefusedLoad) else replace(self, load=_RefusedLoad(self.load))

    def divide(
        self, method: str, model: Detector, *, share: float = 0.1, more: int = 0, room: int = 2**30
    ) -> tuple[GoodPictures, HeldOut]:
        """Read the pictures, and divide them into those to learn from and those to calibrate by.

        Args:
            method: Name of the method.
            model: The detector that is fitted.
            share: Share of the pictures to hold out, as for `hold_out`.
            more: Number of pictures to hold out beyond the need of the rate, as for `hold_out`.
            room: Bytes of pictures that are kept in memory.

        Raises:
            InputError: There are too few pictures, or a picture's padding covers the region of interest.
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
        """Return a number of pictures in words; of views, where the task's numbers are of views."""
        return pluralize(count, f"{what} {'picture' if self.views.per_picture == 1 else 'view'}".strip())


@dataclass(frozen=True)
class _RefusedLoad:
    """`load` of a method that holds pictures out; `read` loads them for `divide`."""

    read: LoadPicture

    def __call__(self, index: int) -> Tensor | None:
        raise FlawscopeError("a method that holds pictures out learns from those that `task.divide` gives")


@dataclass
class Fitted:
    """Output of `fit`, beside the model that it filled.

    Attributes:
        scored: Values of the pictures to calibrate on, as if they had not been learnt from, by their numbers
            in rising order.
        used: Numbers of the pictures learnt from.
        how: How the pictures were scored, for the reader: "held out", "leave-one-picture-out", ...
        promised: Whether new pictures score like them.
        held: Numbers of the pictures kept for other purposes, by role.
        dropped: Numbers of the pictures left out.
        suspects: Scores of the pictures that do not look good, by their numbers, most suspicious first.
        cells: Features `[C, D]` of the cells of a grid on each picture learnt from, by its number; they serve
            to find groups of one kind. Empty: the method has none.
        extra: Tensors kept beside the model's own.
        leave_out: Leaves pictures out better than the model file can; None: the fit has no such class.
        facts: Facts for the manifest.
        notes: Notes for the manifest.
        summary: Lines for a person, beside those about the threshold.
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
    """Scorer of images as if their group had not been learnt from, by the model file (`Detector.left_out`).

    A fit that can do this more exactly has its own subclass, which lasts as long as the fit.

    Attributes:
        learnt: Groups that were learnt from; images of other groups are scored unchanged.
        tensors: Tensors of the model file.
        has_bound: Whether `bound` is faster than `score`.
    """

    has_bound = False

    def __init__(self, model: Detector, learnt: Collection[int], tensors: Mapping[str, Tensor]):
        self.model = model
        self.learnt = {*learnt}
        self.tensors = {name: tensor.to(model.roi.device) for name, tensor in tensors.items()}

    @classmethod
    def of_fit(cls, model: Detector, fitted: Fitted, task: Task) -> Self:
        """Build the scorer that leaves out the groups of a fit's task."""
        learnt = {task.groups[number] for number in fitted.used} | task.known_groups
        return cls(model, learnt, {**model.state_dict(), **fitted.extra})

    def bound(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """Return the score and map of `score`, or higher ones, by the model file alone."""
        model = self.model
        counted = None if inside is None else inside[None]
        if group not in self.learnt:
            return model.score(features[None], counted)
        return model.left_out(features[None], group, self.tensors, counted)

    def score(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """Score an image as if its group had not been learnt from.

        Args:
            group: Group of the image in the task.
            features: Features of the image from `embed`, without the batch.
            inside: The pixels `[H, W]` that count; None: the region of interest.

        Returns:
            Score `[1]` and map `[1, H, W]`; None where the method cannot leave the group out.
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
        """Return the features of images `[1, 3, H, W]`."""
        return self.model.embed(images)

    def run(self, group: int) -> LeftOutRun:
        """Return a function that runs images as a session does, as if the group had not been learnt from.

        The function raises an `ExcludedPictureError` where the method cannot leave the group out.
        """
        return partial(self._run, group, self.score)

    def bound_run(self, group: int) -> LeftOutRun | None:
        """Return a faster function than `run`, whose maps are nowhere lower; None: there is none."""
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
            features = self.embed(given)
            inside = self.model.inside(given)
            found = answer(group, features[0], None if inside is None else inside[0])
            if found is None:
                raise ExcludedPictureError("the method cannot leave it out")
            score, drawn = found
            return score.cpu().numpy(), drawn.float().cpu().numpy()

        with workers(device) as each:
            scores, maps = zip(*each(score, images), strict=True)
        return np.concatenate(scores), np.concatenate(maps)
