"""Words rates, counts and results in plain sentences for the reports, and the facts of model and run."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from flawscope import metrics
from flawscope._version import __version__
from flawscope.artefact.model_file import Manifest
from flawscope.calibration.power import described
from flawscope.calibration.threshold import Calibration
from flawscope.datasets import Dataset
from flawscope.errors import pluralize
from flawscope.evaluation import Evaluation
from flawscope.machine import GIB, cores, peak_memory, processor
from flawscope.pictures.listing import printable
from flawscope.progress import duration
from flawscope.results.prediction import Prediction


class Tally(NamedTuple):
    """Numbers of good and defective test pictures, and how many of each were judged wrongly."""

    good: int
    false_alarms: int
    defective: int
    missed: int

    @property
    def found(self) -> int:
        return self.defective - self.missed


def size_of(prediction: Prediction) -> str:
    """Text with the size of a picture, width first, as on every page."""
    height, width = prediction.geometry.picture_size
    return f"{width} × {height}"


def percent(value: float) -> str:
    """Formats a share: 0.05 -> 5 %; 0.0123 -> 1.2 %. Number and sign stay on one line."""
    return f"{100 * value:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"


def rates(low: float, high: float) -> str:
    """Formats an interval of rates: 63.1 to 100 %."""
    return f"{percent(low)[:-2]} to {percent(high)}"


def headline(tally: Tally) -> str:
    """Verdict in one line."""
    parts = []
    if tally.defective:
        parts.append(f"{tally.found} of {pluralize(tally.defective, 'defective picture')} found")
    if tally.good:
        parts.append(f"{tally.false_alarms} of {pluralize(tally.good, 'good picture')} called anomalous")
    return ", ".join(parts)


def sentences(tally: Tally, calibration: Calibration, without_mask: int = 0) -> list[str]:
    """Says what the score threshold promises, whether that was kept, and how many defects were missed."""
    rate = calibration.expected_rate if calibration.promised else None
    lines = [_promise(calibration), _false_alarms(tally, rate), _missed(tally)]
    if without_mask:
        lines.append(
            f"{pluralize(without_mask, 'defective picture')} without a usable mask: not in the pixel figures."
        )
    return lines


def _promise(calibration: Calibration) -> str:
    if not calibration.promised:
        return f"The score threshold is {calibration.score_threshold:.4g}; {calibration.no_promise()}."
    text = (
        f"The score threshold is {calibration.score_threshold:.4g}, set from "
        f"{pluralize(calibration.count, 'good picture')} alone ({calibration.method}). Of good parts like "
        f"those, {percent(calibration.expected_rate)} are expected to be called anomalous; about defects it "
        "promises nothing."
    )
    if calibration.pictures_missing:
        more = pluralize(calibration.pictures_missing, "more good picture")
        text += f" {percent(calibration.rate)} cannot be promised from so few: {more} would do."
    return text


def _false_alarms(tally: Tally, rate: float | None) -> str:
    """Says how many false alarms there were. rate: the promised one; None: there is no promise."""
    if not tally.good:
        return "There are no good test pictures: false alarms were not measured."
    low, high = metrics.confidence_interval_rate(tally.false_alarms, tally.good)
    if rate is None:
        judged = "about which nothing was promised."
    elif low > rate:
        judged = "more than promised; are the good test pictures like those that the model learnt from?"
    elif high < rate:
        judged = "less than promised."
    else:
        judged = f"which agrees with the promise of {percent(rate)}."
    return (
        f"Measured: {tally.false_alarms} of {pluralize(tally.good, 'good picture')} called anomalous, "
        f"{percent(tally.false_alarms / tally.good)}. From so many pictures one learns that the true rate is "
        f"between {percent(low)} and {percent(high)} (95\N{NO-BREAK SPACE}%), {judged}"
    )


def _missed(tally: Tally) -> str:
    if not tally.defective:
        return "There are no defective test pictures: nothing is known about what it finds."
    low, high = metrics.confidence_interval_rate(tally.missed, tally.defective)
    return (
        f"{tally.missed or 'None'} of {pluralize(tally.defective, 'defective picture')} missed. Of defects "
        f"like these, between {percent(low)} and {percent(high)} may be missed (95 %)."
    )


PACKAGES = ("numpy", "pillow", "scipy", "torch", "timm", "onnxruntime", "openvino", "matplotlib")
MOST_NAMES = 2000  # of a list of pictures; the rest is counted

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Facts:
    """Tables of (what, value), and lists of names."""

    model: Pairs
    run: Pairs
    config: Pairs
    notes: list[str]
    pictures: list[tuple[str, list[str], int]]  # role, names, how many more
    failures: list[str]


def facts(result: Evaluation, manifest: Manifest, dataset: Dataset, runtime: str, model: str) -> Facts:
    """Lists the facts of model and run. runtime: name of the engine; model: name of the model's file."""
    return Facts(
        model=[(what, printable(value)) for what, value in [("file", model), *of_model(manifest)]],
        run=_run(result, dataset, runtime),
        config=[(key, printable(_plain(value))) for key, value in manifest.config.items()],
        notes=[printable(note) for note in manifest.notes],
        pictures=_pictures(result, manifest, dataset),
        failures=[printable(_inside(line, dataset)) for line in result.failures],
    )


