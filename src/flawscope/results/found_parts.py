"""Several parts that were found in a picture, each judged by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import join_names
from flawscope.results import drawing
from flawscope.results.findings import Finding, anomalous_parts, part_not_found, wrong_count
from flawscope.types import Json
from flawscope.views.frames import PartPose as PartPose

MAX_NAMED = 3  # anomalous parts that a remark names


@dataclass(frozen=True)
class FoundPart:
    """Part in a picture.

    Attributes:
        part_index: Number of the part in the picture, from 1. Parts are counted from top to bottom, in a row
            from left to right.
        p_value: Share of good pictures whose worst part scores as high.
        is_anomalous: Whether the part's score alone makes the picture anomalous.
        part_p_value: Share of good parts that are as far from the reference.
        part_pose: Place of the part.
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
        """Good or anomalous."""
        return "anomalous" if self.is_anomalous else "good"


@dataclass(frozen=True)
class FoundParts:
    """Parts in a picture, and how many there should be.

    Attributes:
        parts: The parts that were found.
        least: Fewest parts in good pictures.
        most: Most parts in good pictures.
        objects: Boxes (x0, y0, x1, y1) around other objects, in the picture's pixels.
        wrong: Words on a wrong number of parts or objects; empty: the numbers are right.
    """

    parts: tuple[FoundPart, ...]
    least: int
    most: int
    objects: tuple[tuple[float, float, float, float], ...] = ()
    wrong: str = ""

    def findings(self, p_value: float | None) -> tuple[Finding, ...]:
        """Return the finding that the number of parts or objects is wrong, else that parts are anomalous.

        The result is empty if all is right.

        Args:
            p_value: Share of good pictures with a wrong number of parts or objects; None: it is not known.
        """
        if self.wrong:
            return (wrong_count(self.wrong, p_value),)
        part_numbers = [str(part.part_index) for part in self.parts if part.is_anomalous]
        if not part_numbers:
            return ()
        words = f"part {join_names(part_numbers, MAX_NAMED)} of {len(self.parts)}"
        return (anomalous_parts(words),)

    def squares(self) -> list[drawing.Square]:
        """Return squares around the parts, with their numbers, and boxes around other objects.

        Anomalous parts and other objects have a colour of their own.
        """
        squares = []
        for part in self.parts:
            colour = drawing.BAD_COLOUR if part.is_anomalous else drawing.POSE_COLOUR
            squares.append(drawing.Square(part.part_pose.corners(), str(part.part_index), colour))
        for x0, y0, x1, y1 in self.objects:
            corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            squares.append(drawing.Square(corners, text="", colour=drawing.BAD_COLOUR))
        return squares

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
        data: Json = asdict(self)
        data["objects"] = [[round(side, 1) for side in box] for box in self.objects]
        return data

    @classmethod
    def from_dict(cls, data: Json) -> FoundParts:
        """Return the parts from the values of `to_dict`."""
        parts = []
        for facts in data["parts"]:
            pose = PartPose(**facts["part_pose"])
            parts.append(FoundPart(**(facts | {"part_pose": pose})))
        objects = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in data["objects"])
        return cls(tuple(parts), data["least"], data["most"], objects, data["wrong"])


@dataclass(frozen=True)
class PartSearch:
    """Answer of the search for the part in a picture, or for several parts.

    Attributes:
        p_value: For a single part: the share of good parts that are at least as far from the reference as the
            most similar place in the picture. For several parts: the share of good pictures whose parts are
            counted wrong. None: it is not known.
        pose: Place of the part; None: it was not found, or the search is for several parts.
        several: The parts, if the search is for several; else None.
        searched: Whether the model searches for parts.
        numbers: [H, W], if the search is for several parts: for each pixel of the map the `part_index` of the
            part that is inspected there; 0: no part is, or more than one.
    """

    p_value: float | None
    pose: PartPose | None = None
    several: FoundParts | None = None
    searched: bool = True
    numbers: NDArray[np.uint16] | None = field(default=None, repr=False, compare=False)

    @property
    def found(self) -> bool | None:
        """Whether any part was found; None: the model searches for none."""
        if not self.searched:
            return None
        return self.pose is not None or bool(self.several and self.several.parts)

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings on the part, or the parts."""
        if self.several is not None:
            return self.several.findings(self.p_value)
        return (part_not_found(self.p_value),) if self.found is False else ()

    def to_dict(self) -> Json:
        """Return the entries for a prediction's document; {} if the model searches for no parts."""
        if not self.searched:
            return {}
        facts: Json = {"part_found": self.found, "part_p_value": self.p_value}
        if self.several is not None:
            facts["found_parts"] = self.several.to_dict()
        else:
            facts["part_pose"] = None if self.pose is None else self.pose.to_dict()
        return facts


NOT_SEARCHED = PartSearch(p_value=None, searched=False)
