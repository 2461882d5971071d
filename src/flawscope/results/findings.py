"""Holds the findings on a picture beside its score, and how they change the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from flawscope.results.region import Region

if TYPE_CHECKING:
    from flawscope.types import Json

MIN_ANOMALOUS_SEVERITY = 0.001  # of a picture that is anomalous by another reason than its score: above 0
# Why a part is within tolerance or beyond it, by code; pages say the same in their languages (`reason_CODE`)
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
REGION = "region"  # in the place of a kind that the model does not name
Value = str | int | float | None
Reason = Mapping[str, Value]
"""`code`, one of `REASONS`, and its values: text, numbers, or None for a kind that is not known."""


def describe_reasons(reasons: Sequence[Reason]) -> str:
    """Say reasons in one line of English."""

    def shown(value: Value) -> object:
        return REGION if value is None else f"{value:.4g}" if isinstance(value, float) else value

    return ", ".join(
        REASONS[str(reason["code"])].format_map({k: shown(v) for k, v in reason.items()})
        for reason in reasons
    )


@dataclass(frozen=True)
class Finding:
    """Finding on a picture beside its score.

    Attributes:
        code: Kind of the finding, for programs.
        words: One line for a person.
        p_value: How often a good picture shows as much of it, 0..1; None: not known, or not a part of the
            picture's own.
        decides: Whether it alone makes the picture anomalous.
        reasons: Content of `words` for programs, of a finding about tolerances.
    """

    code: str
    words: str
    p_value: float | None = None
    decides: bool = False
    reasons: Sequence[Reason] = ()

    @property
    def is_beyond_promise(self) -> bool:
        """Whether the false-alarm rate is not promised for the picture, which is decided on all the same."""
        return self.code in BEYOND_PROMISE and not self.decides

    def to_dict(self) -> Json:
        """Return the fields by their names, as JSON knows them."""
        return {**asdict(self), "reasons": [*self.reasons]}


def severity_text(severity: float) -> str:
    """Return a severity for a person: a number, or a dash where only a finding decides."""
    return "-" if severity == MIN_ANOMALOUS_SEVERITY else f"{severity:+.1f}"


class Decision(NamedTuple):
    """Decision on a picture; the values are those of `Prediction`."""

    p_value: float
    severity: float
    is_anomalous: bool

    def after(self, findings: Sequence[Finding]) -> Decision:
        """Return the decision after these findings."""
        deciding = [finding for finding in findings if finding.decides]
        if not deciding:
            return self
        p_values = [finding.p_value for finding in deciding if finding.p_value is not None]
        severity = max(self.severity, MIN_ANOMALOUS_SEVERITY)
        return Decision(min([self.p_value, *p_values]), severity, is_anomalous=True)


PART_NOT_FOUND = "part_not_found"
COUNT_WRONG = "count_wrong"  # of several parts
ANOMALOUS_PARTS = "anomalous_parts"
OUTSIDE_LIGHT = "outside_light"
OTHER_FORM = "other_form"
# of a part in several views
VIEW_EXCHANGED = "view_exchanged"
SAME_PICTURE = "same_picture"
# Findings that, where they do not decide, say that the false-alarm rate is not promised for the picture
BEYOND_PROMISE = {OUTSIDE_LIGHT: "light outside the range", OTHER_FORM: "another size than learnt from"}
# which part in several views a picture shows
PART = "part"
PART_INCOMPLETE = "part_incomplete"
WITHIN_TOLERANCE = "within_tolerance"
BEYOND_TOLERANCE = "beyond_tolerance"


def part_not_found(p_value: float | None) -> Finding:
    """Return the finding that the part is not in a picture, which is not good.

    `p_value` is that of the most similar place; None: not known.
    """
    return Finding(PART_NOT_FOUND, "part not found", p_value, decides=True)


def wrong_count(words: str, p_value: float | None) -> Finding:
    """Return the finding on another number of parts, or on other objects.

    Args:
        words: How the numbers differ.
        p_value: How often a good picture is counted wrong; None: not known.
    """
    return Finding(COUNT_WRONG, words, p_value, decides=True)


def anomalous_parts(words: str) -> Finding:
    """Names the parts by which the score makes a picture of several anomalous."""
    return Finding(ANOMALOUS_PARTS, words)


def outside_light() -> Finding:
    """The false-alarm rate is not promised for the picture's light."""
    return Finding(OUTSIDE_LIGHT, BEYOND_PROMISE[OUTSIDE_LIGHT])


def other_form(words: str, decides: bool) -> Finding:
    """Return the finding that the picture has another form or size than those learnt from.

    Args:
        words: How they differ.
        decides: Whether the form differs: the picture is stretched or shows more or less, and its score means
            nothing.
    """
    return Finding(OTHER_FORM, words, decides=decides)


def view_exchanged(view: str, shown: str) -> Finding:
    """Return the finding that the picture of a view shows another: nobody has looked at its own."""
    return Finding(VIEW_EXCHANGED, f"named as view {view}, looks like {shown}", decides=True)


def same_picture(first: str, second: str) -> Finding:
    """Return the finding that two views of a part have one picture: nobody has looked at one of them."""
    return Finding(SAME_PICTURE, f"{first} and {second} are the same picture", decides=True)


def shown_part(words: str, is_incomplete: bool) -> Finding:
    """Names the part in several views that a picture shows, and which decides on it."""
    return Finding(PART_INCOMPLETE if is_incomplete else PART, words)


def tolerance_finding(within: bool, reasons: Sequence[Reason], rules: str) -> Finding:
    """Return the finding whether a person's rules tolerate an anomalous picture, and why.

    Args:
        within: Whether they tolerate it.
        reasons: The reasons.
        rules: Name of the rules.
    """
    which, said = (WITHIN_TOLERANCE, "within") if within else (BEYOND_TOLERANCE, "beyond")
    words = f"anomalous, {said} tolerance: {describe_reasons(reasons)} ({rules})"
    return Finding(which, words, reasons=(*reasons,))


def no_product(name: str, p_value: float | None) -> Finding:
    """Return the finding that a picture shows none of the products, and is not good.

    Args:
        name: Name of no product.
        p_value: p-value of the nearest product, which is not the picture's own and only shown in words; None:
            not known.
    """
    return Finding("no_product", name if p_value is None else f"{name}, p {p_value:.3f}", decides=True)


def measure_places(regions: Sequence[Region]) -> Json:
    """Return the number of regions, and size and centre of the largest, as columns of a table."""
    if not regions:
        return {"places": 0}
    largest = max(regions, key=lambda region: region.longer_side)
    x, y = (round(at, 1) for at in largest.centroid)
    sizes = {"largest_px": round(largest.longer_side, 1), "largest_mm": largest.length_mm}
    return {"places": len(regions), **sizes, "largest_x": x, "largest_y": y}