def of_model(manifest: Manifest) -> Pairs:
    """Describes a model and its origin."""
    c, facts, backbone, p = manifest.calibration, manifest.facts, manifest.backbone, manifest.preprocess
    roles = Counter(picture.role for picture in manifest.pictures)
    sizes = str(manifest.config.get("size", ""))
    seen = [
        p.described(),
        *([f"seen at {sizes}"] if "+" in sizes else []),
        "aspect ratio kept" if p.keep_aspect else "stretched",
        *([f"centre of {p.size[0]}x{p.size[1]}"] if p.crop else []),
        *([f"white level {p.white_level:g}"] if p.white_level else []),
    ]
    rows = [
        ("method", f"{manifest.method}" + (f" for {manifest.category}" if manifest.category else "")),
        ("network", f"{backbone.get('name', '?')}, {backbone.get('origin', '?')}"),
        ("licence of its weights", str(backbone.get("licence", "?"))),
        ("picture", ", ".join(seen)),
        ("seed", str(manifest.config.get("seed", "?"))),
        ("pictures", ", ".join(f"{n} {role}" for role, n in roles.items()) or "not known"),
        ("decision", c.promise()),
        ("severity", f"1 is {c.spread:.3g} above the score threshold, the spread of good pictures"),
        ("mask threshold", c.outlined()),
        ("calibrated for", f"{c.runtime}, {c.precision}"),
        *[("fitted", line) for line in facts.get("summary", ())],
    ]
    if found := described(facts, c):
        rows.append(("simulated defects found", found))
    if "seconds_total" in facts:
        rows.append(("time of the fit", duration(facts["seconds_total"])))
    rows.append(("made with", ", ".join(f"{k} {v}" for k, v in manifest.versions.items()) or "not known"))
    return rows


def _run(result: Evaluation, dataset: Dataset, runtime: str) -> Pairs:
    images = len(result.pictures)
    left, each = len(result.left_out_items), 1000 * result.seconds / max(images, 1)
    rows = [
        ("made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("data", f"{printable(dataset.category)}, layout {dataset.layout}"),
        ("pictures", f"{images} evaluated, {left} left out, {_unread(result)} unreadable"),
        ("time", f"{duration(result.seconds)}, {each:.0f} ms a picture, reading, metrics and files included"),
    ]
    peak = peak_memory()
    if peak:
        rows.append(("peak memory", f"{peak / GIB:.2f} GiB"))
    rows.append(("runtime", runtime))
    rows.append(("machine", f"{processor()}, {pluralize(cores(), 'core')}, {platform.system()}"))
    packages = [f"flawscope {__version__}", f"python {platform.python_version()}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    return [*rows, ("versions", ", ".join(packages))]


def _unread(result: Evaluation) -> int:
    """Number of failures that are skipped pictures; the others are masks of counted pictures."""
    return sum("counted without its mask" not in line for line in result.failures)


def _pictures(result: Evaluation, manifest: Manifest, dataset: Dataset) -> list[tuple[str, list[str], int]]:
    lists: dict[str, list[str]] = {}
    for item in result.left_out_items:
        what = "left out of the test: the model was fitted or calibrated on them"
        lists.setdefault(what, []).append(printable(dataset.relative(item.path)))
    for picture in manifest.pictures:
        lists.setdefault(f"seen by the model: {picture.role}", []).append(printable(picture.name))
    return [
        (f"{role} ({pluralize(len(names), 'picture')})", names[:MOST_NAMES], max(0, len(names) - MOST_NAMES))
        for role, names in lists.items()
    ]


def _inside(line: str, dataset: Dataset) -> str:
    """Removes from an error the path that leads to the data set."""
    return line.replace(f"{dataset.root}{os.sep}", "")


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
