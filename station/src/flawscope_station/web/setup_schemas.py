"""Schemas of products that are being made, for the API's description and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from flawscope.methods import options
from flawscope_station.learning.jobs import JobStep
from flawscope_station.setup.draft import RefusalCode
from flawscope_station.store.product_facts import PromiseFacts


class NewProduct(BaseModel):
    """Wish to begin a product."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=64, examples=["bracket"])


class PictureFinding(BaseModel):
    """Fault of the pictures, as `flawscope data check` finds it."""

    severity: Literal["error", "warning", "note"]
    code: str
    message: str
    remedy: str
    pictures: list[str] = Field(description="that are concerned; empty: all of them")


class PictureCheck(BaseModel):
    """Result of the check of a product's pictures."""

    findings: list[PictureFinding]
    sizes: list[dict[str, int]] = Field(description="width, height and number of pictures")
    align: Literal["shift", "turn"] | None = Field(
        None, description="how the parts lie by their outlines; null: alike, or it is not known"
    )
    current: bool = Field(description="of the pictures as they are now")


class UnusualPicture(BaseModel):
    """Good picture that looks unlike the others."""

    name: str
    score: float
    reason: str | None = Field(
        None,
        description="why it deserves a look; null: it is among the most unlike ones",
        examples=["nothing", "apart", "like_defects", "alone", "high"],
    )


class SimulatedExample(BaseModel):
    """Good picture with a simulated defect, and whether the model found it."""

    file: str
    size: str
    found: bool


def _schema_of(option: options.FitOption) -> tuple[object, object]:
    """Return type and field of an option of `flawscope fit` that *New product* shows.

    The field's default, null, leaves the choice to `flawscope fit`.
    """
    form, meaning = option.form, option.meaning
    assert form is not None, "New product asks for it"
    if form.choices:
        return Literal[form.choices] | None, Field(None, description=meaning)
    if form.kind == "switch":
        return bool | None, Field(None, description=meaning)
    if form.pattern is not None:
        return str | None, Field(None, description=meaning, pattern=form.pattern)
    most = form.most
    if form.kind == "percent" and most is not None:
        most = most / 100  # a share here
    return float | None, Field(None, description=meaning, gt=form.above, le=most)


if TYPE_CHECKING:
    FitOptions = BaseModel
else:
    FitOptions = create_model(
        "FitOptions",
        __doc__="Options of `flawscope fit` that a product learns with.",
        **{option.name: _schema_of(option) for option in options.NEW_PRODUCT},
    )


class RateFacts(BaseModel):
    """Meaning of a false-alarm rate for a model."""

    rate: float
    expected: float = Field(description="share of good pictures, or parts, that will be called anomalous")
    at_most: float | None = Field(
        None,
        description="bound on the rate of this one model, with 95 % for all rates at once: also for one that "
        "was chosen after a look at what it finds; null: there is none",
    )
    supported: bool = Field(description="the good pictures are enough for it")
    missing: int = Field(description="good pictures, or parts, more that it needs")
    threshold: float | None = Field(description="null: each view has its own")
    found: dict[str, list[int]] = Field(
        description="simulated defects by size: found, all; empty where too few of a size were tried"
    )


class SeenHow(BaseModel):
    """Preparation of pictures before the network: the key of a text on the pages, and its value."""

    key: str = Field(examples=["align_turn"])
    value: str = Field(examples=["256+768"])


class TriedSettings(BaseModel):
    """Settings that the search tried, with their results."""

    seen: list[SeenHow]
    false_alarms: list[int] = Field(description="how many of how many good pictures that it had not seen")
    found: list[int] = Field(description="how many of how many defects on them")
    milliseconds: int = Field(description="of a picture")


class SettingsSearch(BaseModel):
    """Search for settings before learning, with its trials and its choice."""

    chosen: list[SeenHow]
    reason: str
    options: dict[str, object] = Field(description="of `flawscope fit` that were chosen")
    trials: list[TriedSettings] = Field(description="the last trial of each, the best first")
    ended: bool = Field(description="there was time for all; else learning again goes on")


class LearningResult(PromiseFacts):
    """Result of learning: expected rates, simulated defects found, and pictures to look at."""

    promise: str
    threshold: float | None = Field(description="null: each view has its own")
    interval: list[float] | None = Field(
        None, description="low and high: where the rate of this one model lies with 95 %"
    )
    rates: list[RateFacts] = Field([], description="what other false-alarm rates would mean")
    pictures: int
    found: dict[str, list[int]] = Field(description="simulated defects by size: found, all")
    unusual: list[UnusualPicture] = Field(
        alias="odd", description="good pictures that look most unlike the others"
    )
    failures: list[str]
    notes: list[str]
    questions: list[str] = Field([], description="open ones; going live says that these pictures are good")
    seconds: float
    examples: list[SimulatedExample]
    search: SettingsSearch | None = Field(None, description="null: nothing was tried")
    options: FitOptions = Field(description="that it was learnt with")
    shown: dict[str, list[float]] = Field(
        description="simulated defects by size: found, all, and the 95 % interval of the share found; "
        "empty where too few of a size were tried"
    )


