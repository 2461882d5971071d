"""Plain sentences on rates, counts and results for the reports, and facts of parts, model and run."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

from flawscope._version import __version__
from flawscope.artefact.detection import decided_defects, describe_detection
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.rates import promise_of
from flawscope.artefact.tried import tried_lines
from flawscope.calibration.parts import KnownParts
from flawscope.calibration.threshold import Calibration
from flawscope.datasets import Dataset
from flawscope.errors import pluralize
from flawscope.evaluation import metrics
from flawscope.evaluation.result import Evaluation
from flawscope.machine import GIB, peak_memory, processor_name, usable_cores
from flawscope.pictures.listing import printable
from flawscope.progress import format_duration
from flawscope.results.findings import severity_text
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import FALSE_ALARM, MAX_SHOWN_REGIONS, MISSED, Prediction
from flawscope.views.preprocess import Preprocess

if TYPE_CHECKING:
    from flawscope.types import Json

MAX_PARTS = 60  # parts that a page shows; the table has all


class Tally(NamedTuple):
    """Numbers of test pictures, or parts, and of wrong decisions.

    Attributes:
        good: Number of good pictures.
        false_alarms: Number of good pictures that were called anomalous.
        defective: Number of defective pictures.
        missed: Number of defective pictures that were called good.
    """

    good: int
    false_alarms: int
    defective: int
    missed: int

    @property
    def found(self) -> int:
        """Number of defective pictures that were called anomalous."""
        return self.defective - self.missed


def size_text(prediction: Prediction) -> str:
    """Return the size of a picture as "width × height"."""
    height, width = prediction.geometry.picture_size
    return f"{width} × {height}"


def percent(value: float) -> str:
    """Format a share: 0.05 -> 5 %; 0.0123 -> 1.2 %. Number and sign stay on one line."""
    return f"{100 * value:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"


def range_text(low: float, high: float) -> str:
    """Format an interval of rates: 63.1 to 100 %."""
    return f"{percent(low)[:-2]} to {percent(high)}"


def time_text() -> str:
    """Return the present time of this machine's clock: 2026-11-29 10:13 (UTC+0100)."""
    return time.strftime("%Y-%m-%d %H:%M (UTC%z)")


def headline(tally: Tally, noun: str = "picture") -> str:
    """Return the results on pictures, or on parts, in one line."""
    texts = []
    if tally.defective:
        texts.append(f"{tally.found} of {pluralize(tally.defective, f'defective {noun}')} found")
    if tally.good:
        texts.append(f"{tally.false_alarms} of {pluralize(tally.good, f'good {noun}')} called anomalous")
    return ", ".join(texts)


def score_facts(severity: float, p_value: float, score: float) -> list[tuple[str, str]]:
    """Return rows with severity, p-value and score of a picture, for a page."""
    return [("Severity", severity_text(severity)), ("p-value", f"{p_value:.3f}"), ("Score", f"{score:.4g}")]


def _view_text(preprocess: Preprocess) -> str:
    """Describe what an aligned view shows; empty if views are not aligned."""
    if preprocess.reference is None:
        return ""
    content = "the part"
    if preprocess.several is not None:
        content = f"each part ({preprocess.several.count_text} in a picture)"
    return f"{content}, aligned ({preprocess.reference.kind})"


def pose_facts(prediction: Prediction) -> list[tuple[str, str]]:
    """Return rows with the pose of each part in a picture; empty if there is no pose."""
    parts = prediction.found_parts
    if parts is not None:
        expected = f"{parts.least}" if parts.least == parts.most else f"{parts.least}-{parts.most}"
        rows = [("Parts", f"{len(parts.parts)} found, {expected} expected")]
        for part in parts.parts:
            place = f"{part.part_pose.x:.0f}, {part.part_pose.y:.0f}"
            text = f"{part.severity:+.1f}, p {part.p_value:.3f}, at {place}"
            rows.append((f"Part {part.part_index}", text))
        return rows
    pose = prediction.part_pose
    if pose is None:
        return []
    turn = f"turned by {pose.angle:.0f}°{', mirrored' if pose.mirrored else ''}"
    return [("Part", f"at {pose.x:.0f}, {pose.y:.0f}, {turn}, {pose.error:.2f} spreads off")]


