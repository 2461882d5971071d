"""Shows how well the parts of a data set are found before anything is fitted. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, join_names
from flawscope.pictures.channels import displayed
from flawscope.pictures.decoding import decode
from flawscope.results import drawing
from flawscope.results.findings import part_not_found
from flawscope.types import Json
from flawscope.views.congealing import learn_reference
from flawscope.views.frames import PartPose
from flawscope.views.pose import MAX_ERROR, SIDE, PoseKind, PoseReference
from flawscope.views.preprocess import Preprocess
from flawscope.views.resampling import picture_size
from flawscope.views.several_parts import OVERVIEW_SIDE
from flawscope.views.several_parts_learning import LearnedParts, PartsCountedWrongError, learn_several_parts
from flawscope.views.views import PartFrameViews

SHOWN_SIDE = 288  # pixels of a drawing
MAX_PICTURES = 24  # pictures that are drawn


@dataclass(frozen=True)
class Poses:
    """Poses of the parts in a picture.

    Attributes:
        poses: Pose of each part.
        problem: Why the picture is not good to learn from; empty: it is.
    """

    poses: list[PartPose]
    problem: str = ""

    @property
    def error(self) -> float:
        """Error of the part that is farthest from the reference; infinite where something is wrong."""
        return np.inf if self.problem else max(pose.error for pose in self.poses)


@dataclass(frozen=True)
class Alignment:
    """Poses of the parts in the pictures of a data set.

    Attributes:
        reference: Reference that was learnt from the good pictures.
        poses: Poses by the picture.
        root: Folder of the data set.
        learnt: Settings for several parts in a picture; None: each shows one.
        problem: Why nothing can be learnt from the poses; empty: it can.
    """

    reference: PoseReference
    poses: dict[Path, Poses]
    root: Path
    learnt: LearnedParts | None = None
    problem: str = ""

    @classmethod
    def learn(
        cls,
        good: Sequence[Path],
        others: Sequence[Path],
        kind: PoseKind,
        root: Path,
        progress: Callable[[int, int], None],
        several: bool = False,
    ) -> Alignment:
        """Learn the reference from good pictures, and find the parts in all.

        Pictures that cannot be read are left out.

        Args:
            good: Good pictures.
            others: All other pictures.
            kind: Poses that occur.
            root: Folder of the data set.
            progress: Called with the number of pictures read, and of all.
            several: Whether each picture shows several parts.

        Raises:
            InputError: There are too few good pictures, or they show nothing to be found.
        """
        small = {}
        sizes = {}
        for done, path in enumerate([*good, *others], start=1):
            try:
                picture = decode(path)
                small[path] = Preprocess().small(picture, OVERVIEW_SIDE if several else SIDE)
                sizes[path] = picture_size(picture)
            except InputError:
                continue  # the check names it
            progress(done, len(good) + len(others))
        known = [path for path in good if path in small]
        if several:
            return cls._learn_several(known, small, kind, root)
        reference = learn_reference([small[path] for path in known], kind)
        poses = {}
        for path, picture in small.items():
            pose = reference.find(picture)
            if pose.found:
                poses[path] = Poses([PartPose.from_pose(pose, reference, sizes[path])])
            else:
                poses[path] = Poses([], part_not_found(None).words)
        return cls(reference, poses, root)

    @classmethod
    def _learn_several(
        cls, known: Sequence[Path], small: Mapping[Path, NDArray[np.float32]], kind: PoseKind, root: Path
    ) -> Alignment:
        """Learn the reference from good pictures of several parts each, and find the parts in all."""

        def reduced(i: int, side: int) -> NDArray[np.float32]:
            return Preprocess().small(decode(known[i]), side)

        problem = ""
        try:
            learnt = learn_several_parts([small[path] for path in known], reduced, kind)
        except PartsCountedWrongError as error:  # what was taken for a part is shown all the same
            learnt = error.learnt
            problem = str(error)
        how = Preprocess(reference=learnt.reference, several=learnt.settings)
        poses = {}
        for path in small:
            views = how.views(path)
            if isinstance(views, PartFrameViews):
                poses[path] = Poses(views.poses, views.count_error)
        return cls(learnt.reference, poses, root, learnt, problem)

    @property
    def lost(self) -> list[str]:
        """Pictures without a part, or with another number of parts."""
        return [self._name(path) for path, poses in self.poses.items() if poses.problem]

    def lines(self) -> list[str]:
        """Text for people."""
        errors = [poses.error for poses in self.poses.values() if not poses.problem]
        far = f"median {np.median(errors):.2f}, largest {max(errors):.2f}" if errors else "none"
        lost = "no part found" if self.learnt is None else "parts counted wrong"
        lines = []
        if self.problem:
            lines.append(f"error: {self.problem}")
        if self.learnt is not None:
            lines.append(self.learnt.describe())
        lines.append(self.reference.describe())
        lines.append(f"{self._found_line}; spreads off: {far}")
        if self.lost:
            lines.append(f"{lost} in {join_names(self.lost)}")
        return lines

    @property
    def _found_line(self) -> str:
        """Line on the number of pictures in which all is right."""
        what = "parts found" if self.learnt is None else "parts found and counted right"
        return f"{what} in {len(self.poses) - len(self.lost)} of {len(self.poses)} pictures"

    def to_dict(self) -> Json:
        """Return values that JSON knows."""
        document: Json = {
            "kind": self.reference.kind,
            "period": self.reference.period,
            "limit": MAX_ERROR,
        }
        if self.problem:
            document["problem"] = self.problem
        if self.learnt is not None:
            several = self.learnt.settings
            document["expected"] = [several.least, several.most]
        pictures = []
        for path, poses in self.poses.items():
            pictures.append({"path": self._name(path)} | self._facts(poses))
        document["pictures"] = pictures
        return document

    def _facts(self, found: Poses) -> Json:
        poses = [pose.to_dict() for pose in found.poses]
        if self.learnt is not None:
            return {"wrong": found.problem, "part_poses": poses}
        return {"part_found": not found.problem, "part_pose": poses[0] if poses else None}

    def drawings(self) -> Iterator[tuple[NDArray[np.uint8], str, str]]:
        """Yield drawings [H, W, 3], each with a name and a remark.

        The reference comes first. Pictures with the squares around their parts follow: those without a part
        first, then the farthest from the reference.
        """
        yield np.repeat(self.reference.part_image()[..., None], 3, 2), "reference", self.reference.describe()
        for path, poses in sorted(self.poses.items(), key=lambda item: -item[1].error)[:MAX_PICTURES]:
            small = Image.fromarray(displayed(path))
            width, height = small.size
            small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            scale = small.width / width, small.height / height
            squares = []
            for number, pose in enumerate(poses.poses, 1):
                square = drawing.Square(pose.corners(), str(number) if self.learnt else "")
                squares.append(square.scaled(*scale))
            drawn = drawing.draw_squares(np.asarray(small), squares)
            drawn = drawing.draw_note(drawn, poses.problem, squares)
            yield drawn, self._name(path), poses.problem or f"{poses.error:.2f} spreads off"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
