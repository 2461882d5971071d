"""Holds a model's answer about a picture, in numpy only and the same from every runtime.

It also detects whether many pictures are unlike a model's training pictures: another product, camera or
light.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from html import escape
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.size_bounds import UNCALIBRATED, SizeBounds, doubted_level
from flawscope.errors import InputError, pluralize
from flawscope.pictures.appearance import FEATURES, FeatureValues, describe_shifts, is_far
from flawscope.pictures.channels import displayed
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.pixel_sets import Pixels, connected_parts
from flawscope.results import drawing, html
from flawscope.results.findings import (
    BEYOND_PROMISE,
    OUTSIDE_LIGHT,
    PART_INCOMPLETE,
    WITHIN_TOLERANCE,
    Decision,
    Finding,
    severity_text,
)
from flawscope.results.found_parts import NOT_SEARCHED, FoundParts, PartSearch
from flawscope.results.region import KindSet, bound_sizes, measure_region
from flawscope.results.region import Region as Region
from flawscope.types import Facts, Json
from flawscope.views.frames import PartPose
from flawscope.views.geometry import Geometry

MAX_SHOWN_REGIONS = 5  # boxes that are named in a notebook
WITHIN = "within tolerance"  # decision on an anomalous picture that a person's rules tolerate
NEAR_WORDS = "near the threshold"
INCOMPLETE = "incomplete"  # decision on a part that was not seen whole, and so is not good
# readable on white and on black
DECISION_COLOURS = {"anomalous": "#dc2626", WITHIN: "#b45309", INCOMPLETE: "#b45309", "good": "#16a34a"}
PEAK_RADIUS = 1 / 16  # of the longer side of a network's view: a map is about that wide around a point


RIGHT = "right"
FALSE_ALARM = "false alarm"
MISSED = "missed"


def outcome(anomalous: bool, called: bool) -> str:
    """Compare a decision with the truth: right, missed or false alarm."""
    if anomalous == called:
        return RIGHT
    return MISSED if anomalous else FALSE_ALARM


@dataclass(frozen=True)
class ScoreLevels:
    """Levels of scores and of a map's values; all are fixed by calibration, the same for every picture.

    Attributes:
        score_threshold: A picture is anomalous when its score is above this.
        mask_threshold: Pixels whose map value is above this make a region.
        colour_range: Map values at both ends of the colours.
        outline: How much of a region is marked (`outlined`); 0: all of it.
        nearby: How far around a pixel a region's peak is searched, as a share of the map's longer side.
    """

    score_threshold: float
    mask_threshold: float
    colour_range: tuple[float, float]
    outline: float = 0.0
    nearby: float = PEAK_RADIUS

    @property
    def doubted(self) -> float:
        """Pixels around a region whose map value is above this may be wrong, too."""
        return doubted_level(self.colour_range[0], self.mask_threshold)

    def outlined(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the regions marked in a map [H, W] at any size, NaN where the network does not look.

        Of each 8-connected region above the mask threshold, the pixels are marked that are at least `outline`
        of the way from the level of good pictures (the dark end of the colours) to the region's peak nearby.
        A map is smooth: pixels around a strong defect are above the threshold, too. The peak nearby counts,
        as a large defect is not equally strong everywhere. A picture has a mask exactly where its map is
        above the threshold somewhere.
        """
        above = values > self.mask_threshold
        if not self.outline or not above.any():
            return above
        from scipy import ndimage

        labels, _ = ndimage.label(above, structure=np.ones((3, 3)))
        level = self.colour_range[0]
        window = 2 * round(max(values.shape) * self.nearby) + 1
        marked = np.zeros_like(above)
        for index, box in enumerate(ndimage.find_objects(labels), start=1):
            part = labels[box] == index
            heights = np.where(part, values[box] - level, -np.inf)
            peaks = ndimage.maximum_filter(heights, window, mode="constant", cval=-np.inf)
            marked[box] |= part & (heights >= self.outline * peaks)
        return marked


