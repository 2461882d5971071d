"""Where the figures come from: the model, the run, the machine, the pictures. No path and no host name: a
report is passed on."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flawscope._version import __version__
from flawscope.artefact.model_file import Manifest
from flawscope.calibration.simulated import described
from flawscope.datasets import Dataset
from flawscope.datasets.files import printable
from flawscope.evaluation import Evaluation
from flawscope.machine import GIB, cores, peak_memory, processor
from flawscope.progress import counted, duration

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
    """`runtime`: what computed the scores; `model`: the name of the model's file."""
    return Facts(
        model=[(what, printable(str(value))) for what, value in _model(manifest, model)],
        run=_run(result, dataset, runtime),
        config=[(key, printable(_plain(value))) for key, value in manifest.config.items()],
        notes=[printable(note) for note in manifest.notes],
        pictures=_pictures(result, manifest, dataset),
        failures=[printable(_inside(line, dataset)) for line in result.failures],
    )


def _model(manifest: Manifest, model: str) -> list[tuple[str, Any]]:
    c, facts, backbone = manifest.calibration, manifest.facts, manifest.backbone
    roles = Counter(picture.role for picture in manifest.pictures)
    rows: list[tuple[str, Any]] = [
        ("file", model),
        ("method", f"{manifest.method}" + (f", fitted for {manifest.category}" if manifest.category else "")),
        ("network", f"{backbone.get('name', '?')}, {backbone.get('origin', '?')}"),
        ("licence of its weights", backbone.get("licence", "?")),
        ("picture seen as", manifest.preprocess.described()),
        ("seed", manifest.config.get("seed", "?")),
        ("pictures", ", ".join(f"{n} {role}" for role, n in roles.items()) or "not known"),
        ("score threshold", c.promise()),
        ("severity", f"1 is {c.spread:.3g} above the score threshold, the spread of good pictures"),
        ("mask threshold", c.outlined()),
        ("calibrated for", f"{c.runtime}, {c.precision}"),
        *[("fit", line) for line in facts.get("summary", ())],
    ]
    if found := described(facts, c):
        rows.append(("simulated defects found", found))
    if "seconds_total" in facts:
        rows.append(("time of the fit", duration(facts["seconds_total"])))
    rows.append(("fitted with", ", ".join(f"{k} {v}" for k, v in manifest.versions.items()) or "not known"))
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
    rows.append(("machine", f"{processor()}, {counted(cores(), 'core')}, {platform.system()}"))
    packages = [f"flawscope {__version__}", f"python {platform.python_version()}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    return [*rows, ("versions", ", ".join(packages))]


def _unread(result: Evaluation) -> int:
    """A failure is a picture that was skipped, or a mask: then its picture was counted."""
    return sum("counted without its mask" not in line for line in result.failures)


def _pictures(result: Evaluation, manifest: Manifest, dataset: Dataset) -> list[tuple[str, list[str], int]]:
    lists: dict[str, list[str]] = {}
    for item in result.left_out_items:
        what = "left out of the test: the model was fitted or calibrated on them"
        lists.setdefault(what, []).append(printable(dataset.relative(item.path)))
    for picture in manifest.pictures:
        lists.setdefault(f"seen by the model: {picture.role}", []).append(printable(picture.name))
    return [
        (f"{role} ({counted(len(names), 'picture')})", names[:MOST_NAMES], max(0, len(names) - MOST_NAMES))
        for role, names in lists.items()
    ]


def _inside(line: str, dataset: Dataset) -> str:
    """An error without the path that leads to the data set."""
    return line.replace(f"{dataset.root}{os.sep}", "")


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
