"""Several parts that were found in a picture, each judged by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from flawscope.results import drawing
from flawscope.results.findings import Finding, anomalous_parts, part_not_found, wrong_count
from flawscope.types import Json
from flawscope.views.frames import PartPose as PartPose

MAX_NAMED = 3  # anomalous parts that a remark names


@dataclass(frozen=True)
class FoundPart:
    """Part in a picture.

    Attributes:
        part_index: Its number in the picture, from 1: from the top, and from the left where parts lie beside
            each other.
        p_value: How often the worst part of a good picture scores as high.
        is_anomalous: Whether its score alone makes the picture anomalous.
        part_p_value: How often a good part is as far from the reference.
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
        wrong: Says how these numbers are wrong; empty: they are not.
    """

    parts: tuple[FoundPart, ...]
    least: int
    most: int
    objects: tuple[tuple[float, float, float, float], ...] = ()
    wrong: str = ""

    def findings(self, p_value: float | None) -> tuple[Finding, ...]:
        """Return the finding on wrong numbers of parts, else on the parts that make the picture anomalous.

        Args:
            p_value: How often those of a good picture are counted wrong; None: not known.
        """
        if self.wrong:
            return (wrong_count(self.wrong, p_value),)
        bad = [str(part.part_index) for part in self.parts if part.is_anomalous]
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        words = f"part {', '.join(bad[:MAX_NAMED])}{more} of {len(self.parts)}"
        return (anomalous_parts(words),) if bad else ()

    def squares(self) -> list[drawing.Square]:
        """Return squares around the parts, with their numbers, and boxes around other objects.

        Anomalous parts and other objects have a colour of their own.
        """
        boxes = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) for x0, y0, x1, y1 in self.objects]
        colours = drawing.POSE_COLOUR, drawing.BAD_COLOUR
        squares = []
        for part in self.parts:
            colour = colours[part.is_anomalous]
            squares.append(drawing.Square(part.part_pose.corners(), str(part.part_index), colour))
        squares += [drawing.Square(box, "", drawing.BAD_COLOUR) for box in boxes]
        return squares

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_dict`."""
        data: Json = asdict(self)
        data["objects"] = [[round(at, 1) for at in box] for box in self.objects]
        return data

    @classmethod
    def from_dict(cls, data: Json) -> FoundParts:
        """Read what `to_dict` returned."""
        parts = (
            FoundPart(**{**facts, "part_pose": PartPose(**facts["part_pose"])}) for facts in data["parts"]
        )
        objects = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in data["objects"])
        return cls(tuple(parts), data["least"], data["most"], objects, data["wrong"])


@dataclass(frozen=True)
class PartSearch:
    """Answer of the search for the part in a picture, or for several.

    Attributes:
        p_value: How often a good part is as far from the good ones, where it was found or anywhere; of
            several parts, how often those of a good picture are counted wrong; None: not known.
        pose: Place of the part; None: it was not found, or the search is for several.
        several: The parts, where the search is for several; else None.
        searched: Whether the model searches for parts.
        numbers: [H, W] of the map, where the search is for several: `part_index` of the part that is
            inspected there; 0: none, or more than one.
    """

    p_value: float | None
    pose: PartPose | None = None
    several: FoundParts | None = None
    searched: bool = True
    numbers: NDArray[np.uint16] | None = field(default=None, repr=False, compare=False)

    @property
    def found(self) -> bool | None:
        """Whether any part was found; None: none is looked for."""
        if not self.searched:
            return None
        return self.pose is not None or bool(self.several and self.several.parts)

    def findings(self) -> tuple[Finding, ...]:
        """Findings on the part, or the parts."""
        if self.several is not None:
            return self.several.findings(self.p_value)
        return (part_not_found(self.p_value),) if self.found is False else ()

    def to_dict(self) -> Json:
        """Entries of a prediction's document."""
        if not self.searched:
            return {}
        facts = {"part_found": self.found, "part_p_value": self.p_value}
        if self.several is not None:
            return facts | {"found_parts": self.several.to_dict()}
        return facts | {"part_pose": self.pose and self.pose.to_dict()}


NOT_SEARCHED = PartSearch(None, searched=False)
