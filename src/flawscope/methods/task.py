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
# Turns images [n, 3, H, W] into scores [n] and maps [n, H, W]
LeftOutRun = Callable[[Tensor], tuple[Array, Array]]


@dataclass(frozen=True)
class Budget:
    """Time that a method which learns in steps may take, and the file that keeps its state until it ends.

    Attributes:
        minutes: Minutes until all must be done; None: the settings' number of steps decides.
        checkpoint: The file; None: a run that is stopped is lost.
        resume: Whether to continue where the checkpoint stops, or from the start if there is no checkpoint.
        checkpoint_interval: Seconds between checkpoints.
        scored_later: Number of pictures that must be scored after the method's `fit`, within the minutes.
        scored_if_time: Number of pictures that are scored after the method's `fit` if time is left.
        started: Time at which the minutes begin, on the clock `time.monotonic`.
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
        """Path of the training log, a CSV file beside the checkpoint; None: there is no checkpoint."""
        return None if self.checkpoint is None else training_log_path(self.checkpoint)

    @property
    def until(self) -> float | None:
        """Time at which the minutes end, on the clock `time.monotonic`; None: time is not limited."""
        return None if self.minutes is None else self.started + 60 * self.minutes


@dataclass(frozen=True)
class SeenDefect:
    """Picture with a real defect, for methods that learn from defects, too.

    Attributes:
        packed_image: Picture at the network's size, `[3, H, W]`: uint8 where that loses nothing, else
            float32 in 0..1.
        mask: Whether a pixel is defective, `[H, W]` bool; some pixels are.
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
    """Views of the pictures of a task, such as tiles. The task's numbers are then numbers of views.

    Attributes:
        per_picture: Mean number of views of a picture; 1: the task's numbers are numbers of pictures.
        picture_of: For each view, by its number, the number of its picture.
    """

    per_picture: float = 1
    picture_of: Sequence[int] = ()


@dataclass(frozen=True)
class Task:
    """Input of `fit`, apart from the model.

    Attributes:
        load: Loads picture i as `[3, H, W]` float32, or returns None for a picture that cannot be used. A
            method that holds pictures out may not call it: `divide` gives it the pictures to learn from.
        groups: Group number of each good picture. Pictures of the same part share a number, and are held out
            or left out together. If a model is extended, parts that it learnt keep their units' numbers.
        rate: Target false-alarm rate.
        drop_suspects: Whether to leave out the pictures that do not look good.
        reserved: Numbers of good pictures that the data set sets apart, to be held out and not learnt from.
        settle: Gets the numbers of the loaded pictures, in rising order; returns the numbers to use, without
            those of copies.
        seen: Defects to learn from.
        old: The artefact of the model that is extended; None: the model is new.
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
        """Groups that the model learnt from before it is extended; empty for a new model."""
        return set() if self.old is None else {*learnt_units(self.old.manifest.pictures).values()}

    def without_load(self) -> Task:
        """Return the task with a `load` that raises: no method learns from pictures that it holds out."""
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
            room: Bytes of pictures that are kept in memory, at most.

        Returns:
            The pictures to learn from, and the pictures held out.

        Raises:
            InputError: There are too few pictures, or a picture's padding covers the region of interest.
        """
        # for a method that holds pictures out, `self.load` is a stand-in, which refuses calls; its own `load`
        # is the real function
        load_picture = self.load.load if isinstance(self.load, _RefusedLoad) else self.load
        region = model.roi.cpu()

        def load_checked(index: int) -> Tensor | None:
            image = load_picture(index)
            return check_region_visible(image, region) if model.config.pads else image

        images = GoodPictures(load_checked, self.count, room)
        usable_numbers = self.settle(images.read(self.step))
        held_out_parts = hold_out(
            usable_numbers,
            [self.groups[i] for i in usable_numbers],
            share=share,
            rate=self.rate,
            seed=model.config.seed,
            method=method,
            reserved=self.reserved,
            more=more,
        )
        held_out_numbers = {i for part in held_out_parts for i in part}
        learnt_numbers = [i for i in usable_numbers if i not in held_out_numbers]
        load_held_out = images.set_apart(learnt_numbers)
        return images, HeldOut(held_out_parts, self.step, load_held_out)

    def pluralize(self, count: int, what: str = "") -> str:
        """Return a count as text, such as "3 good pictures", or "3 good views" where the task has views.

        Args:
            count: The number.
            what: Adjective before the noun; empty: none.
        """
        noun = "picture" if self.views.per_picture == 1 else "view"
        return pluralize(count, f"{what} {noun}".strip())


@dataclass(frozen=True)
class _RefusedLoad:
    """Stand-in for `Task.load`, for a method that holds pictures out: raises at a call.

    Attributes:
        load: The real function, for `Task.divide`.
    """

    load: LoadPicture

    def __call__(self, index: int) -> Tensor | None:
        raise FlawscopeError("a method that holds pictures out learns from those that `task.divide` gives")