def finding_facts(prediction: Prediction) -> list[tuple[str, str]]:
    """Return rows with the kinds of the defects in a picture, and with its findings."""
    kinds = [region.kinds_text for region in prediction.regions if region.kinds_text]
    facts = []
    if kinds:
        facts.append(("Kinds", printable("; ".join(kinds[:MAX_SHOWN_REGIONS]))))
    for finding in prediction.findings:
        facts.append(("Noticed", printable(finding.words)))
    return facts


def part_cards(parts: Iterable[tuple[PartPrediction, str]], index_by_path: Mapping[str, int]) -> list[Json]:
    """Return the cards of parts: mistakes first, then the most unusual parts.

    Args:
        parts: Each part with the word on its badge: its decision; or, if the truth is known, its outcome.
        index_by_path: Index of each picture on the page, by the picture's path.
    """
    return [_part_card(part, badge, index_by_path) for part, badge in sorted(parts, key=_rank_of_card)]


def _rank_of_card(card: tuple[PartPrediction, str]) -> tuple[bool, float, float]:
    """Return the sorting key of a card: mistakes first, then the most unusual parts."""
    part, badge = card
    is_mistake = badge in (MISSED, FALSE_ALARM)
    # False sorts before True
    return not is_mistake, part.p_value, -part.severity


def _part_card(part: PartPrediction, badge: str, index_by_path: Mapping[str, int]) -> Json:
    """Return the card of a part; the arguments are those of `part_cards`."""
    # name of each view, and the index of its picture on the page; None: the page does not have it
    views: list[tuple[str, int | None]] = []
    for view in sorted([*part.views, *part.missing]):
        index = None
        if view in part.views:
            index = index_by_path.get(str(part.views[view].path))
        views.append((printable(view), index))
    return {
        "name": printable(part.part),
        "badge": badge,
        "p_value": part.p_value,
        "worst": printable(part.worst),
        "severity": part.severity,
        "views": views,
        "missing": [printable(view) for view in part.missing],
    }


def sentences(
    tally: Tally, calibration: Calibration, broken: bool, remarks: Iterable[str] = (), parts: str = ""
) -> list[str]:
    """Return sentences on the expected false-alarm rate, the measured one, and the missed defects.

    Args:
        tally: Numbers of test pictures, or parts, and of wrong decisions.
        calibration: Calibration of the model.
        broken: Whether the measured rate is higher than the expected one, by more than chance explains.
        remarks: Remarks to add, such as on defects that the pixel metrics do not cover.
        parts: For a model that decides on parts, the sentence on its expected rate; else empty.
    """
    noun = "picture"
    promise = _promise(calibration)
    if parts:
        noun = "part"
        promise = f"{parts[:1].upper()}{parts[1:]}."
    lines = [promise, _false_alarms(tally, calibration, broken, noun), _missed(tally, noun)]
    for remark in remarks:
        lines.append(f"{remark[0].upper()}{remark[1:]}.")
    return lines


def _promise(calibration: Calibration) -> str:
    """Return the sentence on the score threshold and the expected false-alarm rate."""
    text = f"The score threshold is {calibration.score_threshold:.4g}"
    if not calibration.promised:
        return f"{text}; {calibration.no_promise()}."
    return (
        f"{text}, set from {calibration.describe_pictures()} alone. Of those that are like "
        f"them, {calibration.describe_rate()}; about defects it promises nothing."
    )


def _false_alarms(tally: Tally, calibration: Calibration, broken: bool, noun: str) -> str:
    """Return the sentences on the measured false alarms; the arguments are those of `sentences`."""
    if not tally.good:
        return f"There are no good test {noun}s: false alarms were not measured."
    low, high = metrics.confidence_interval_rate(tally.false_alarms, tally.good)
    if not calibration.promised:
        verdict = "Nothing was promised about it."
    elif broken:
        verdict = "The promise was broken; are the good test pictures like those that the model learnt from?"
    else:
        verdict = "The promise was kept."
    return (
        f"Measured: {tally.false_alarms} of {pluralize(tally.good, f'good {noun}')} called anomalous, "
        f"{percent(tally.false_alarms / tally.good)}. So many {noun}s show that the true rate is "
        f"between {percent(low)} and {percent(high)} (95\N{NO-BREAK SPACE}%). {verdict}"
    )


