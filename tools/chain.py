"""Does every way from pictures to decisions give the same numbers?

    python tools/chain.py
    python tools/chain.py --methods patchcore --work DIR

On drawn pictures, every method goes through fit, evaluate, export and predict, in every runtime and
precision, with one picture at a time and with three. The model as it was fitted, in fp32, is what all others
are compared with, in this order:

    calibration  thresholds and the good pictures' scores: the same in fp32, of a reduced precision within
                 what its certificate allows
    preprocess   the tensors that pictures become: the same, bit by bit
    predict      scores within the certificate's tolerance; map maxima, and in fp32 and fp16 whole maps, which
                 tell of a single element of a memory bank what scores often do not; decisions, where torch's
                 score is not as near to the threshold as scores may differ
    batch        the same model on three pictures at once against one at a time
    evaluate     its scores against those of predict; its image AUROC against a count of all pairs, and
                 against what torch's scores allow

The pictures are the test and training pictures, so that every element of a memory bank is the nearest of some
patch, and others that are not square, deep, grey or transparent. A table shows the largest differences; every
deviation is a line, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agreement import OTHERS, Answers, Expected, Row, answers, compare, of_calibration, of_prediction
from flawscope.artefact import certificate as certificates
from flawscope.cli.common import say, table
from flawscope.datasets import list_pictures
from flawscope.demo.dataset import draw_dataset
from flawscope.errors import FlawscopeError
from flawscope.evaluation import evaluate
from flawscope.methods.registry import METHODS
from flawscope.predictor import load

# Settings with which a method is quick, and trained as far as its scores mean something: what a reduced
# precision may change is measured by how far the held-out good pictures' scores lie apart
SMALL: dict[str, dict[str, Any]] = {
    "patchcore": {"size": "64"},
    "efficientad": {"steps": 30, "window": 41, "training": "fp32"},
    "prnet": {
        "size": "64",
        "width": 0.25,
        "batch": 4,
        "steps": 400,
        "training": "fp32",
        "seen": 2,
        "held_out": 0.4,
    },
}
ENGINES = {"onnxruntime": ".onnx", "openvino": ".xml"}

# ---------------------------------------------------------------------------------------------- the pictures


def draw(root: Path, train: int = 24, good: int = 4) -> Path:
    """A small data set, and beside it (`root/others`) pictures that only the right preprocessing makes right.
    Returns the category's folder."""
    folder = draw_dataset(root / "data", train=train, good=good, bad_per_kind=1, size=96, seed=1)
    others = root / OTHERS
    others.mkdir()
    shown = [np.asarray(Image.open(path)) for path in list_pictures(folder / "test")[:5]]
    light = np.random.default_rng(3).integers(0, 255, shown[2].shape[:2])
    for name, picture in {
        "wide": shown[0][20:71, :],
        "high": shown[1][:, 7:50],
        "deep": shown[2].mean(2).astype(np.uint16) * 257 + light.astype(np.uint16),
        "grey": shown[3].mean(2).astype(np.uint8)[:90],
        "transparent": np.dstack([shown[4], np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)]),
    }.items():
        Image.fromarray(np.ascontiguousarray(picture)).save(others / f"{name}.png")
    return folder


# ----------------------------------------------------------------------------------------------- the chain


def run(
    method: str,
    folder: Path,
    work: Path,
    settings: dict[str, Any],
    precisions: Sequence[str] = certificates.PRECISIONS,
) -> Iterator[Row]:
    """All rows of one method.

    Args:
        folder: what `draw` returned.
        work: where models are written, a folder.
        settings: of the fit.
        precisions: of the exported models.
    """
    from flawscope.export.export import PRECISIONS, export
    from flawscope.fitting.fitting import fit

    model = work / f"{method}.safetensors"
    train = list_pictures(folder / "train/good")
    row = Row(method, "torch", "fp32")
    try:
        fitted = fit(str(folder), method=method, device="cpu", **settings)
        fitted.save(model)
        expected = Expected.of(fitted, folder)
    except FlawscopeError as error:
        row.deviate("fit", str(error))
        yield row
        return
    yield from attempted(row, lambda: compare(expected, load(model, device="cpu"), row))

    def exported(row: Row, out: Path) -> list[Row]:
        export(model, out, precision=row.precision, pictures=[] if row.precision == "fp32" else train)
        return compare(expected, load(out, device="cpu"), row)

    for runtime, suffix in ENGINES.items():
        for precision in PRECISIONS[suffix]:
            if precision not in precisions:
                continue
            row = Row(method, runtime, precision)
            if precision == "bf16" and not _has_bf16():
                row.skipped = "this processor has no bf16"
                yield row
                continue
            out = work / f"{method}-{precision}{suffix}"
            yield from attempted(row, partial(exported, row, out))
    row = Row(method, "command line", "fp32")
    yield from attempted(row, lambda: by_commands(expected, folder, work, settings, row))


