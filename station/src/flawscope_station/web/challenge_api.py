"""Routes and page of challenge parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from flawscope.pictures.folder_words import says_good
from flawscope_station.challenge.challenge import Challenge, ChallengeFacts
from flawscope_station.challenge.readiness import LEAST
from flawscope_station.challenge.records import PartFacts, ResultFacts
from flawscope_station.core.queries import Records
from flawscope_station.sources.source import TriggeredSource
from flawscope_station.store.inspection import InspectionFacts
from flawscope_station.store.records import valid_id_or_zero
from flawscope_station.store.schema import ANOMALOUS, GOOD
from flawscope_station.store.search import Filters
from flawscope_station.web.api import Engineer, Operator, api_router, refusals
from flawscope_station.web.components import ContextDep, ProductId, RecordsDep, component
from flawscope_station.web.pages import Page, product_page

SHOWN_CHOICES = 11  # latest inspections that may be kept as a challenge part
# of the chart of a part's scores
CHART_WIDTH = 320
CHART_HEIGHT = 72

ChallengeDep = Annotated[Challenge, component(Challenge)]
router = api_router()
page_router = APIRouter(include_in_schema=False)


class ChallengePart(BaseModel):
    """Challenge part with its stored pictures and results."""

    id: int
    name: str = Field(description="the `part` under which it is shown")
    expected: Literal["good", "anomalous"]
    note: str
    views: list[str] = Field(
        description="views with a stored picture; an empty name: the only picture; empty: there is none yet"
    )
    results: list[dict[str, object]] = Field(
        description="results, the oldest first: `at`, `outcome` (passed, failed, wrong_part, old_picture), "
        f"`score`, `score_threshold`, `resemblance` to the stored picture (-1 to 1; {LEAST} is needed), and "
        "`inspection`, the number of the inspection"
    )


class ChallengeRun(BaseModel):
    """Challenge that was begun, with its cause and outcome."""

    id: int
    version_id: int
    cause: Literal["first", "version", "release", "settings", "time", "clock", "failed", "batch"]
    who: str
    begun_at: str
    outcome: Literal["passed", "failed", "overridden", "replaced"] | None = Field(
        description="null: the challenge is under way; replaced: another began in its place"
    )
    reason: str | None = Field(description="reason of the person who overrode it")


class ChallengeState(BaseModel):
    """State of a product's challenges."""

    asked: bool = Field(description="true: the settings ask for challenges")
    ready: bool = Field(description="false: nothing is answered until the challenge parts have passed")
    cause: str | None = Field(description="why the product is not ready; null: it is")
    under_way: bool
    missing: list[str] = Field(description="challenge parts that are still to be shown")
    next_at: str | None = Field(description="when the next challenge is due")
    parts: list[ChallengePart]
    challenges: list[ChallengeRun] = Field(description="challenges, the latest first")


def _expected_decision(word: object) -> object:
    """Return the decision that a word such as defective or NOK means; other values unchanged."""
    is_good = says_good(word) if isinstance(word, str) and word not in (GOOD, ANOMALOUS) else None
    if is_good is None:
        return word
    return GOOD if is_good else ANOMALOUS


Expected = Annotated[
    Literal["good", "anomalous"],
    BeforeValidator(_expected_decision),
    Field(description="right decision on the part; also in other words, such as defective, iO, NOK"),
]


class NewChallengePart(BaseModel):
    """Wish to keep a part as a challenge part."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"inspection": 17, "name": "plate-03", "expected": "anomalous"}},
    )
    inspection: int | None = Field(
        None,
        ge=1,
        lt=2**63,
        description="inspection that shows the part; null: the next picture with its name does",
    )
    name: str = Field(max_length=100, description="the `part` under which it will be shown")
    expected: Expected
    note: str = Field("", max_length=200, description="note for people, such as scratched")


class Override(BaseModel):
    """Reason for being ready without the challenge parts."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"reason": "plate-03 is lost"}})
    reason: str = Field(max_length=200)


@router.get("/challenge", response_model=ChallengeState)
def challenge_state(product_id: ProductId, challenge: ChallengeDep) -> ChallengeFacts:
    """Return whether the challenge parts have passed, and their scores over time."""
    return challenge.facts(product_id)


@router.post("/challenge", response_model=ChallengeState, responses=refusals(409))
def begin_challenge(product_id: ProductId, challenge: ChallengeDep, person: Operator) -> ChallengeFacts:
    """Begin a challenge, such as before a batch: nothing is answered until its parts have passed.

    Send or trigger each part as a picture whose `part` is its name. The answer is 409, `not_production`, with
    the part's result.
    """
    challenge.begin(product_id, person.name)
    return challenge.facts(product_id)


