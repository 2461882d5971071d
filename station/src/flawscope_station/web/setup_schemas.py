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
    pictures: list[str] = Field(description="pictures with the fault; empty: all pictures")


class PictureCheck(BaseModel):
    """Result of the check of a product's pictures."""

    findings: list[PictureFinding]
    sizes: list[dict[str, int]] = Field(
        description="sizes of the pictures: width, height and number of pictures"
    )
    align: Literal["shift", "turn"] | None = Field(
        None, description="how parts lie differently, by their contours; null: they lie alike, or unknown"
    )
    current: bool = Field(description="true: the pictures have not changed since")


class UnusualPicture(BaseModel):
    """Good picture that looks unlike the others."""

    name: str
    score: float
    reason: str | None = Field(
        None,
        description="why it is suspicious; null: it is only among the most unusual pictures",
        examples=["nothing", "apart", "like_defects", "alone", "high"],
    )


class SimulatedExample(BaseModel):
    """Good picture with a simulated defect, and whether the model found it."""

    file: str
    size: str
    found: bool


def _schema_of(option: options.FitOption) -> tuple[object, object]:
    """Return the type and the pydantic field of an option that *New product* shows.

    It is an option of `flawscope fit`, too. The field's default is null: `flawscope fit` then uses its own
    default.
    """
    form = option.form
    meaning = option.meaning
    assert form is not None, "New product has a form for each of its options"
    if form.choices:
        return Literal[form.choices] | None, Field(None, description=meaning)
    if form.kind == "switch":
        return bool | None, Field(None, description=meaning)
    if form.pattern is not None:
        return str | None, Field(None, description=meaning, pattern=form.pattern)
    is_percent = form.kind == "percent"  # typed as a percentage, and sent as a share
    maximum = form.most / 100 if is_percent and form.most is not None else form.most
    return float | None, Field(None, description=meaning, gt=form.above, le=maximum)


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
    expected: float = Field(
        description="expected share of good pictures, or parts, that are called anomalous"
    )
    at_most: float | None = Field(
        None,
        description="95 % bound on this model's rate, for all rates at once: it also holds for a rate that "
        "was chosen after a look at its results; null: there is none",
    )
    supported: bool = Field(description="true: there are enough good pictures for the rate")
    missing: int = Field(description="number of good pictures, or parts, that are missing for the rate")
    threshold: float | None = Field(description="threshold of scores; null: each view has its own")
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
    false_alarms: list[int] = Field(description="good pictures not seen in learning: called anomalous, all")
    found: list[int] = Field(description="simulated defects on these pictures: found, all")
    milliseconds: int = Field(description="time for a picture")


class SettingsSearch(BaseModel):
    """Search for settings before learning, with its trials and its choice."""

    chosen: list[SeenHow]
    reason: str
    options: dict[str, object] = Field(description="chosen options of `flawscope fit`")
    trials: list[TriedSettings] = Field(description="last trial of each settings, the best first")
    ended: bool = Field(
        description="true: there was time for all trials; else learning again goes on with the search"
    )


class LearningResult(PromiseFacts):
    """Result of learning: expected rates, simulated defects found, and pictures to look at."""

    promise: str
    threshold: float | None = Field(description="threshold of scores; null: each view has its own")
    interval: list[float] | None = Field(
        None, description="95 % interval of this model's rate: low end, high end"
    )
    rates: list[RateFacts] = Field([], description="other false-alarm rates, with their results")
    pictures: int
    found: dict[str, list[int]] = Field(description="simulated defects by size: found, all")
    unusual: list[UnusualPicture] = Field(
        alias="odd", description="good pictures that look unlike the others, the most unusual first"
    )
    failures: list[str]
    notes: list[str]
    questions: list[str] = Field(
        [], description="open questions about pictures; going live answers that they are good"
    )
    seconds: float
    examples: list[SimulatedExample]
    search: SettingsSearch | None = Field(None, description="search for settings; null: there was none")
    options: FitOptions = Field(description="options that were used")
    shown: dict[str, list[float]] = Field(
        description="simulated defects by size: found, all, and the 95 % interval of the share found; "
        "empty where too few of a size were tried"
    )


class LearningOptions(FitOptions):
    """Options to learn with: the method, `flawscope fit`'s options, and how to go on."""

    model_config = ConfigDict(extra="forbid")
    method: str = "patchcore"
    go_on: bool = Field(default=False, description="true: go on where a stopped training ended")
    all_good: bool = Field(default=False, description="true: all pictures are good, whatever their names say")


class Conflict(BaseModel):
    """Two options that contradict each other."""

    first: str
    second: str
    is_missing: bool = Field(
        description="true: the first option needs the second; false: they exclude each other"
    )


class Conflicts(BaseModel):
    """Pairs of options that contradict each other."""

    conflicts: list[Conflict]


class NewProductState(FitOptions):
    """State of a product that is being made."""

    name: str
    stage: Literal["collecting", "queued", "running", "stopped", "failed", "ready"]
    version: int = Field(description="grows with each change of the pictures")
    pictures: int
    left_out: int
    least: int = Field(description="smallest number of pictures to learn from")
    most: int = Field(description="largest number of pictures of a product")
    check: PictureCheck | None
    method: str | None
    advised_preset: Literal["accurate"] | None = Field(
        description="preset that suits the number of pictures; null: the default"
    )
    before: int = Field(description="number of models that are made before its model")
    step: JobStep | None
    error: str | None
    error_options: list[str] = Field(description="options of learning that the error is about")
    disk_full: bool = Field(
        description="true: learning failed because the disk is full, or waits until it has room"
    )
    goes_on: bool = Field(description="true: a stopped training can go on")
    result: LearningResult | None
    changed: bool = Field(description="true: the pictures have changed since the last learning")
    live: dict[str, object] | None = Field(
        description="version that went live, and the person who did it; null: no version went live"
    )
    live_is_this: bool = Field(description="true: the last learnt model is live")


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
    """Wish to measure a camera from frames of a part that lies still."""

    model_config = ConfigDict(extra="forbid")
    product: str = Field(description="product with the camera")
    camera: int | None = Field(
        None, ge=1, le=1000, description="number of the camera among the product's; null: the only one"
    )


class StillMeasurement(BaseModel):
    """Measured property of a camera's frames."""

    code: str = Field(description="name of the property for programs, such as noise or slow_movement")
    value: float | None = Field(description="measured value; null: the part has no edges to measure it by")
    unit: str
    limit: float = Field(description="value from which on it is a fault")
    fault: bool
    cost: str = Field(description="harm of the fault in words, in English")
    remedy: str


class StillState(BaseModel):
    """Measurements of a camera from frames of a part that lies still."""

    frames: int
    size: tuple[int, int] = Field(description="rows and columns of a frame")
    measurements: list[StillMeasurement]


class CaptureRequest(BaseModel):
    """Wish to add a camera's current frame, or the picture of an inspection."""

    model_config = ConfigDict(extra="forbid")
    product: str = Field(description="product with the camera")
    camera: int | None = Field(
        None, ge=1, le=1000, description="number of the camera among the product's; null: the only one"
    )
    inspection: int | None = Field(
        None,
        ge=1,
        lt=2**63,
        description="inspection of the product whose picture is added; null: the camera's current frame is",
    )
    part: str | None = Field(
        None,
        pattern=r"^\w{1,64}$",
        description="number of the part, for a camera with a view: number and view make the picture's name",
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
    overlay: str | None = Field(None, description="picture with heat map and contours, WebP in base64")
    error: str | None = None


class TriedPictures(BaseModel):
    """Results for the pictures that were tried."""

    results: list[TriedPicture]