def _missed(tally: Tally, noun: str) -> str:
    """Return the sentences on the missed defects."""
    if not tally.defective:
        return f"There are no defective test {noun}s: nothing is known about what it finds."
    low, high = metrics.confidence_interval_rate(tally.missed, tally.defective)
    return (
        f"{tally.missed or 'None'} of {pluralize(tally.defective, f'defective {noun}')} missed. Of defects "
        f"like these, between {percent(low)} and {percent(high)} may be missed (95\N{NO-BREAK SPACE}%)."
    )


PACKAGES = ("numpy", "pillow", "scipy", "torch", "timm", "onnxruntime", "openvino", "matplotlib")

Pairs = list[tuple[str, str]]


def collect_facts(result: Evaluation, manifest: Manifest, dataset: Dataset, runtime: str, model: str) -> Json:
    """Return the facts on model and run: tables of (name, value), and lists of lines.

    Args:
        result: The evaluation.
        manifest: Manifest of the model.
        dataset: The data set.
        runtime: Name of the engine.
        model: Name of the model file.
    """
    left_out_heading = "left out of the test: the model was fitted or calibrated on them"
    names_by_heading: dict[str, list[str]] = {}
    for item in result.left_out_items:
        names_by_heading.setdefault(left_out_heading, []).append(printable(dataset.relative(item.path)))
    for picture in manifest.pictures:
        heading = f"seen by the model: {picture.role}"
        names_by_heading.setdefault(heading, []).append(printable(picture.name))
    config = []
    for key, value in manifest.config.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        config.append((key, printable(text)))
    root_prefix = f"{dataset.root}{os.sep}"  # removed below: a report need not show folders of this machine
    model_rows = [("file", model), *model_facts(manifest)]
    return {
        "model": [(title, printable(value)) for title, value in model_rows],
        "run": _run_facts(result, dataset, runtime),
        "config": config,
        "notes": [printable(note) for note in manifest.notes],
        "suspects": [printable(suspect.line()) for suspect in manifest.suspects],
        "pictures": names_by_heading,
        "failures": [printable(line.replace(root_prefix, "")) for line in result.failures],
    }


# Words for the roles of a model's pictures
ROLES = {
    "train": "learnt from",
    "calibration": "for the threshold",
    "duplicate": "counted as copies",
    "dropped": "left out",
    "quantile": "for the scale of its maps",
    "reserve": "held back",
    "seen": "with a defect",
}


# A line on parts that models of earlier versions have in the summary of their fit; it is not shown
PARTS_PROMISE = re.compile(r"parts of \d+ views? \(")


def _decision_facts(manifest: Manifest, parts: KnownParts | None) -> Pairs:
    """Return rows on the decision of a model: the expected false-alarm rate, and the meaning of a severity.

    Args:
        manifest: Manifest of the model.
        parts: Good parts on which the models of all views were calibrated together; None: the model is not
            one of several views.
    """
    calibration = manifest.calibration
    if parts is not None:
        return [("decision", f"with the other views: {parts.calibration.promise()}")]
    promise = promise_of(manifest)
    if promise.by_part:
        meaning = "of a part: 0 is the limit, 1 is one standard deviation of good parts above it"
        return [("decision", promise.text), ("severity", meaning)]
    rows = [("decision", promise.text)]
    bounds = calibration.describe_bounds()
    if bounds:
        rows.append(("any threshold", bounds))
    meaning = f"1 is {calibration.spread:.3g} above the score threshold, the spread of good pictures"
    rows.append(("severity", meaning))
    return rows


