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
        problem: Why the model cannot learn from the picture; empty: it can.
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
        poses: Poses by the picture's file.
        root: Folder of the data set.
        learnt: What was learnt for pictures of several parts; None: each picture shows one part.
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
        """Learn the reference from good pictures, and find the parts in all pictures.

        Pictures that cannot be read are left out.

        Args:
            good: Good pictures.
            others: All other pictures.
            kind: Kind of poses that occur.
            root: Folder of the data set.
            progress: Called after each picture that was read, with its number, from 1, and the total number.
            several: Whether each picture shows several parts.

        Raises:
            InputError: There are too few good pictures, or no part can be found in them.
        """
        small_picture_by_path = {}
        size_by_path = {}
        for number, path in enumerate([*good, *others], start=1):
            try:
                picture = decode(path)
                small_picture_by_path[path] = Preprocess().small(picture, OVERVIEW_SIDE if several else SIDE)
                size_by_path[path] = picture_size(picture)
            except InputError:
                continue  # the data check reports it
            progress(number, len(good) + len(others))
        readable_good = [path for path in good if path in small_picture_by_path]
        if several:
            return cls._learn_several(readable_good, small_picture_by_path, kind, root)
        reference = learn_reference([small_picture_by_path[path] for path in readable_good], kind)
        poses_by_path = {}
        for path, small_picture in small_picture_by_path.items():
            pose = reference.find(small_picture)
            if pose.found:
                poses_by_path[path] = Poses([PartPose.from_pose(pose, reference, size_by_path[path])])
            else:
                # None: the p-value is not known
                poses_by_path[path] = Poses([], part_not_found(None).words)
        return cls(reference, poses_by_path, root)

    @classmethod
    def _learn_several(
        cls,
        good: Sequence[Path],
        small_pictures: Mapping[Path, NDArray[np.float32]],
        kind: PoseKind,
        root: Path,
    ) -> Alignment:
        """Learn the reference from good pictures of several parts each, and find the parts in all pictures.

        Args:
            good: Good pictures that could be read.
            small_pictures: All pictures that could be read, scaled down, by their files.
            kind: Kind of poses that occur.
            root: Folder of the data set.
        """

        def reduced(index: int, side: int) -> NDArray[np.float32]:
            return Preprocess().small(decode(good[index]), side)

        problem = ""
        try:
            learnt = learn_several_parts([small_pictures[path] for path in good], reduced, kind)
        except PartsCountedWrongError as error:  # the drawings still show what was taken for a part
            learnt = error.learnt
            problem = str(error)
        preprocess = Preprocess(reference=learnt.reference, several=learnt.settings)
        poses = {}
        for path in small_pictures:
            views = preprocess.views(path)
            if isinstance(views, PartFrameViews):
                poses[path] = Poses(views.poses, views.count_error)
        return cls(learnt.reference, poses, root, learnt, problem)

    @property
    def lost(self) -> list[str]:
        """Names of pictures in which no part was found, or a wrong number of parts."""
        return [self._name(path) for path, poses in self.poses.items() if poses.problem]

    def lines(self) -> list[str]:
        """Return the lines of text for people."""
        errors = [poses.error for poses in self.poses.values() if not poses.problem]
        error_text = f"median {np.median(errors):.2f}, largest {max(errors):.2f}" if errors else "none"
        lost_text = "no part found" if self.learnt is None else "parts counted wrong"
        lines = []
        if self.problem:
            lines.append(f"error: {self.problem}")
        if self.learnt is not None:
            lines.append(self.learnt.describe())
        lines.append(self.reference.describe())
        lines.append(f"{self._found_line}; spreads off: {error_text}")
        if self.lost:
            lines.append(f"{lost_text} in {join_names(self.lost)}")
        return lines

    @property
    def _found_line(self) -> str:
        """Line on the number of pictures in which all is right."""
        what = "parts found" if self.learnt is None else "parts found and counted right"
        return f"{what} in {len(self.poses) - len(self.lost)} of {len(self.poses)} pictures"

    def to_dict(self) -> Json:
        """Return the kind of poses, and the poses of each picture, as values for JSON."""
        document: Json = {
            "kind": self.reference.kind,
            "period": self.reference.period,
            "limit": MAX_ERROR,
        }
        if self.problem:
            document["problem"] = self.problem
        if self.learnt is not None:
            settings = self.learnt.settings
            document["expected"] = [settings.least, settings.most]  # number of parts in a picture
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

        The reference comes first. Then come pictures with squares around their parts: those with a problem,
        then the others, from the farthest to the nearest to the reference.
        """
        grey_image = self.reference.part_image()
        reference_image = np.repeat(grey_image[..., None], 3, axis=2)  # three equal channels
        yield reference_image, "reference", self.reference.describe()
        # poses with a problem have an infinite error
        farthest_first = sorted(self.poses.items(), key=lambda item: -item[1].error)
        for path, poses in farthest_first[:MAX_PICTURES]:
            small = Image.fromarray(displayed(path))
            width, height = small.size
            small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            scale_x = small.width / width
            scale_y = small.height / height
            squares = []
            for number, pose in enumerate(poses.poses, 1):
                square = drawing.Square(pose.corners(), str(number) if self.learnt else "")
                squares.append(square.scaled(scale_x, scale_y))
            drawn = drawing.draw_squares(np.asarray(small), squares)
            drawn = drawing.draw_note(drawn, poses.problem, squares)
            yield drawn, self._name(path), poses.problem or f"{poses.error:.2f} spreads off"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