@dataclass
class Fitted:
    """Output of `fit`, apart from the model that it filled.

    Attributes:
        scored: Number of a picture to calibrate on -> its values, as if it had not been learnt from; numbers
            in rising order.
        used: Numbers of the pictures learnt from.
        how: How the pictures were scored, for people: "held out", "leave-one-picture-out", ...
        promised: Whether new good pictures score as the pictures in `scored` do.
        held: Numbers of the pictures held out for other purposes, by purpose.
        dropped: Numbers of the pictures left out.
        suspects: Scores of the pictures that do not look good, by their numbers, most suspicious first.
        cells: Number of a picture learnt from -> features `[C, D]` of the C cells of a grid on it, to find
            groups of similar pictures. Empty: the method has no such features.
        extra: Tensors for the model file in addition to the model's own.
        leave_out: Scores pictures as left out, more exactly than the model file can; None: the fit cannot.
        facts: Facts for the manifest.
        notes: Notes for the manifest.
        summary: Lines for a person, in addition to those about the threshold.
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
    """Scorer of images that leaves their group out, as if it had not been learnt from.

    This scorer uses only the model file (`Detector.left_out`). A fit that can leave groups out more exactly
    has a subclass, whose objects are used during the fit.

    Attributes:
        learnt: Groups that were learnt from; images of other groups get their ordinary scores.
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
        learnt_groups = {task.groups[number] for number in fitted.used} | task.known_groups
        return cls(model, learnt_groups, {**model.state_dict(), **fitted.extra})

    def bound(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """Return upper bounds of the score and the map that `score` returns, from the model file only.

        The arguments, and the meaning of None, are those of `score`.
        """
        model = self.model
        batch_inside = None if inside is None else inside[None]
        if group not in self.learnt:
            return model.score(features[None], batch_inside)
        return model.left_out(features[None], group, self.tensors, batch_inside)

    def score(self, group: int, features: Tensor, inside: Tensor | None) -> LeftOut | None:
        """Score an image as if its group had not been learnt from.

        Args:
            group: Group of the image in the task.
            features: Features of the image from `embed`, without the batch.
            inside: The pixels `[H, W]` that count; None: the region of interest.

        Returns:
            Score `[1]` and map `[1, H, W]`; None where the method cannot leave the group out.
        """
        bound = self.bound(group, features, inside)
        if bound is None or group not in self.learnt:
            return bound
        score_excess, map_excess = self.model.left_out_excess(group, self.tensors)
        if score_excess <= 0 and map_excess <= 0:
            return bound
        # Lower the bound by the excess that the fit measured, but not below the ordinary score, which counts
        # the image's own group, too
        bound_score, bound_map = bound
        batch_inside = None if inside is None else inside[None]
        plain_score, plain_map = self.model.score(features[None], batch_inside)
        lowest_score = torch.minimum(bound_score, plain_score)
        score = torch.maximum(bound_score - score_excess, lowest_score)
        bound_maximum = bound_map.amax()
        lowest_maximum = torch.minimum(bound_maximum, plain_map.amax())
        map_maximum = torch.maximum(bound_maximum - map_excess, lowest_maximum)
        return score, bound_map.clamp(max=map_maximum)

    def embed(self, images: Tensor) -> Tensor:
        """Return the features of images `[1, 3, H, W]`."""
        return self.model.embed(images)

    def run(self, group: int) -> LeftOutRun:
        """Return a function from images to scores and maps, as if the group had not been learnt from.

        The function raises an `ExcludedPictureError` where the method cannot leave the group out.
        """
        return partial(self._run, group, self.score)

    def bound_run(self, group: int) -> LeftOutRun | None:
        """Return a faster function than `run` returns; its maps are upper bounds of the exact maps.

        The result is None if the group was not learnt from, `bound` is not faster than `score`, or scores are
        not the maxima of maps.
        """
        if not (self.has_bound and self.model.score_is_map_maximum and group in self.learnt):
            return None
        return partial(self._run, group, self.bound)

    def _run(
        self,
        group: int,
        score: Callable[[int, Tensor, Tensor | None], LeftOut | None],
        images: Sequence[NDArray[np.float32]],
    ) -> tuple[Array, Array]:
        """Return scores `[n]` and maps `[n, H, W]` of images `[n, 3, H, W]`.

        Args:
            group: The group that is left out.
            score: The method `score` or `bound`.
            images: The images.
        """
        device = self.model.roi.device

        def score_image(image: NDArray[np.float32]) -> tuple[Array, Array]:
            batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(device)
            features = self.embed(batch)
            inside = self.model.inside(batch)
            result = score(group, features[0], None if inside is None else inside[0])
            if result is None:
                raise ExcludedPictureError("the method cannot leave it out")
            image_score, image_map = result
            return image_score.cpu().numpy(), image_map.float().cpu().numpy()

        with workers(device) as map_images:
            scores, maps = zip(*map_images(score_image, images), strict=True)
        return np.concatenate(scores), np.concatenate(maps)
