"""An inspection, as the API, the pages, the sinks and the exports show it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class Region(BaseModel):
    """A connected part of what was found, in pixels of the picture; box: x0, y0, x1, y1."""

    box: list[float]
    area: float
    peak: float
    centroid: list[float]


class Inspection(BaseModel):
    """A picture that was judged."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})
    id: int
    product: str
    version: int = Field(description="the model version that judged")
    at: str = Field(description="when it arrived, UTC")
    name: str = Field(description="what the sender calls it")
    source: str
    part: str | None = Field(description="number of the part, as its sender says")
    batch: str | None = Field(description="that the part belongs to")
    triggers: int | None = Field(description="how many triggers the frame answers; null: none asked for it")
    picture: str | None = Field(description="SHA-256 of the file; null when it was removed")
    width: int
    height: int
    score: float
    p_value: float
    severity: float
    decision: Literal["good", "anomalous"]
    near: bool = Field(description="good, but near the threshold")
    score_threshold: float
    regions: list[Region]
    verdict: Literal["good", "defect"] | None
    verdict_at: str | None
    verdict_by: str | None
    note: str
    has_mask: bool = Field(description="a person drew where the defect is")
    review: Literal["none", "waiting", "done", "skipped"]