class Recognition(NamedTuple):
    """Answer to the question which product a picture shows.

    Attributes:
        product: Name of the product; None: the picture shows none of the products.
        nearest: The product with the nearest good picture, also where the picture shows none.
        p_value: Conformal p-value of the distance to it: rank among the nearest product's leave-one-out
            distances.
        distances: Distance to each product, in the products' order.
    """

    product: str | None
    nearest: str
    p_value: float
    distances: tuple[float, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """Score, decision and map of a picture.

    Attributes:
        NO_PRODUCT_NAME: Name of the product where a picture shows none of a joint model's.
        score: Raw score, higher is more anomalous, unbounded.
        p_value: How often a good picture scores as high; small is anomalous.
        severity: The score above the score threshold in units of good pictures' spread, comparable between
            models (`Calibration.severity`); above 0 exactly where the picture is anomalous.
        is_anomalous: The decision.
        map: [H, W] float32 at the size of the network; `picture_map()` brings it to the picture's size.
        geometry: Place of the map in the picture.
        levels: Thresholds of the decision.
        path: The picture's file; None: it came without one.
        shifts: How far the picture as a whole lies outside of the training pictures, for each of
            `appearance.FEATURES`; empty for a model that does not know.
        brightness: Mean of the channels, 0..1, over the pixels that count; None where these are too few.
        outside_light: Whether its light lies outside of the range that the rate holds for; None for a model
            without one.
        recognition: Product that the picture shows, by a joint model; a product that the caller named has no
            distances. Where it shows none of the products, score and map are those of the nearest. None by
            other models.
        parts: Place of the part, or of each of several. Where none is found, score and map are those of the
            picture as it lies; of several parts, the score is that of the worst.
        look: Thumbnail by which the views of a part are compared (`views.view_looks`); None: it is part of
            none.
        findings: Findings beside the score (`noticing`).
        region_kinds: Kinds of the regions' defects, in their order; empty for a model that knows none.
        size_bounds: How much larger a defect may be than the place that the map doubts.
        near: Whether it is called good, near the threshold (`calibration.near_threshold`): a person looks at
            these, too.
    """

    NO_PRODUCT_NAME: ClassVar[str] = "none of these"  # of a joint model's products

    score: float
    p_value: float
    severity: float
    is_anomalous: bool
    map: NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    levels: ScoreLevels
    path: str | None = None
    shifts: FeatureValues = ()
    brightness: float | None = None
    outside_light: bool | None = None
    recognition: Recognition | None = field(default=None, repr=False)
    parts: PartSearch = NOT_SEARCHED
    look: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    findings: tuple[Finding, ...] = ()
    region_kinds: tuple[KindSet, ...] = ()
    size_bounds: SizeBounds = UNCALIBRATED
    near: bool = False

    def noticing(self, *findings: Finding) -> Prediction:
        """Return the prediction with these findings after its own, and what they do to the decision."""
        decision = Decision(self.p_value, self.severity, self.is_anomalous).after(findings)
        near = self.near and not decision.is_anomalous
        return replace(self, findings=(*self.findings, *findings), near=near, **decision._asdict())

    @property
    def score_threshold(self) -> float:
        """The picture is anomalous when its score is above this."""
        return self.levels.score_threshold

    @property
    def product(self) -> str | None:
        """Product that the picture shows, of a joint model; None: none of them. None of other models, too."""
        return None if self.recognition is None else self.recognition.product

    @property
    def product_p_value(self) -> float | None:
        """P-value of the recognition: share of the nearest product's good pictures as far from the others.

        It is None where the call named the product, or the model has only one.
        """
        recognition = self.recognition
        return recognition.p_value if recognition and recognition.distances else None

    @property
    def part_found(self) -> bool | None:
        """Whether the part, or any of several, was found; None for a model that aligns none."""
        return self.parts.found

    @property
    def part_pose(self) -> PartPose | None:
        """Place of the part; None where it was not found, or not one is looked for."""
        return self.parts.pose

    @property
    def found_parts(self) -> FoundParts | None:
        """The parts where several are looked for; else None."""
        return self.parts.several

    @property
    def product_name(self) -> str:
        """The product, or "none of these"; empty for a model of one product."""
        return self.product or ("" if self.product_p_value is None else self.NO_PRODUCT_NAME)

    @property
    def decision(self) -> str:
        """The decision in words: "good", "anomalous", "within tolerance" or "incomplete".

        Within tolerance is an anomalous picture that a person's rules tolerate. Incomplete is a picture of a
        part in several views that was not seen whole.
        """
        if self.is_tolerated:
            return WITHIN
        if self.is_anomalous:
            return "anomalous"
        is_incomplete = any(finding.code == PART_INCOMPLETE for finding in self.findings)
        return INCOMPLETE if is_incomplete else "good"

    @property
    def is_tolerated(self) -> bool:
        """Whether it is anomalous by its score alone, and within the tolerances."""
        codes = {finding.code for finding in self.findings}
        decided = any(finding.decides for finding in self.findings)
        return self.is_anomalous and WITHIN_TOLERANCE in codes and not decided

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Marked pixels, [H, W] bool at the size of the network."""
        return self.outlined(self.map)

    def outlined(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the regions marked in this picture's map at any size (`ScoreLevels.outlined`)."""
        return self.levels.outlined(values)

    @property
    def region_pixels(self) -> tuple[Pixels, ...]:
        """Rows and columns of the map's pixels in each of `regions`, in their order."""
        return tuple(pixels for _, pixels in self._peaks)

    @cached_property
    def _peaks(self) -> list[tuple[float, Pixels]]:
        """The largest value of the map in each of `regions`, and their pixels."""
        if not self.mask.any():
            return []
        _, parts = connected_parts(self.mask)
        peaks = [(float(self.map[pixels].max()), pixels) for pixels in parts]
        return sorted(peaks, key=lambda pair: -pair[0])

    @cached_property
    def doubted_pixels(self) -> tuple[Pixels, ...]:
        """Rows and columns of the map's pixels that may be wrong around each of `regions`, in their order.

        They are the connected place above `ScoreLevels.doubted`, which several regions may share.
        """
        labels, parts = connected_parts(self.map > self.levels.doubted)
        return tuple(parts[labels[rows[0], columns[0]] - 1] for rows, columns in self.region_pixels)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The mask's 8-connected parts, largest peak first. Independent of `is_anomalous`."""
        found = []
        geometry, (sy, sx) = self.geometry, self.geometry.scale
        bounds = None if geometry.mm_per_pixel is None or not self._peaks else self._bounded_sizes()
        for number, (peak, (rows, columns)) in enumerate(self._peaks):
            cy, cx = float(rows.mean()) + 0.5, float(columns.mean()) + 0.5
            x, y, _, _ = geometry.to_picture((cx, cy, cx, cy))
            facts = measure_region(rows, columns, geometry)
            if self.region_kinds:
                facts |= self.region_kinds[number]._asdict()
            if bounds is not None:
                facts |= bounds[number]
            box = geometry.box_around(rows, columns)
            area = float(len(rows) / (sy * sx))
            found.append(Region(box=box, area=area, peak=peak, centroid=(x, y), **facts))
        return tuple(found)

    def _bounded_sizes(self) -> list[Json]:
        """Bounds of each of `regions`; those that share a place are measured once."""
        places = {id(rows): (rows, columns) for rows, columns in self.doubted_pixels}
        found = {key: bound_sizes(*place, self.geometry, self.size_bounds) for key, place in places.items()}
        return [found[id(rows)] for rows, _ in self.doubted_pixels]

    def picture_map(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Return the map at the picture's size, or over the picture scaled to `size` (height, width).

        It is NaN where the network does not look. It takes 4 bytes a pixel, and is computed by each call.
        """
        return (self.geometry if size is None else self.geometry.with_picture_size(size)).warp(self.map)

    def picture_mask(self) -> NDArray[np.bool_]:
        """Mask at the picture's size; False where the network does not look."""
        return self.outlined(self.picture_map())

    def over(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], drawing.Colour]:
        """Return the heat map over a picture, the marked pixels, and the colour of their outline.

        Args:
            picture: [H, W, 3], the picture at any size.

        Returns:
            The heat map [H, W, 3]; the pixels [H, W] bool; the colour.
        """
        values = self.picture_map((picture.shape[0], picture.shape[1]))
        heat = drawing.overlay(picture, values, *self.levels.colour_range)
        marked = self.outlined(values)
        heat = drawing.draw_squares(heat, self.squares(heat.shape[:2]))
        named = drawing.draw_names(heat, self._named_places(heat.shape[:2]))
        return named, marked, drawing.outline_colour(self.is_tolerated)

    def _named_places(self, size: tuple[int, int]) -> list[tuple[float, float, str]]:
        """Return the lower left corners x, y of the strongest regions' boxes, each with the region's kinds.

        They are in pixels of the picture scaled to (H, W). There are none where the model names no kinds.
        """
        if not self.region_kinds:
            return []
        down, across = (side / whole for side, whole in zip(size, self.geometry.picture_size, strict=True))
        some = self.regions[:MAX_SHOWN_REGIONS]
        return [(r.box[0] * across, r.box[3] * down, r.kinds_text) for r in some]

    def drawing_facts(self) -> Json:
        """Values that JSON knows, by which `from_map` draws the map as this prediction does."""
        return {
            **asdict(self.levels),
            "geometry": self.geometry.to_dict(),
            "part_pose": self.part_pose and self.part_pose.to_dict(),
            "found_parts": self.found_parts and self.found_parts.to_dict(),
        }

    @classmethod
    def from_map(cls, values: NDArray[np.float32], facts: Facts) -> Prediction:
        """A prediction to be drawn, of a map and its `drawing_facts`; it knows no score and decides nothing.

        KeyError, TypeError: they are damaged.
        """
        pose = facts.get("part_pose")
        several = facts.get("found_parts")
        levels = {field.name: facts[field.name] for field in fields(ScoreLevels)}
        return cls(
            score=0.0,
            p_value=0.0,
            severity=0.0,
            is_anomalous=False,
            map=values,
            geometry=Geometry.from_dict(facts["geometry"]),
            levels=ScoreLevels(**levels | {"colour_range": tuple(facts["colour_range"])}),
            parts=PartSearch(None, pose and PartPose(**pose), several and FoundParts.from_dict(several)),
        )

    def squares(self, size: tuple[int, int]) -> list[drawing.Square]:
        """Squares around the parts that were found, in the picture scaled to (H, W)."""
        found = [] if self.part_pose is None else [drawing.Square(self.part_pose.corners())]
        if self.found_parts is not None:
            found = self.found_parts.squares()
        height, width = self.geometry.picture_size
        return [square.scaled(size[1] / width, size[0] / height) for square in found]

    def with_note(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a drawing [H, W, 3] of the picture with the remark, beside its parts if there is room."""
        return drawing.draw_note(drawn, self.remark, self.squares((drawn.shape[0], drawn.shape[1])))

    def draw(self, picture: PictureSource | None = None) -> NDArray[np.uint8]:
        """The picture [H, W, 3] RGB with heat map and outline of the mask; colours fixed by calibration.

        Args:
            picture: any that `predict` takes, RGB; by default the file that this is a prediction of.

        Raises:
            InputError: it cannot be read, or it was no file and is not given.
        """
        if picture is None and self.path is None:
            raise InputError("draw() knows only pictures from files: give the picture, draw(picture)")
        shown = displayed(self.path or "" if picture is None else picture)
        return self.with_note(drawing.contour(*self.over(shown)))

    @property
    def remark(self) -> str:
        """The findings in one line; empty: none."""
        return "; ".join(finding.words for finding in self.findings)

    def __repr__(self) -> str:
        regions = f", {pluralize(len(self.regions), 'region')}" if self.map.size else ""
        return (
            f"<Prediction {self.decision}, severity {severity_text(self.severity)}, p {self.p_value:.3g}, "
            f"score {self.score:.4g} (threshold {self.score_threshold:.4g}){regions}"
            f"{f', {self.product_name}' if self.product_name else ''}"
            f"{f', {self.path}' if self.path else ''}>"
        )

    def _repr_html_(self) -> str:
        return prediction_html(self)

    def to_dict(self) -> Json:
        """The document that `predict --json` prints."""
        shifts = {}
        if self.shifts:
            for feature, shift in zip(FEATURES, self.shifts, strict=True):
                shifts[feature.name] = round(shift, 3)
        document: Json = {
            "path": self.path,
            "score": self.score,
            "p_value": self.p_value,
            "severity": self.severity,
            "decision": self.decision,
            "is_anomalous": self.is_anomalous,
            "near": self.near,
            "score_threshold": self.score_threshold,
            "mask_threshold": self.levels.mask_threshold,
            "outline": self.levels.outline,
            "shifts": shifts,
            "regions": [region.to_dict() for region in self.regions],
        }
        if self.outside_light is not None:
            document[OUTSIDE_LIGHT] = self.outside_light
        if self.product_name:
            document |= self._product_entries()
        document |= self.parts.to_dict()
        if self.findings:
            document["findings"] = [finding.to_dict() for finding in self.findings]
        return document

    def _product_entries(self) -> Json:
        return {"product": self.product, "product_p_value": self.product_p_value}


def _regions_html(regions: Sequence[Region]) -> str:
    """The boxes of the first regions, and the number of the others."""
    boxes = []
    for region in regions[:MAX_SHOWN_REGIONS]:
        box = ", ".join(f"{side:.0f}" for side in region.box)
        kinds = f" {escape(region.kinds_text)}" if region.kinds_text else ""
        boxes.append(f"({box}){kinds}")
    more = f" and {len(regions) - MAX_SHOWN_REGIONS} more" if len(regions) > MAX_SHOWN_REGIONS else ""
    return f"regions {' '.join(boxes)}{more}"


def prediction_html(prediction: Prediction, caption: str = "") -> str:
    """Return HTML with the picture, its heat map and the decision.

    The heat map is alone where the picture cannot be read. `caption` stands beside the decision.
    """
    name = prediction.path or ""
    words = [
        f"<b style='color:{DECISION_COLOURS[prediction.decision]}'>{prediction.decision}</b>",
        f"severity {severity_text(prediction.severity)}",
        f"p {prediction.p_value:.3f}",
        f"score {prediction.score:.4g}, threshold {prediction.score_threshold:.4g}",
    ]
    words += [f"<b>{escape(finding.words)}</b>" for finding in prediction.findings]
    if caption:
        words.append(escape(caption))
    if name:
        words.append(f"<code>{html.escape_text(name)}</code>")
    if prediction.regions:
        words.append(_regions_html(prediction.regions))
    pictures = "".join(html.image_tag(panel) for panel in _panels(prediction))
    return f"<div><div>{pictures}</div><div>{' &nbsp; '.join(words)}</div></div>"


def _panels(found: Prediction) -> list[NDArray[np.uint8]]:
    try:
        if found.path is None:
            raise InputError("not known")
        picture = html.shrink(displayed(found.path))
        return [picture, found.with_note(drawing.contour(*found.over(picture)))]
    except InputError:  # moved since, or never a file
        return (
            [html.shrink(drawing.colour_map(found.map, *found.levels.colour_range))] if found.map.size else []
        )


MIN_WARNING_PICTURES = 4  # pictures that a warning needs
MAX_REMEMBERED = 1000  # pictures that are remembered, the latest: a stream may have no end
MAJORITY = 0.5  # share of such pictures
MIN_ANOMALOUS_SHARE = 0.9  # share of anomalous pictures
HIGH_SEVERITY = 10.0  # severity of most
MIN_EQUAL_SEVERITY = 0.5  # share of the median severity that nearly all reach: defects differ more
RECALIBRATE_REMEDY = "set the score threshold anew with `flawscope calibrate`, or fit anew"
OTHER_MODEL_REMEDY = (
    "is the model of another product, camera or light? Take this product's model, or fit anew with good "
    "pictures like these; where maps of good pictures still look right, `flawscope calibrate` is enough"
)
CHANGED_LIGHT_REMEDY = (
    "has the camera or the light changed? The false-alarm rate is promised for pictures like those of the "
    "fit; `flawscope calibrate` with new good pictures renews the promise"
)


def codes_beyond_promise(found: Prediction) -> list[str]:
    """Codes of the findings for which the false-alarm rate is not promised, of a picture called good."""
    return (
        []
        if found.is_anomalous
        else [finding.code for finding in found.findings if finding.is_beyond_promise]
    )


@dataclass
class MismatchDetector:
    """Collects predictions, and warns of pictures that do not belong to the model.

    Attributes:
        false_alarm_rate: Share of good pictures that is expected to be called anomalous.
        noun: Name of the pictures in the warning.
        defective: Whether some pictures are known to be defective: all of them may be anomalous then.
        count: Number of pictures added.
        anomalous: Number of anomalous pictures, without the tolerated ones.
        tolerated: Number of tolerated pictures.
        near: Number of pictures called good, near the threshold.
        beyond_promise: Number of pictures called good for which the rate is not promised, by the finding's
            code.
        severities: Severities of the latest pictures.
        shifts: Shifts of their features.
    """

    false_alarm_rate: float
    noun: str = "pictures"
    defective: bool = False
    count: int = 0
    anomalous: int = 0
    tolerated: int = 0
    near: int = 0
    beyond_promise: Counter[str] = field(default_factory=Counter)
    severities: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))
    shifts: deque[FeatureValues] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))

    def add(self, prediction: Prediction) -> None:
        """Add a prediction, and count it."""
        self.count += 1
        self.anomalous += prediction.is_anomalous and not prediction.is_tolerated
        self.tolerated += prediction.is_tolerated
        self.near += prediction.near
        self.beyond_promise.update(codes_beyond_promise(prediction))
        self.severities.append(prediction.severity)
        if prediction.shifts:
            self.shifts.append(prediction.shifts)

    def beyond_line(self) -> str:
        """Line on the pictures called good for which the rate is not promised; empty: there are none."""
        said = [f"{count} {BEYOND_PROMISE[code]}" for code, count in self.beyond_promise.items()]
        return f"called good, though the rate is not promised for them: {', '.join(said)}" if said else ""

    def warning(self) -> str:
        """Warning for a person; empty where there is no reason for one."""
        if self.count < MIN_WARNING_PICTURES:
            return ""
        far = [shift for shift in self.shifts if is_far(shift)]
        if self.shifts and len(far) >= MAJORITY * len(self.shifts):
            remedy = OTHER_MODEL_REMEDY if self.anomalous >= MAJORITY * self.count else CHANGED_LIGHT_REMEDY
            return (
                f"{len(far)} of {len(self.shifts)} {self.noun} look unlike the training pictures as a whole "
                f"({describe_shifts(far)}), {self.anomalous} of {self.count} are anomalous: {remedy}"
            )
        if self.anomalous < MIN_ANOMALOUS_SHARE * self.count or self.false_alarm_rate > MAJORITY:
            return ""
        return self._too_many_warning()

    def _too_many_warning(self) -> str:
        """Warning that too many are anomalous; empty where defective ones explain them."""
        every = f"{self.anomalous} of {self.count} {self.noun} are anomalous"
        low, middle, high = np.quantile(np.asarray(self.severities), [0.1, 0.5, 0.9])
        alike = middle >= HIGH_SEVERITY and low >= MIN_EQUAL_SEVERITY * middle
        if alike:
            every += f", all of about the same severity ({low:.0f} to {high:.0f})"
        if alike and not self.shifts:
            return f"{every}: {OTHER_MODEL_REMEDY}"
        if self.defective:
            return ""
        if self.shifts:
            every += ", although light, colour and detail are as in the training pictures"
        asked = (
            "is it the same product, in the same place and position? Look at some"
            if alike
            else "look at some"
        )
        return f"{every}: {asked}. If they are good, {RECALIBRATE_REMEDY}"
