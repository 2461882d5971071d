"""Shows how well the parts of a data set are found before anything is fitted. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawscope.errors import InputError, some
from flawscope.pictures.congealing import learn
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.pictures.part_pose import PartPose
from flawscope.pictures.pose import Kind, Reference
from flawscope.pictures.preprocess import Preprocess
from flawscope.pictures.resampling import size_of
from flawscope.results import drawing
from flawscope.results.contact_sheet import Line, contact_sheet
from flawscope.results.prediction import LOST

CELL, COLUMNS = 200, 6
MOST = 24  # pictures that are drawn


@dataclass(frozen=True)
class Alignment:
    """Poses of the parts in the pictures of a data set; None where no part was found."""

    reference: Reference
    poses: dict[Path, PartPose | None]
    root: Path

    @classmethod
    def of(
        cls,
        good: Sequence[Path],
        others: Sequence[Path],
        kind: Kind,
        root: Path,
        progress: Callable[[int, int], None],
    ) -> Alignment:
        """Learns the reference from good pictures, and finds the parts in all; those that cannot be read are
        left out. InputError: there are too few good pictures, or they show nothing to be found."""
        small, sizes = {}, {}
        for done, path in enumerate([*good, *others], start=1):
            try:
                picture = decode(path)
                small[path], sizes[path] = Preprocess().small(picture), size_of(picture)
            except InputError:
                continue  # the check names it
            progress(done, len(good) + len(others))
        reference = learn([small[path] for path in good if path in small], kind)
        found = {path: reference.find(one) for path, one in small.items()}
        poses = {
            path: PartPose.of(pose, reference, sizes[path]) if pose.found else None
            for path, pose in found.items()
        }
        return cls(reference, poses, root)

    @property
    def lost(self) -> list[str]:
        """Pictures without a part."""
        return [self._name(path) for path, pose in self.poses.items() if pose is None]

    def lines(self) -> list[str]:
        """Text for people."""
        count, every = len(self.lost), len(self.poses)
        errors = [pose.error for pose in self.poses.values() if pose]
        far = f"median {np.median(errors):.2f}, largest {max(errors):.2f}" if errors else "none"
        return [
            self.reference.described(),
            f"parts found in {every - count} of {every} pictures; spreads off: {far}",
            *([f"no part found in {some(self.lost)}"] if count else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns values that JSON knows."""
        return {
            "kind": self.reference.kind,
            "period": self.reference.period,
            "limit": self.reference.limit,
            "pictures": [
                {
                    "path": self._name(path),
                    "part_found": pose is not None,
                    "part_pose": pose and pose.to_dict(),
                }
                for path, pose in self.poses.items()
            ],
        }

    def sheet(self) -> Image.Image:
        """Contact sheet: the reference, and the pictures with the squares around their parts, those without a
        part first, then the farthest from the reference."""
        order = sorted(self.poses.items(), key=lambda one: -one[1].error if one[1] else -np.inf)
        images, words = [np.repeat(self.reference.square()[..., None], 3, 2)], ["reference"]
        for path, pose in order[:MOST]:
            small = Image.fromarray(to_eight_bits(decode(path)))
            width, height = small.size
            small.thumbnail((CELL, CELL))
            scale = small.width / width, small.height / height
            corners = [pose.corners() * scale] if pose else []
            images.append(drawing.noted(drawing.squares(np.asarray(small), corners), "" if pose else LOST))
            words.append(f"{self._name(path)}\n{f'{pose.error:.2f} spreads off' if pose else LOST}")
        frames = [None, *(drawing.GOOD if pose else drawing.BAD for _, pose in order[:MOST])]
        rows = range(0, len(images), COLUMNS)
        lines = [
            Line(images[k : k + COLUMNS], words[k : k + COLUMNS], frames=frames[k : k + COLUMNS])
            for k in rows
        ]
        title = f"parts found in {len(self.poses) - len(self.lost)} of {len(self.poses)} pictures"
        return contact_sheet(lines, (CELL, CELL), title=f"{title}\n{self.reference.described()}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
