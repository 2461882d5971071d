"""Holds the findings on a picture beside its score, and how they change the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from flawscope.results.region import Region

if TYPE_CHECKING:
    from flawscope.types import Json

MIN_ANOMALOUS_SEVERITY = 0.001  # of a picture that is anomalous for another reason than its score: above 0
# Reasons why a part is within or beyond tolerance, by code; pages translate them (`reason_CODE`)
REASONS = {
    "picture_size": "the picture has {width} x {height} pixels, the rules hold for {rules_width} x "
    "{rules_height}",
    "nothing_marked": "nothing is marked that could be measured",
    "something_else": "something else was noticed",
    "at_edge": "a region reaches, or may reach, the edge of what is inspected",
    "at_border": "a region reaches, or may reach, the border of the picture",
    "kind_not_known": "a region of a kind that is not known",
    "no_rule": "no rule for {kind}",
    "size_not_known": "the size of a region is not known: say --scale-mm",
    "out_of_zone": "{kind} reaches out of the zone",
    "too_many": "number of regions: {count}, the rule for {kind} holds for {most}",
    "length": "{kind} length {size} mm {relation} {most} mm",
    "width": "{kind} width {size} mm {relation} {most} mm",
    "area": "{kind} area {size} mm² {relation} {most} mm²",
    "length_at_most": "{kind} length {size} mm, may be up to {bound} mm {relation} {most} mm",
    "width_at_most": "{kind} width {size} mm, may be up to {bound} mm {relation} {most} mm",
    "area_at_most": "{kind} area {size} mm², may be up to {bound} mm² {relation} {most} mm²",
    "more": "{count} more",
}
REGION = "region"  # word for a region whose kind the model does not name
Value = str | int | float | None
Reason = Mapping[str, Value]
"""`code`, one of `REASONS`, and its values: text, numbers, or None for a kind that is not known."""


def describe_reasons(reasons: Sequence[Reason]) -> str:
    """Return reasons in one line of English."""
    texts = []
    for reason in reasons:
        template = REASONS[str(reason["code"])]
        text_by_name = {name: _value_text(value) for name, value in reason.items()}
        texts.append(template.format_map(text_by_name))
    return ", ".join(texts)


def _value_text(value: Value) -> str:
    if value is None:
        return REGION
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Finding:
    """Finding on a picture beside its score.

    Attributes:
        code: Kind of the finding, for programs.
        words: One line for a person.
        p_value: Share of good pictures in which the finding is at least as strong, 0..1; None: it is not
            known, or does not count for the picture's p-value.
        decides: Whether the finding alone makes the picture anomalous.
        reasons: For a finding about tolerances: its reasons, which `words` describe, for programs.
    """

    code: str
    words: str
    p_value: float | None = None
    decides: bool = False
    reasons: Sequence[Reason] = ()

    @property
    def is_beyond_promise(self) -> bool:
        """Whether the false-alarm rate does not hold for the picture, which still gets a decision."""
        return self.code in BEYOND_PROMISE and not self.decides

    def to_dict(self) -> Json:
        """Return the fields by their names, as JSON knows them."""
        return {**asdict(self), "reasons": [*self.reasons]}


def severity_text(severity: float) -> str:
    """Return a severity as text: a number, or a dash where a finding alone makes the picture anomalous."""
    return "-" if severity == MIN_ANOMALOUS_SEVERITY else f"{severity:+.1f}"


class Decision(NamedTuple):
    """Decision on a picture; the values are those of `Prediction`."""

    p_value: float
    severity: float
    is_anomalous: bool

    def after(self, findings: Sequence[Finding]) -> Decision:
        """Return the decision after these findings: anomalous if one of them decides, else as before.

        If one decides, the p-value is the smallest of the decision's own and those of the deciding findings.
        """
        deciding = [finding for finding in findings if finding.decides]
        if not deciding:
            return self
        p_values = [finding.p_value for finding in deciding if finding.p_value is not None]
        severity = max(self.severity, MIN_ANOMALOUS_SEVERITY)
        return Decision(min([self.p_value, *p_values]), severity, is_anomalous=True)


PART_NOT_FOUND = "part_not_found"
COUNT_WRONG = "count_wrong"  # for a model that searches for several parts
ANOMALOUS_PARTS = "anomalous_parts"
OUTSIDE_LIGHT = "outside_light"
OTHER_FORM = "other_form"
# For a part in several views
VIEW_EXCHANGED = "view_exchanged"
SAME_PICTURE = "same_picture"
# Findings that, where they do not decide, say that the false-alarm rate does not hold for the picture
BEYOND_PROMISE = {OUTSIDE_LIGHT: "light outside the range", OTHER_FORM: "another size than learnt from"}
# For a picture of a part in several views: the name of the part
PART = "part"
PART_INCOMPLETE = "part_incomplete"
WITHIN_TOLERANCE = "within_tolerance"
BEYOND_TOLERANCE = "beyond_tolerance"


def part_not_found(p_value: float | None) -> Finding:
    """Return the finding that the part was not found in a picture, which is therefore anomalous.

    `p_value` belongs to the place that is most similar to the part; None: it is not known.
    """
    return Finding(PART_NOT_FOUND, "part not found", p_value, decides=True)


def wrong_count(words: str, p_value: float | None) -> Finding:
    """Return the finding that a picture shows a wrong number of parts, or other objects.

    Args:
        words: Words on the difference.
        p_value: Share of good pictures with a wrong number of parts or objects; None: it is not known.
    """
    return Finding(COUNT_WRONG, words, p_value, decides=True)


def anomalous_parts(words: str) -> Finding:
    """Return the finding that names the anomalous parts in a picture of several; their scores decide."""
    return Finding(ANOMALOUS_PARTS, words)


def outside_light() -> Finding:
    """Return the finding that the false-alarm rate does not hold for the picture's light."""
    return Finding(OUTSIDE_LIGHT, BEYOND_PROMISE[OUTSIDE_LIGHT])


