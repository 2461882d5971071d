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
from flawscope_station.settings.station import ProductSettings
from flawscope_station.sources.source import TriggeredSource
from flawscope_station.store.inspection import InspectionFacts
from flawscope_station.store.records import valid_id_or_zero
from flawscope_station.store.schema import ANOMALOUS, GOOD
from flawscope_station.store.search import Filters
from flawscope_station.web.api import Engineer, Operator, api_router, refusals
from flawscope_station.web.components import ContextDep, ProductId, RecordsDep, component
from flawscope_station.web.pages import Page, product_page

SHOWN_CHOICES = 11  # latest inspections that the page offers as challenge parts
# pixels of the chart of a part's scores
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
    """Return the decision that a word such as `defective` or `NOK` means; return other values unchanged."""
    if not isinstance(word, str) or word in (GOOD, ANOMALOUS):
        return word
    is_good = says_good(word)
    if is_good is None:  # the word means neither
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


@router.get("/challenge", response_model=ChallengeState, summary="State of the challenges")
def challenge_state(product_id: ProductId, challenge: ChallengeDep) -> ChallengeFacts:
    """Return whether the challenge parts have passed, and their scores over time."""
    return challenge.facts(product_id)


@router.post("/challenge", response_model=ChallengeState, responses=refusals(409))
def begin_challenge(product_id: ProductId, challenge: ChallengeDep, person: Operator) -> ChallengeFacts:
    """Begin a challenge, such as before a batch: nothing is answered until its parts have passed.

    Then send or trigger a picture of each challenge part, with the part's name as `part`. The answer is 409,
    `not_production`, with the part's result.
    """
    challenge.begin(product_id, person.name)
    return challenge.facts(product_id)


@router.post("/challenge/override", response_model=ChallengeState, summary="Be ready without a challenge")
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

    If no inspection is given, the next picture whose `part` is this name is kept, even while a challenge is
    under way. The answer to that picture is 409, `not_production`.
    """
    return challenge.add_part(product_id, new.inspection, new.name, new.expected, new.note, person.name)


@router.delete("/challenge/parts/{number}", response_model=ChallengeState)
def remove_challenge_part(
    product_id: ProductId, number: int, challenge: ChallengeDep, person: Engineer
) -> ChallengeFacts:
    """Remove a challenge part; its results stay in the database."""
    challenge.remove_part(product_id, number, person.name)
    return challenge.facts(product_id)


@router.get("/challenge/parts/{number}/view", response_class=Response, summary="Picture of a challenge part")
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
        inspection: Number of the inspection that is selected as a new challenge part; empty: none.
    """
    is_number = inspection.isdecimal() and len(inspection) < 20  # no record's number has more digits
    selected = int(inspection) if is_number else 0
    choices = _offered_inspections(records, page.product_id, selected)
    state = challenge.facts(page.product_id)
    entry = context.addresses.configured_name(product)  # name of the product's entry in the settings
    sources = context.sources[entry]
    missing_parts = [part for part in state["parts"] if part["name"] in state["missing"]]
    example = _settings_example(context.addresses.settings_of(entry), product, entry)
    return page.render(
        "challenge",
        sections=("challenge",),
        state=state,
        next=missing_parts[0] if missing_parts else None,
        charts={part["id"]: score_chart(part["results"]) for part in state["parts"]},
        choices=[choice for choice in choices if choice["picture"]],
        chosen=selected,
        has_camera=any(isinstance(source, TriggeredSource) for source in sources),
        size=(CHART_WIDTH, CHART_HEIGHT),
        line=json.dumps(example, ensure_ascii=False),
    )


def _settings_example(settings: ProductSettings, product: str, entry: str) -> dict[str, object]:
    """Return an example of the settings that a station needs for challenges, as the page shows them.

    The example has the model and the folder of the product, too, for a station without a settings file.

    Args:
        settings: Settings of the product.
        product: Name of the product.
        entry: Name of the product's entry in the settings; for a product of a joint model, the entry has
            another name than the product.
    """
    # `model: null` lets a product that has its own entry keep its active version
    entry_settings: dict[str, object] = {"model": None if entry == product else settings.model}
    if settings.folder:
        entry_settings["folder"] = settings.folder
    entry_settings["challenge"] = ["06:00"]
    return {"products": {entry: entry_settings}}


def _offered_inspections(records: Records, product_id: int, selected: int) -> list[InspectionFacts]:
    """Return the inspections that the page offers as challenge parts.

    These are the newest. If the selected inspection is not among them, it is first.

    Args:
        records: Records of inspections.
        product_id: Number of the product.
        selected: Number of the selected inspection; 0: none is selected.
    """
    newest = records.search(product_id, Filters(limit=SHOWN_CHOICES)).inspections
    if not selected or selected in [inspection["id"] for inspection in newest]:
        return newest
    return [records.store.inspection(product_id, valid_id_or_zero(selected)), *newest]


def score_chart(results: Sequence[ResultFacts]) -> dict[str, str] | None:
    """Return the two lines of a chart, `scores` and `thresholds`, each as points `x,y` in pixels.

    Each result is a point of both lines. Return None if there are fewer than two results.
    """
    if len(results) < 2:
        return None
    scores = [result["score"] for result in results]
    thresholds = [result["score_threshold"] for result in results]
    lowest = min(scores + thresholds)
    value_range = (max(scores + thresholds) - lowest) or 1.0  # 1.0 where all values are equal
    x_step = CHART_WIDTH / (len(results) - 1)

    def points(values: Sequence[float]) -> str:
        # y is 0 at the top, and CHART_HEIGHT for the lowest value
        ys = [CHART_HEIGHT - CHART_HEIGHT / value_range * (value - lowest) for value in values]
        return " ".join(f"{x_step * position:.1f},{y:.1f}" for position, y in enumerate(ys))

    return {"scores": points(scores), "thresholds": points(thresholds)}
