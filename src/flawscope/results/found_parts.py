"""Several parts that were found in a picture, each judged by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.pictures.part_views import PartPose

MAX_NAMED = 3  # anomalous parts that a remark names


@dataclass(frozen=True)
class FoundPart:
    """Part in a picture.

    part_index: its number in the picture, from 1: from the top, and from the left where parts lie beside each
        other.
    p_value: how often the worst part of a good picture scores as high.
    is_anomalous: its score alone makes the picture anomalous.
    part_p_value: how often a good part is as far from the reference.
    """

    part_index: int
    score: float
    p_value: float
    severity: float
    is_anomalous: bool
    part_p_value: float
    part_pose: PartPose

    @property
    def decision(self) -> str:
        """good or anomalous."""
        return "anomalous" if self.is_anomalous else "good"


@dataclass(frozen=True)
class FoundParts:
    """Parts in a picture, and how many there should be.

    least, most: parts in good pictures. objects: boxes (x0, y0, x1, y1) around other objects, in the
    picture's pixels. wrong: what is wrong with these numbers; empty: nothing.
    """

    parts: tuple[FoundPart, ...]
    least: int
    most: int
    objects: tuple[tuple[float, float, float, float], ...] = ()
    wrong: str = ""

    @property
    def remark(self) -> str:
        """Reason why the picture is anomalous: the numbers, or else the parts that are; empty: none."""
        bad = [str(one.part_index) for one in self.parts if one.is_anomalous]
        if self.wrong or not bad:
            return self.wrong
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        return f"part {', '.join(bad[:MAX_NAMED])}{more} of {len(self.parts)}"

    def squares(self) -> list[NDArray[np.float64]]:
        """Corners [4, 2] of the squares around the parts, and of the boxes around other objects."""
        boxes = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) for x0, y0, x1, y1 in self.objects]
        return [*(one.part_pose.corners() for one in self.parts), *boxes]

    def to_dict(self) -> dict[str, Any]:
        """Returns values that JSON knows, for `from_dict`."""
        return {**asdict(self), "objects": [[round(at, 1) for at in box] for box in self.objects]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FoundParts:
        """Reads what `to_dict` returned."""
        parts = (FoundPart(**{**one, "part_pose": PartPose(**one["part_pose"])}) for one in data["parts"])
        objects = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in data["objects"])
        return cls(tuple(parts), data["least"], data["most"], objects, data["wrong"])