def attempted(row: Row, work: Callable[[], list[Row]]) -> list[Row]:
    """What `work` gives; where it ends with an error, that is the deviation."""
    try:
        return work()
    except FlawscopeError as error:
        row.deviate("error", str(error))
        return [row]


def _has_bf16() -> bool:
    from flawscope.runtime.openvino import engine

    return "BF16" in engine().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def by_commands(
    expected: Expected, folder: Path, work: Path, settings: dict[str, Any], row: Row
) -> list[Row]:
    """The same by the command line, from the pictures to an exported model's answers in JSON: one row."""
    method = row.method
    model, out = work / f"{method}-commands.safetensors", work / f"{method}-commands.onnx"
    options: list[str] = []
    for key, value in settings.items():
        options += ["--seen", str(value)] if key == "seen" else ["--set", f"{key}={value}"]
    given = ["--data", str(folder), "--device", "cpu", "--quiet"]
    names = list(expected.pictures)
    paths = list(map(str, expected.pictures.values()))
    for step, command in {
        "fit": ["fit", *given, "--method", method, "--out", str(model), *options],
        "export": ["export", str(model), "--out", str(out), "--quiet"],
        "evaluate": ["evaluate", str(out), *given, "--json"],
        "predict": ["predict", str(out), *paths, "--device", "cpu", "--quiet", "--json"],
    }.items():
        code, text = _command(command)
        if code:
            row.deviate(step, f"flawscope {' '.join(command[:2])} ended with {code}")
            return [row]
        if step == "evaluate":
            row.numbers["AUROC"] = json.loads(text)["metrics"]["image_auroc"]
    other = load(out, device="cpu")
    of_calibration(row, expected.predictor, other)
    said = [json.loads(line) for line in text.splitlines()]
    if [document["path"] for document in said] != paths:
        row.deviate("predict", "it answers for other pictures than it was given")
        return [row]
    scores = np.array([document["score"] for document in said])
    anomalous = np.array([document["is_anomalous"] for document in said])
    found = answers(other, list(expected.pictures.values()), 1)
    of_prediction(row, expected, Answers(scores, found.maps, anomalous), names)
    result = evaluate(other, expected.dataset).metrics["image_auroc"]
    if result != row.numbers["AUROC"]:
        row.deviate("evaluate", f"image AUROC is {row.numbers['AUROC']}, and {result} in Python")
    return [row]


def _command(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard output of `flawscope ...`; what it says otherwise is seen."""
    from flawscope.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(arguments)
    return code, out.getvalue()


# ------------------------------------------------------------------------------------------------ the table

COLUMNS = {  # of numbers, with what stands in them
    "calibration": ("calibration score", "calibration map maximum"),
    "preprocess": ("preprocess tensor",),
    "score": ("predict score",),
    "map maximum": ("predict map maximum",),
    "map": ("predict map error",),
    "decisions": ("decisions",),
    "batch": ("batch score", "evaluate score"),
}


def show(rows: Sequence[Row]) -> str:
    """The largest differences, in the certificate's units (maps: of their maxima), and what scores may differ
    by."""
    cells = []
    for row in rows:
        shown: list[Any] = [row.method, row.runtime, row.precision, row.batch]
        for keys in COLUMNS.values():
            found = [row.numbers[key] for key in keys if key in row.numbers]
            shown.append(f"{max(found):.2g}" if found else None)
        area = f"{row.numbers['AUROC']:.4f}" if "AUROC" in row.numbers else None
        verdict = row.skipped or (f"{len(row.deviations)} deviations" if row.deviations else "agrees")
        cells.append((*shown, area, f"{certificates.TOLERANCE[row.precision]:g}", verdict))
    return table(cells, ("method", "runtime", "precision", "pictures", *COLUMNS, "AUROC", "allowed", ""))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a new folder to keep all in")
    args = parser.parse_args(arguments)
    methods = args.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"no method called {min(unknown)}: choose of {', '.join(METHODS)}")
    if args.work and args.work.exists():
        parser.error(f"--work {args.work} is there already: name a new folder")
    began = time.perf_counter()
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        if args.work:
            args.work.mkdir(parents=True)
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = draw(work)
        for method in methods:
            for row in run(method, folder, work, SMALL.get(method, {})):
                rows.append(row)
                batch = f" {row.batch} at a time" if row.batch else ""
                say(f"{time.perf_counter() - began:6.1f} s  {method} {row.runtime} {row.precision}{batch}")
    deviations = [line for row in rows for line in row.deviations]
    print(show(rows))
    for line in deviations:
        print(line)
    say(f"{len(rows)} combinations in {time.perf_counter() - began:.0f} s, {len(deviations)} deviations")
    return 1 if deviations else 0


if __name__ == "__main__":
    sys.exit(main())