def model_facts(manifest: Manifest, parts: KnownParts | None = None) -> Pairs:
    """Return rows that describe a model and its origin.

    Args:
        manifest: Manifest of the model.
        parts: Good parts on which the models of all views were calibrated together (`ModelFacts.parts_of`);
            None: the model is not one of several views.
    """
    calibration = manifest.calibration
    facts = manifest.facts
    backbone = manifest.backbone
    for_product = f" for {manifest.category}" if manifest.category else ""
    rows = [
        ("method", f"{manifest.method}{for_product}"),
        ("network", f"{backbone.get('name', '?')}, {backbone.get('origin', '?')}"),
        ("licence of its weights", str(backbone.get("licence", "?"))),
        ("picture", _picture_text(manifest)),
        ("seed", str(manifest.config.get("seed", "?"))),
        ("pictures", _role_counts(manifest)),
    ]
    rows += _decision_facts(manifest, parts)
    rows.append(("mask threshold", calibration.outlined()))
    rows.append(("calibrated for", f"{calibration.runtime}, {calibration.precision}"))
    rows += [("fitted", line) for line in facts.get("summary", ()) if not PARTS_PROMISE.match(line)]
    rows += [("tried", line) for line in tried_lines(facts)]
    defects = decided_defects(manifest, parts)
    found_text = None if defects is None else defects.describe_total()
    if found_text:
        rows.append(("simulated defects found", f"{found_text}; real ones may be easier or harder to find"))
    by_size_text = describe_detection(manifest, parts)
    if by_size_text:
        rows.append(("simulated defects by size", by_size_text))
    kinds = manifest.kinds
    if kinds is not None:
        rows.append(("kinds of defects", kinds.describe()))
        rows.append(("kinds, left out", kinds.describe_left_out()))
    rows += _time_facts(facts)
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    rows.append(("made with", versions or "not known"))
    return rows


def _picture_text(manifest: Manifest) -> str:
    """Describe the steps between a picture and the network's input."""
    preprocess = manifest.preprocess
    texts = [preprocess.described()]
    sizes = str(manifest.config.get("size", ""))
    if "+" in sizes:  # the network sees each picture at several sizes
        texts.append(f"seen at {sizes}")
    if preprocess.keep_aspect:
        texts.append("aspect ratio kept")
    elif preprocess.reference is None:
        texts.append("stretched")
    else:
        texts.append(_view_text(preprocess))
    if preprocess.crop:
        texts.append(f"centre of {preprocess.size[0]}x{preprocess.size[1]}")
    if preprocess.black_level:
        texts.append(f"black level {preprocess.black_level:g}")
    if preprocess.white_level:
        texts.append(f"white level {preprocess.white_level:g}")
    return ", ".join(texts)


def _role_counts(manifest: Manifest) -> str:
    """Return the text with the number of a model's pictures in each role."""
    roles = Counter(picture.role for picture in manifest.pictures)
    counts = [f"{count} {ROLES.get(role, role)}" for role, count in roles.items()]
    return ", ".join(counts) or "not known"


def _time_facts(facts: Json) -> Pairs:
    """Return rows on the times of a fit, if its facts have them."""
    rows = []
    if "seconds_total" in facts:
        rows.append(("time of the fit", format_duration(facts["seconds_total"])))
    if "seconds_view" in facts:
        machine = f"{facts.get('device', '?')}, threads: {facts.get('threads', '?')}"
        time_of_view = f"{facts['seconds_view']:.3g} s there ({machine}), without reading it"
        rows.append(("time of a view", time_of_view))
    return rows


def _run_facts(result: Evaluation, dataset: Dataset, runtime: str) -> Pairs:
    """Return rows on a run: data, time, memory, machine and versions."""
    picture_count = len(result.pictures)
    left_out_count = len(result.left_out_items)
    unread_count = len(result.unjudged)
    duration = format_duration(result.seconds)
    milliseconds = 1000 * result.seconds / max(picture_count, 1)
    packages = [f"flawscope {__version__}", f"python {platform.python_version()}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    rows = [
        ("made", time_text()),
        ("data", f"{printable(dataset.category)}, layout {dataset.layout}"),
        ("pictures", f"{picture_count} evaluated, {left_out_count} left out, {unread_count} unreadable"),
        ("time", f"{duration}, {milliseconds:.0f} ms a picture, reading, metrics and files included"),
    ]
    peak = peak_memory()
    if peak:
        rows.append(("peak memory", f"{peak / GIB:.2f} GiB"))
    machine = f"{processor_name()}, {pluralize(usable_cores(), 'core')}, {platform.system()}"
    rows += [("runtime", runtime), ("machine", machine), ("versions", ", ".join(packages))]
    return rows
