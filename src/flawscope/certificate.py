"""How far an exported model is from the trained one: written into its file, shown by `info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

TOLERANCE = 1e-4  # relative, fp32 scores


@dataclass(frozen=True)
class Certificate:
    """How far the exported model is from the trained one.

    pictures: how many were compared, in every one of `batches`.
    score, map: the largest |difference| / max(|expected|, 1) of scores and of map values.
    decisions: how many pictures are judged otherwise.
    runtime: what the exported model ran on.
    """

    pictures: int
    batches: tuple[int, ...]
    score: float
    map: float
    decisions: int
    runtime: str
    precision: str = "fp32"
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        return self.score <= self.tolerance and not self.decisions

    def line(self) -> str:
        batches = " and ".join(map(str, self.batches))
        return (
            f"{self.pictures} pictures in batches of {batches}, {self.precision}, {self.runtime}: "
            f"scores differ by at most {self.score:.1e}, maps by {self.map:.1e} (relative), "
            f"decisions of {self.decisions} pictures"
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "batches": list(self.batches)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """KeyError, TypeError or ValueError if it is none."""
        return cls(
            int(data["pictures"]),
            tuple(map(int, data["batches"])),
            float(data["score"]),
            float(data["map"]),
            int(data["decisions"]),
            str(data["runtime"]),
            str(data["precision"]),
            float(data["tolerance"]),
        )
