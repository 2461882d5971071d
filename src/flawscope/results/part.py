"""Holds the decision on a part that is seen in several views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flawscope.results.findings import MIN_ANOMALOUS_SEVERITY, Finding, severity_text, shown_part
from flawscope.results.prediction import INCOMPLETE, NEAR_WORDS, Prediction

if TYPE_CHECKING:
    from flawscope.types import Json

# Decisions beside INCOMPLETE
GOOD = "good"
ANOMALOUS = "anomalous"


@dataclass(frozen=True)
class PartPrediction:
    """Decision on a part.

    Attributes:
        part: Name of the part.
        score: Score of the most unusual view, in standard deviations above the mean of the good parts.
        p_value: Conformal p-value of the part, in 1/(n+1)..1.
        is_anomalous: The decision.
        worst: View with the largest score.
        severity: By how much the score exceeds the limit; comparable from part to part, and above 0 exactly
            where the part is anomalous.
        views: Prediction of each view that was judged.
        missing: Views without a picture.
        product: Product of the part, by a joint model; None: the part shows none of the products, and is
            anomalous; or the model is not joint.
        findings: Findings on the views together, beside their own findings.
        near: Whether it is called good, near the threshold (`calibration.near_threshold`).
    """

    part: str
    score: float
    p_value: float
    is_anomalous: bool
    worst: str
    severity: float
    views: Mapping[str, Prediction] = field(repr=False)
    missing: tuple[str, ...] = ()
    product: str | None = None
    findings: tuple[Finding, ...] = ()
    near: bool = False

    def called_anomalous(self) -> PartPrediction:
        """Return the prediction with the part called anomalous, for another reason than its scores."""
        severity = max(self.severity, MIN_ANOMALOUS_SEVERITY)
        return replace(self, is_anomalous=True, severity=severity, near=False)

    def pictures(self) -> dict[str, Prediction]:
        """Return the predictions of the views by their names, each with the decision on the part.

        Decision, p-value and severity are those of the part; scores and maps stay those of the pictures.
        """
        picture_by_view = dict[str, Prediction]()
        for view, picture in self.views.items():
            words = [f"part {self.part}"]
            if view == self.worst:
                words.append("most unusual")
            if self.missing:
                words.append(f"missing: {', '.join(self.missing)}")
            words += [finding.words for finding in self.findings]
            part_finding = shown_part(", ".join(words), is_incomplete=bool(self.missing))
            picture_by_view[view] = replace(
                picture,
                findings=(*picture.findings, part_finding),
                p_value=self.p_value,
                severity=self.severity,
                is_anomalous=self.is_anomalous,
                near=self.near,
            )
        return picture_by_view

    @property
    def remarks(self) -> list[str]:
        """Words of the findings on the part, then of the findings that make a view anomalous."""
        words = [finding.words for finding in self.findings]
        for view, picture in self.views.items():
            words += [f"{view}: {finding.words}" for finding in picture.findings if finding.decides]
        return words

    @property
    def decision(self) -> str:
        """The decision in a word: good, anomalous or incomplete.

        A part with missing views is not called good, but incomplete.
        """
        if self.is_anomalous:
            return ANOMALOUS
        return INCOMPLETE if self.missing else GOOD

    @property
    def product_name(self) -> str:
        """The product, or "none of these"; empty if the model is not joint."""
        if self.product:
            return self.product
        is_of_joint_model = any(prediction.product_name for prediction in self.views.values())
        return Prediction.NO_PRODUCT_NAME if is_of_joint_model else ""

    def line(self) -> str:
        """Return the decision on the part, its severity and p-value, and remarks, as a line for people."""
        missing = f"  (missing: {', '.join(self.missing)})" if self.missing else ""
        near = f"  ({NEAR_WORDS})" if self.near else ""
        product = f"  ({self.product_name})" if self.product_name else ""
        remarks = "".join(f"  ({words})" for words in self.remarks)
        return (
            f"part {self.part}: {self.decision}, severity {severity_text(self.severity)}, "
            f"p {self.p_value:.3f}, most unusual: {self.worst}{missing}{product}{near}{remarks}"
        )

    def to_dict(self) -> Json:
        """Return the document that `predict --json` prints."""
        document: Json = {
            "part": self.part,
            "decision": self.decision,
            "score": self.score,
            "p_value": self.p_value,
            "severity": self.severity,
            "near": self.near,
            "worst": self.worst,
            "views": {view: picture.path for view, picture in self.views.items()},
            "missing": list(self.missing),
        }
        if self.product_name:
            document["product"] = self.product
        if self.findings:
            document["findings"] = [finding.to_dict() for finding in self.findings]
        return document
