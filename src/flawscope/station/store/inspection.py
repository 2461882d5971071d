"""The definition of an inspection: what the API answers, the client gets, sinks send and exports list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from flawscope.results.prediction import Region

EXAMPLE: dict[str, Any] = {
    "id": 17,
    "product": "plate",
    "version": 1,
    "at": "2026-11-22T02:04:51.123Z",
    "name": "0017.png",
    "source": "http",
    "part": "4711",
    "batch": "2026-47",
    "triggers": None,
    "picture": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "width": 640,
    "height": 480,
    "score": 21.7,
    "p_value": 0.0244,
    "severity": 2.6,
    "decision": "anomalous",
    "near": False,
    "score_threshold": 17.3,
    "regions": [
        {"box": [120.0, 80.0, 168.0, 131.0], "area": 1730.0, "peak": 21.7, "centroid": [143.9, 104.2]}
    ],
    "verdict": None,
    "verdict_at": None,
    "verdict_by": None,
    "note": "",
    "has_mask": False,
    "review": "waiting",
}


def time_text(moment: datetime) -> str:
    """As 2026-11-22T02:04:51.123Z; without a zone it is UTC."""
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return known.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(time_text)]


class Inspection(BaseModel):
    """A picture that was judged; numbers as in `Prediction`. The fields are the columns of an export."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"example": EXAMPLE})
    id: int
    at: Time = Field(description="when it arrived, UTC")
    product: str
    version: int = Field(description="the model version that judged")
    name: str = Field(description="what the sender calls it")
    source: str
    decision: Literal["good", "anomalous"]
    score: float
    p_value: float
    severity: float
    score_threshold: float
    verdict: Literal["good", "defect"] | None = Field(description="what a person said")
    verdict_at: Time | None
    verdict_by: str | None
    note: str
    review: Literal["none", "waiting", "done", "skipped"]
    width: int
    height: int
    picture: str | None = Field(description="SHA-256 of the file; null when it was removed")
    regions: tuple[Region, ...]
    part: str | None = Field(description="number of the part, as its sender says")
    batch: str | None = Field(description="that the part belongs to")
    triggers: int | None = Field(description="how many triggers the frame answers; null: none asked for it")
    near: bool = Field(description="good, but near the threshold")
    has_mask: bool = Field(description="a person drew where the defect is")

    @property
    def is_anomalous(self) -> bool:
        return self.decision == "anomalous"