def other_form(words: str, decides: bool) -> Finding:
    """Return the finding that the picture has another form or size than the training pictures.

    Args:
        words: Words on the difference.
        decides: Whether the finding makes the picture anomalous. It must if the form differs: the picture is
            then stretched, or shows more or less, and its score means nothing.
    """
    return Finding(OTHER_FORM, words, decides=decides)


def view_exchanged(view: str, shown: str) -> Finding:
    """Return the finding that a picture shows another view than the one it is named for.

    The finding makes the picture anomalous, since the view was not inspected.

    Args:
        view: View that the picture's name says.
        shown: View that it looks like.
    """
    return Finding(VIEW_EXCHANGED, f"named as view {view}, looks like {shown}", decides=True)


def same_picture(first: str, second: str) -> Finding:
    """Return the finding that two views of a part have the same picture, so that one was not inspected."""
    return Finding(SAME_PICTURE, f"{first} and {second} are the same picture", decides=True)


def shown_part(words: str, is_incomplete: bool) -> Finding:
    """Return the finding on a picture's part, for a model that decides on all views of a part together.

    Args:
        words: Words on the part.
        is_incomplete: Whether other views of the part are missing.
    """
    return Finding(PART_INCOMPLETE if is_incomplete else PART, words)


def tolerance_finding(within: bool, reasons: Sequence[Reason], rules: str) -> Finding:
    """Return the finding that an anomalous picture is within tolerance, or beyond it.

    Args:
        within: Whether the picture is within tolerance.
        reasons: Reasons why it is within or beyond.
        rules: Name of the rules.
    """
    code = WITHIN_TOLERANCE if within else BEYOND_TOLERANCE
    relation = "within" if within else "beyond"
    words = f"anomalous, {relation} tolerance: {describe_reasons(reasons)} ({rules})"
    return Finding(code, words, reasons=tuple(reasons))


def no_product(name: str, p_value: float | None) -> Finding:
    """Return the finding that a picture shows none of the products, and is therefore anomalous.

    Args:
        name: Words for "none of the products".
        p_value: P-value of the nearest product; None: it is not known. The finding's words name it, but it
            does not count for the picture's p-value.
    """
    words = name if p_value is None else f"{name}, p {p_value:.3f}"
    return Finding("no_product", words, decides=True)


def measure_places(regions: Sequence[Region]) -> Json:
    """Return columns of a table: the number of regions, and the size and centre of the largest region."""
    if not regions:
        return {"places": 0}
    largest = max(regions, key=lambda region: region.longer_side)
    x, y = largest.centroid
    return {
        "places": len(regions),
        "largest_px": round(largest.longer_side, 1),
        "largest_mm": largest.length_mm,
        "largest_x": round(x, 1),
        "largest_y": round(y, 1),
    }