@router.post("/challenge/override", response_model=ChallengeState)
def override_challenge(
    product_id: ProductId, challenge: ChallengeDep, person: Engineer, wish: Override
) -> ChallengeFacts:
    """Be ready without the challenge parts until the next challenge is due; the audit keeps the reason."""
    challenge.override(product_id, wish.reason, person.name)
    return challenge.facts(product_id)


@router.post("/challenge/parts", status_code=201, response_model=ChallengePart)
def add_challenge_part(
    product_id: ProductId, challenge: ChallengeDep, person: Engineer, new: NewChallengePart
) -> PartFacts:
    """Keep the part of an inspection, with its picture, as a challenge part.

    Without an inspection, the next picture whose `part` is this name is kept, also while nothing else is
    answered; its answer is 409, `not_production`.
    """
    wanted = new.inspection, new.name, new.expected, new.note
    return challenge.add_part(product_id, *wanted, person.name)


@router.delete("/challenge/parts/{number}", response_model=ChallengeState)
def remove_challenge_part(
    product_id: ProductId, number: int, challenge: ChallengeDep, person: Engineer
) -> ChallengeFacts:
    """Remove a challenge part; its results stay in the database."""
    challenge.remove_part(product_id, number, person.name)
    return challenge.facts(product_id)


@router.get("/challenge/parts/{number}/view", response_class=Response)
def challenge_part_view(
    product_id: ProductId, number: int, challenge: ChallengeDep, view: str | None = None
) -> Response:
    """Return the stored picture of a challenge part, as WebP."""
    return Response(challenge.view(product_id, number, view), media_type="image/webp")


@page_router.get("/{product}/challenge")
def challenge_page(
    product: str,
    page: Annotated[Page, product_page("challenge")],
    challenge: ChallengeDep,
    context: ContextDep,
    records: RecordsDep,
    inspection: str = "",
) -> Response:
    """Show the challenge parts.

    Args:
        product: Name of the product.
        page: The product's page.
        challenge: Challenges of all products.
        context: Cameras and addresses of the station.
        records: Records of inspections.
        inspection: Number of the inspection that is chosen to be kept.
    """
    chosen = int(inspection) if inspection.isdecimal() and len(inspection) < 20 else 0
    choices = _choices(records, page.product_id, chosen)
    state = challenge.facts(page.product_id)
    entry = context.addresses.configured_name(product)
    sources = context.sources[entry]
    configured = context.addresses.settings_of(entry)
    # what a station without a settings file needs in one: its version goes on, and its folder
    facts: dict[str, object] = {"model": None if entry == product else configured.model}
    if configured.folder:
        facts["folder"] = configured.folder
    line = {"products": {entry: {**facts, "challenge": ["06:00"]}}}
    with_picture = [choice for choice in choices if choice["picture"]]
    has_camera = any(isinstance(source, TriggeredSource) for source in sources)
    missing = [part for part in state["parts"] if part["name"] in state["missing"]]
    return page.render(
        "challenge",
        sections=("challenge",),
        state=state,
        next=missing[0] if missing else None,
        charts={part["id"]: score_chart(part["results"]) for part in state["parts"]},
        choices=with_picture,
        chosen=chosen,
        has_camera=has_camera,
        size=(CHART_WIDTH, CHART_HEIGHT),
        line=json.dumps(line, ensure_ascii=False),
    )


def _choices(records: Records, product_id: int, chosen: int) -> list[InspectionFacts]:
    """Return inspections that may be kept: the chosen one (0: none) first, then the newest."""
    newest = records.search(product_id, Filters(limit=SHOWN_CHOICES)).inspections
    if not chosen or chosen in [run["id"] for run in newest]:
        return newest
    return [records.store.inspection(product_id, valid_id_or_zero(chosen)), *newest]


def score_chart(results: Sequence[ResultFacts]) -> dict[str, str] | None:
    """Return the lines of scores and thresholds in a chart, as points in pixels.

    The points are in the order of the results. None where there are fewer than two results.
    """
    if len(results) < 2:
        return None
    scores = [result["score"] for result in results]
    thresholds = [result["score_threshold"] for result in results]
    values = scores + thresholds
    low = min(values)
    step = CHART_WIDTH / (len(results) - 1)
    scale = CHART_HEIGHT / ((max(values) - low) or 1.0)

    def line(values: Sequence[float]) -> str:
        heights = (CHART_HEIGHT - scale * (value - low) for value in values)
        return " ".join(f"{step * place:.1f},{height:.1f}" for place, height in enumerate(heights))

    return {"scores": line(scores), "thresholds": line(thresholds)}
