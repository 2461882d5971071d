"""Holds a model's answer about a picture, in numpy only and the same from every runtime.

It also detects whether many pictures are unlike a model's training pictures: another product, camera or
light.
"""

from __future__ import annotations

import operator
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

MAX_SHOWN_REGIONS = 5  # regions that a notebook lists, and that an overlay names
WITHIN = "within tolerance"  # decision on an anomalous picture that the rules of tolerance allow
NEAR_WORDS = "near the threshold"
INCOMPLETE = "incomplete"  # decision on a good part of which views are missing
# Colours that are readable on white and on black
DECISION_COLOURS = {"anomalous": "#dc2626", WITHIN: "#b45309", INCOMPLETE: "#b45309", "good": "#16a34a"}
PEAK_RADIUS = 1 / 16  # of a map's longer side: a defect of one point makes a place of about this radius

# Outcomes of a decision
RIGHT = "right"
FALSE_ALARM = "false alarm"
MISSED = "missed"


def outcome(is_defective: bool, is_called_anomalous: bool) -> str:
    """Return whether a decision is right, missed or a false alarm."""
    if is_defective == is_called_anomalous:
        return RIGHT
    return MISSED if is_defective else FALSE_ALARM


@dataclass(frozen=True)
class ScoreLevels:
    """Levels of scores and of a map's values; all are fixed by calibration, the same for every picture.

    Attributes:
        score_threshold: A picture is anomalous when its score is above this.
        mask_threshold: Pixels whose map value is above this make a region.
        colour_range: Map values at both ends of the colours.
        outline: Share of the way from the level of good pictures to a region's peak, above which a pixel is
            marked (`outlined`); 0: the whole region is.
        nearby: Distance around a pixel in which a region's peak is searched, as a share of the map's longer
            side.
    """

    score_threshold: float
    mask_threshold: float
    colour_range: tuple[float, float]
    outline: float = 0.0
    nearby: float = PEAK_RADIUS

    @property
    def doubted(self) -> float:
        """Map value above which pixels around a region may be defective, too."""
        return doubted_level(self.colour_range[0], self.mask_threshold)

    def outlined(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the marked pixels [H, W] of a map.

        A pixel is marked if it lies in an 8-connected region above the mask threshold and

            value - good >= outline * (peak - good),

        where `good` is the level of good pictures, the dark end of the colours, and `peak` the region's
        largest value nearby. A map is smooth: without this condition, pixels around a strong defect would
        be marked, too. The peak is searched nearby since a large defect is not equally strong everywhere. The
        pixel of the peak is always marked, so that each region keeps a marked pixel.

        Args:
            values: [H, W], the map at any size; NaN where the network does not look.
        """
        above = values > self.mask_threshold
        if not self.outline or not above.any():
            return above
        from scipy import ndimage

        labels, _ = ndimage.label(above, structure=np.ones((3, 3)))
        good_level, _ = self.colour_range
        window = 2 * round(max(values.shape) * self.nearby) + 1
        marked = np.zeros_like(above)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            region = labels[box] == label
            heights = np.where(region, values[box] - good_level, -np.inf)
            peaks = ndimage.maximum_filter(heights, window, mode="constant", cval=-np.inf)
            marked[box] |= region & (heights >= self.outline * peaks)
        return marked


class Recognition(NamedTuple):
    """Answer to the question which product a picture shows.

    Attributes:
        product: Name of the product; None: the picture shows none of the products.
        nearest: The product with the nearest good picture, also where the picture shows no product.
        p_value: Conformal p-value of the distance to `nearest`: its rank among the leave-one-out distances of
            that product.
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
        p_value: Share of good pictures that score as high; small is anomalous.
        severity: The score above the score threshold in units of good pictures' spread, comparable between
            models (`Calibration.severity`); above 0 exactly where the picture is anomalous.
        is_anomalous: The decision.
        map: [H, W] float32 at the size of the network; `picture_map()` brings it to the picture's size.
        geometry: Place of the map in the picture.
        levels: Thresholds of the decision.
        path: The picture's file; None: it came without one.
        shifts: Distance of the picture as a whole from the training pictures, for each of
            `appearance.FEATURES`; empty for a model that did not measure them.
        brightness: Mean of the channels, 0..1, over the pixels that count; None where these are too few.
        outside_light: Whether the picture's light lies outside of the range that the rate holds for; None for
            a model without such a range.
        recognition: Product that the picture shows, by a joint model; None by other models. If the picture
            shows none of the products, score and map are those of the nearest product. If the caller named
            the product, there are no distances.
        parts: Place of the part, or of each of several parts. If no part is found, score and map are those of
            the unaligned picture. If there are several parts, the score is that of the worst.
        look: Thumbnail by which the views of a part are compared (`views.view_looks`); None: the model is not
            for a view of a part.
        findings: Findings beside the score (`noticing`).
        region_kinds: Kinds of the defects of `regions`, in their order; empty for a model without kinds.
        size_bounds: Factors by which a defect may be larger than the pixels above `ScoreLevels.doubted`.
        near: Whether the picture is called good, near the threshold (`calibration.near_threshold`), so that a
            person should look at it, too.
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
        """Return the prediction with further findings, and with the decision that they lead to."""
        decision = Decision(self.p_value, self.severity, self.is_anomalous).after(findings)
        near = self.near and not decision.is_anomalous
        return replace(self, findings=(*self.findings, *findings), near=near, **decision._asdict())

    @property
    def score_threshold(self) -> float:
        """Score above which the picture is anomalous."""
        return self.levels.score_threshold

    @property
    def product(self) -> str | None:
        """Product of a joint model that the picture shows; None: it shows none, or the model is not joint."""
        return None if self.recognition is None else self.recognition.product

    @property
    def product_p_value(self) -> float | None:
        """P-value of the recognition (`Recognition.p_value`).

        The value is None if the caller named the product, or the model is not joint.
        """
        recognition = self.recognition
        return recognition.p_value if recognition and recognition.distances else None

    @property
    def part_found(self) -> bool | None:
        """Whether a part was found; None: the model does not search for parts."""
        return self.parts.found

    @property
    def part_pose(self) -> PartPose | None:
        """Place of the part; None where it was not found, or the model does not search for a single part."""
        return self.parts.pose

    @property
    def found_parts(self) -> FoundParts | None:
        """The parts, if the model searches for several; else None."""
        return self.parts.several

    @property
    def product_name(self) -> str:
        """The product, or "none of these"; empty for a model of one product."""
        if self.product:
            return self.product
        return "" if self.product_p_value is None else self.NO_PRODUCT_NAME

    @property
    def decision(self) -> str:
        """The decision in words: "good", "anomalous", "within tolerance" or "incomplete".

        "Within tolerance": the picture is anomalous, and the rules of tolerance allow it. "Incomplete": the
        picture is good, and other views of its part are missing.
        """
        if self.is_tolerated:
            return WITHIN
        if self.is_anomalous:
            return "anomalous"
        is_incomplete = any(finding.code == PART_INCOMPLETE for finding in self.findings)
        return INCOMPLETE if is_incomplete else "good"

    @property
    def is_tolerated(self) -> bool:
        """Whether the picture is anomalous by its score alone, and within tolerance."""
        is_within = any(finding.code == WITHIN_TOLERANCE for finding in self.findings)
        has_deciding_finding = any(finding.decides for finding in self.findings)
        return self.is_anomalous and is_within and not has_deciding_finding

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Marked pixels, [H, W] bool at the size of the network."""
        return self.outlined(self.map)

    def outlined(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the marked pixels [H, W] of this picture's map at any size (`ScoreLevels.outlined`)."""
        return self.levels.outlined(values)

    @property
    def region_pixels(self) -> tuple[Pixels, ...]:
        """Rows and columns of the map's pixels in each of `regions`, in their order."""
        return tuple(pixels for _, pixels in self._peaks)

    @cached_property
    def _peaks(self) -> list[tuple[float, Pixels]]:
        """The largest value of the map in each of `regions`, with the region's pixels; largest first."""
        if not self.mask.any():
            return []
        _, parts = connected_parts(self.mask)
        peaks = [(float(self.map[pixels].max()), pixels) for pixels in parts]
        return sorted(peaks, key=operator.itemgetter(0), reverse=True)

    @cached_property
    def doubted_pixels(self) -> tuple[Pixels, ...]:
        """Rows and columns of the pixels, in and around each region of the map, that may be defective.

        For each region, these are the connected pixels above `ScoreLevels.doubted` that hold the region.
        Several regions may share such pixels.
        """
        labels, places = connected_parts(self.map > self.levels.doubted)
        region_labels = [labels[rows[0], columns[0]] for rows, columns in self.region_pixels]
        return tuple(places[label - 1] for label in region_labels)  # labels begin with 1

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The mask's 8-connected parts, largest peak first; good pictures may have some, too."""
        regions = []
        geometry = self.geometry
        scale_y, scale_x = geometry.scale
        has_bounds = geometry.mm_per_pixel is not None and bool(self._peaks)
        bounds = self._bound_region_sizes() if has_bounds else None
        for index, (peak, (rows, columns)) in enumerate(self._peaks):
            map_y = float(rows.mean()) + 0.5  # + 0.5: pixel i reaches from i to i + 1
            map_x = float(columns.mean()) + 0.5
            x, y, _, _ = geometry.to_picture((map_x, map_y, map_x, map_y))
            facts = measure_region(rows, columns, geometry)
            if self.region_kinds:
                facts |= self.region_kinds[index]._asdict()
            if bounds is not None:
                facts |= bounds[index]
            box = geometry.box_around(rows, columns)
            area = float(len(rows) / (scale_y * scale_x))
            regions.append(Region(box=box, area=area, peak=peak, centroid=(x, y), **facts))
        return tuple(regions)

    def _bound_region_sizes(self) -> list[Json]:
        """Return `bound_sizes` of each of `regions`; pixels that several regions share are measured once."""
        bounds_by_place: dict[int, Json] = {}  # `id` of an array of rows, which regions may share -> bounds
        for rows, columns in self.doubted_pixels:
            if id(rows) not in bounds_by_place:
                bounds_by_place[id(rows)] = bound_sizes(rows, columns, self.geometry, self.size_bounds)
        return [bounds_by_place[id(rows)] for rows, _ in self.doubted_pixels]

    def picture_map(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Return the map at the picture's size, or at another `size` (height, width) of the picture.

        The map is NaN where the network does not look. Each call computes it anew, at 4 bytes a pixel.
        """
        geometry = self.geometry if size is None else self.geometry.with_picture_size(size)
        return geometry.warp(self.map)

    def picture_mask(self) -> NDArray[np.bool_]:
        """Return the mask at the picture's size; False where the network does not look."""
        return self.outlined(self.picture_map())

    def over(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], drawing.Colour]:
        """Return the heat map over a picture, the marked pixels, and the colour of their contours.

        Args:
            picture: [H, W, 3], the picture at any size.

        Returns:
            The heat map [H, W, 3]; the pixels [H, W] bool; the colour.
        """
        height, width = picture.shape[:2]
        values = self.picture_map((height, width))
        heat = drawing.overlay(picture, values, *self.levels.colour_range)
        with_squares = drawing.draw_squares(heat, self.squares((height, width)))
        with_names = drawing.draw_names(with_squares, self._kind_labels((height, width)))
        return with_names, self.outlined(values), drawing.outline_colour(self.is_tolerated)

    def _kind_labels(self, size: tuple[int, int]) -> list[tuple[float, float, str]]:
        """Return labels with the kinds of the strongest regions: x, y and text of each.

        x, y is the lower left corner of the region's box, in pixels of the picture scaled to `size` (H, W).
        There are no labels if the model names no kinds.
        """
        if not self.region_kinds:
            return []
        picture_height, picture_width = self.geometry.picture_size
        scale_y = size[0] / picture_height
        scale_x = size[1] / picture_width
        labels = []
        for region in self.regions[:MAX_SHOWN_REGIONS]:
            left, _, _, bottom = region.box
            labels.append((left * scale_x, bottom * scale_y, region.kinds_text))
        return labels

    def drawing_facts(self) -> Json:
        """Return, as values for JSON, what `from_map` needs to make a prediction that looks like this one."""
        return {
            **asdict(self.levels),
            "geometry": self.geometry.to_dict(),
            "part_pose": None if self.part_pose is None else self.part_pose.to_dict(),
            "found_parts": None if self.found_parts is None else self.found_parts.to_dict(),
        }

    @classmethod
    def from_map(cls, values: NDArray[np.float32], facts: Facts) -> Prediction:
        """Return a prediction that can only be drawn: its score and decision mean nothing.

        Args:
            values: [H, W], the map.
            facts: Values of `drawing_facts`.

        Raises:
            KeyError: A fact is missing.
            TypeError: A fact is damaged.
        """
        pose = facts.get("part_pose")
        found_parts = facts.get("found_parts")
        levels = {field.name: facts[field.name] for field in fields(ScoreLevels)}
        levels["colour_range"] = tuple(levels["colour_range"])
        return cls(
            score=0.0,
            p_value=0.0,
            severity=0.0,
            is_anomalous=False,
            map=values,
            geometry=Geometry.from_dict(facts["geometry"]),
            levels=ScoreLevels(**levels),
            parts=PartSearch(
                p_value=None,
                pose=PartPose(**pose) if pose else None,
                several=FoundParts.from_dict(found_parts) if found_parts else None,
            ),
        )

    def squares(self, size: tuple[int, int]) -> list[drawing.Square]:
        """Return squares around the parts that were found, in the picture scaled to `size` (H, W)."""
        if self.found_parts is not None:
            squares = self.found_parts.squares()
        elif self.part_pose is not None:
            squares = [drawing.Square(self.part_pose.corners())]
        else:
            squares = []
        picture_height, picture_width = self.geometry.picture_size
        scale_y = size[0] / picture_height
        scale_x = size[1] / picture_width
        return [square.scaled(scale_x, scale_y) for square in squares]

    def with_note(self, overlay: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a drawing [H, W, 3] of the picture with the remark, beside its parts if there is room."""
        height, width = overlay.shape[:2]
        return drawing.draw_note(overlay, self.remark, self.squares((height, width)))

    def draw(self, picture: PictureSource | None = None) -> NDArray[np.uint8]:
        """Return the picture [H, W, 3] RGB with heat map and contours.

        The calibration fixes the scale of the colours.

        Args:
            picture: A picture as `predict` takes it, RGB; None: the file of this prediction is read.

        Raises:
            InputError: The picture cannot be read; or no picture is given, and the prediction has no file.
        """
        if picture is not None:
            source = picture
        elif self.path is not None:
            source = self.path
        else:
            raise InputError("draw() knows only pictures from files: give the picture, draw(picture)")
        heat, marked, colour = self.over(displayed(source))
        return self.with_note(drawing.contour(heat, marked, colour))

    @property
    def remark(self) -> str:
        """The findings in one line; empty: there are none."""
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
        """Return the document that `predict --json` prints."""
        shift_by_feature = {}
        if self.shifts:
            for feature, shift in zip(FEATURES, self.shifts, strict=True):
                shift_by_feature[feature.name] = round(shift, 3)
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
            "shifts": shift_by_feature,
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
    """Return HTML with the boxes and kinds of the first regions, and the number of the others."""
    boxes = []
    for region in regions[:MAX_SHOWN_REGIONS]:
        box = ", ".join(f"{side:.0f}" for side in region.box)
        kinds = f" {escape(region.kinds_text)}" if region.kinds_text else ""
        boxes.append(f"({box}){kinds}")
    more = f" and {len(regions) - MAX_SHOWN_REGIONS} more" if len(regions) > MAX_SHOWN_REGIONS else ""
    return f"regions {' '.join(boxes)}{more}"


def prediction_html(prediction: Prediction, caption: str = "") -> str:
    """Return HTML with the picture, its heat map and the decision; `caption` stands beside the decision.

    If the picture cannot be read, there is only the heat map.
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


def _panels(prediction: Prediction) -> list[NDArray[np.uint8]]:
    """Return the picture and its overlay [H, W, 3].

    If the picture cannot be read, the list has only the heat map, or nothing if there is no map either.
    """
    if prediction.path is not None:
        try:
            picture = html.shrink(displayed(prediction.path))
            heat, marked, colour = prediction.over(picture)
            return [picture, prediction.with_note(drawing.contour(heat, marked, colour))]
        except InputError:  # such as a picture that was moved since
            pass
    if not prediction.map.size:
        return []
    heat_map = drawing.colour_map(prediction.map, *prediction.levels.colour_range)
    return [html.shrink(heat_map)]


# Limits of the warnings of `MismatchDetector`
MIN_WARNING_PICTURES = 4  # pictures that a warning needs
MAX_REMEMBERED = 1000  # latest pictures that are remembered: a stream may have no end
MAJORITY = 0.5  # share of pictures from which on most are unlike the training pictures
MIN_ANOMALOUS_SHARE = 0.9  # share of anomalous pictures from which on they are too many
HIGH_SEVERITY = 10.0  # median severity that a wrong model gives
MIN_EQUAL_SEVERITY = 0.5  # share of the median severity that nine in ten reach; defects differ more
RECALIBRATE_REMEDY = "set the score threshold anew with `flawscope calibrate`, or fit anew"
OTHER_MODEL_REMEDY = (
    "is the model of another product, camera or light? Take this product's model, or fit anew with good "
    "pictures like these; where maps of good pictures still look right, `flawscope calibrate` is enough"
)
CHANGED_LIGHT_REMEDY = (
    "has the camera or the light changed? The false-alarm rate is promised for pictures like those of the "
    "fit; `flawscope calibrate` with new good pictures renews the promise"
)


def codes_beyond_promise(prediction: Prediction) -> list[str]:
    """Return codes of findings for which the false-alarm rate does not hold; [] for an anomalous picture."""
    if prediction.is_anomalous:
        return []
    return [finding.code for finding in prediction.findings if finding.is_beyond_promise]


@dataclass
class MismatchDetector:
    """Collects predictions, and warns of pictures that do not belong to the model.

    Attributes:
        false_alarm_rate: Share of good pictures that is expected to be called anomalous.
        noun: Name of the pictures in the warning.
        defective: Whether defective pictures are expected among them; then there is no warning if nearly all
            are anomalous, unless all severities are about the same.
        count: Number of pictures added.
        anomalous: Number of anomalous pictures, without the tolerated ones.
        tolerated: Number of tolerated pictures.
        near: Number of pictures called good, near the threshold.
        beyond_promise: Number of pictures called good for which the rate does not hold, by the finding's
            code.
        severities: Severities of the latest pictures.
        shifts: Shifts (`Prediction.shifts`) of the latest pictures.
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
        """Return a line with the numbers of pictures called good for which the rate does not hold.

        The line is empty if there are no such pictures.
        """
        reasons = [f"{count} {BEYOND_PROMISE[code]}" for code, count in self.beyond_promise.items()]
        if not reasons:
            return ""
        return f"called good, though the rate is not promised for them: {', '.join(reasons)}"

    def warning(self) -> str:
        """Return a warning for a person; empty where there is no reason for one."""
        if self.count < MIN_WARNING_PICTURES:
            return ""
        far_shifts = [shift for shift in self.shifts if is_far(shift)]
        if self.shifts and len(far_shifts) >= MAJORITY * len(self.shifts):
            remedy = OTHER_MODEL_REMEDY if self.anomalous >= MAJORITY * self.count else CHANGED_LIGHT_REMEDY
            return (
                f"{len(far_shifts)} of {len(self.shifts)} {self.noun} look unlike the training pictures as a "
                f"whole ({describe_shifts(far_shifts)}), {self.anomalous} of {self.count} are anomalous: "
                f"{remedy}"
            )
        is_expected = self.false_alarm_rate > MAJORITY  # most good pictures would be anomalous, too
        if self.anomalous < MIN_ANOMALOUS_SHARE * self.count or is_expected:
            return ""
        return self._too_many_warning()

    def _too_many_warning(self) -> str:
        """Return the warning that too many pictures are anomalous; empty if defects may explain it."""
        observation = f"{self.anomalous} of {self.count} {self.noun} are anomalous"
        low, median, high = np.quantile(np.asarray(self.severities), [0.1, 0.5, 0.9])
        has_equal_severities = median >= HIGH_SEVERITY and low >= MIN_EQUAL_SEVERITY * median
        if has_equal_severities:
            observation += f", all of about the same severity ({low:.0f} to {high:.0f})"
        if has_equal_severities and not self.shifts:
            return f"{observation}: {OTHER_MODEL_REMEDY}"
        if self.defective:
            return ""
        if self.shifts:
            observation += ", although light, colour and detail are as in the training pictures"
        if has_equal_severities:
            request = "is it the same product, in the same place and position? Look at some"
        else:
            request = "look at some"
        return f"{observation}: {request}. If they are good, {RECALIBRATE_REMEDY}"