class LearningOptions(FitOptions):
    """Options to learn with: the method, `flawscope fit`'s options, and how to go on."""

    model_config = ConfigDict(extra="forbid")
    method: str = "patchcore"
    go_on: bool = Field(False, description="where a stopped training left off")
    all_good: bool = Field(False, description="all pictures are good, whatever they are called")


class Conflict(BaseModel):
    """Two options that do not go together."""

    first: str
    second: str
    is_missing: bool = Field(description="the first one needs the second one")


class Conflicts(BaseModel):
    """Pairs of options that do not go together."""

    conflicts: list[Conflict]


class NewProductState(FitOptions):
    """State of a product that is being made."""

    name: str
    stage: Literal["collecting", "queued", "running", "stopped", "failed", "ready"]
    version: int = Field(description="grows with each change of the pictures")
    pictures: int
    left_out: int
    least: int = Field(description="pictures that it can learn from")
    most: int = Field(description="pictures that a product takes")
    check: PictureCheck | None
    method: str | None
    advised_preset: Literal["accurate"] | None = Field(description="by the number of pictures")
    before: int = Field(description="products that learn first")
    step: JobStep | None
    error: str | None
    error_options: list[str] = Field(description="options of learning that the error is about")
    disk_full: bool = Field(description="it failed for want of room on the disk, or waits for some")
    goes_on: bool = Field(description="a stopped training can go on")
    result: LearningResult | None
    changed: bool = Field(description="the pictures have changed since it learnt from them")
    live: dict[str, object] | None = Field(description="version and person, when it went live")
    live_is_this: bool = Field(description="what was learnt last is what is live")


class NewProducts(BaseModel):
    """Products that are being made."""

    products: list[NewProductState]


class NewPictures(BaseModel):
    """Names of a product's pictures: those to learn from, and those left out."""

    pictures: list[str]
    left_out: list[str]


class AddedPicture(BaseModel):
    """Result for a picture that was sent: kept, known already, or refused."""

    name: str
    status: Literal["kept", "known", "refused"]
    error: str | None
    code: RefusalCode | None = Field(description="why it was refused, for a program")


class AddedPictures(BaseModel):
    """Result for each picture that was sent; kept ones are on the disk."""

    results: list[AddedPicture]


class StillRequest(BaseModel):
    """Wish to measure a camera by frames of one part that lies still."""

    model_config = ConfigDict(extra="forbid")
    product: str = Field(description="whose camera it is")
    camera: int | None = Field(None, ge=1, le=1000, description="its number; null: the only one")


class StillMeasurement(BaseModel):
    """Measured property of a camera's frames."""

    code: str = Field(description="name for a program, such as noise or slow_movement")
    value: float | None = Field(description="null: the part shows no edges that tell it")
    unit: str
    limit: float = Field(description="from which value on it is a fault")
    fault: bool
    cost: str = Field(description="in words, in English")
    remedy: str


class StillState(BaseModel):
    """Measurements of a camera by frames of one part that lies still."""

    frames: int
    size: tuple[int, int] = Field(description="rows and columns of a frame")
    measurements: list[StillMeasurement]


class CaptureRequest(BaseModel):
    """Wish to add a camera's present frame, or the picture of an inspection."""

    model_config = ConfigDict(extra="forbid")
    product: str = Field(description="whose camera it is")
    camera: int | None = Field(None, ge=1, le=1000, description="its number; null: the only one")
    inspection: int | None = Field(
        None,
        ge=1,
        lt=2**63,
        description="of the product, whose picture is taken; null: what the camera shows",
    )
    part: str | None = Field(
        None,
        pattern=r"^\w{1,64}$",
        description="of which a camera with a view takes it: the picture is named by both",
    )


class LeaveOutRequest(BaseModel):
    """Wish to leave pictures out, or to take them back (`undo`)."""

    model_config = ConfigDict(extra="forbid")
    pictures: list[str] = Field(max_length=10_000)
    undo: bool = False


class TriedPicture(BaseModel):
    """Result for a picture that was tried: decision, score and overlay, or an error."""

    name: str
    decision: Literal["good", "anomalous"] | None = None
    score: float | None = None
    severity: float | None = None
    overlay: str | None = Field(None, description="WebP in base64, with what was found")
    error: str | None = None


class TriedPictures(BaseModel):
    """Results for the pictures that were tried."""

    results: list[TriedPicture]
