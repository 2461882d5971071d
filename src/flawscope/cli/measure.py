"""Measure models on this machine: time, memory, parity and accuracy, by engine, precision, threads, batch."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope.cli import common
from flawscope.errors import InputError, require_installed
from flawscope.evaluation.benchmark import timing

if TYPE_CHECKING:
    from flawscope.predictor import Predictor

ENGINES, PRECISIONS = ("torch", "onnxruntime", "openvino"), ("fp32", "int8", "bf16")
ROUNDS = 3  # over all combinations, so that a drift of the machine affects all alike
MAX_PICTURES = 20  # different ones that are timed, at most
MAX_CALIBRATION_PICTURES = 60  # good pictures that int8 is calibrated on, at most
FACTS_FILE, PLOT_FILE, LOG_FILE = "measure.json", "measure.png", "measure.log"
HEADER = ("model", "engine", "precision", "threads", "batch", "median ms", "p95 ms", "pictures/s", "peak MiB")
ACCURACY = ("largest difference", "image AUROC", "false alarms")
Row = dict[str, Any]


@dataclass(frozen=True)
class Combination:
    """Model, engine, precision, threads and batch to measure. file: what is run; empty: see `reason`."""

    model: str
    engine: str
    precision: str
    threads: int
    batch: int
    file: str = ""
    reason: str = ""
    data: str | None = None
    category: str | None = None
    good: str | None = None

    @property
    def name(self) -> str:
        which = f"{Path(self.model).name}, {self.engine} {self.precision}"
        return f"{which}, threads {self.threads}, batch {self.batch}"


def _list_parser(kind: type | Sequence[str]) -> Any:
    def parse(text: str) -> list[Any]:
        values = [word.strip() for word in text.split(",")]
        if kind is int:
            return [common.count_parser("threads or pictures")(word) for word in values]
        assert not isinstance(kind, type)
        if wrong := [word for word in values if word not in kind]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not known: choose of {', '.join(kind)}")
        return values

    return parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model file, .safetensors or .onnx")
    common.add_data(parser, required=False)
    parser.add_argument("--threads", type=_list_parser(int), metavar="1,2", help="default: all cores")
    parser.add_argument(
        "--engines", type=_list_parser(ENGINES), default=[*ENGINES], metavar="A,B", help=",".join(ENGINES)
    )
    parser.add_argument(
        "--precisions",
        type=_list_parser(PRECISIONS),
        default=["fp32"],
        metavar="A,B",
        help="fp32, int8, bf16: of a .safetensors model's exports; int8 and bf16 need --data (default: fp32)",
    )
    parser.add_argument("--batches", type=_list_parser(int), default=[1], metavar="1,8", help="default: 1")
    parser.add_argument(
        "--out", metavar="DIR", help=f"write {FACTS_FILE}, the plot {PLOT_FILE} and {LOG_FILE}"
    )
    common.add_json(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    here, log = timing.environment_facts(), list[str]()
    folder = None
    if args.out:
        require_installed("--out", "matplotlib", extras="report")
        folder = common.prepare_output_folder(args.out)

    def note(line: str) -> None:
        log.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {line}\n")
        if folder:  # also of a run that is stopped
            (folder / LOG_FILE).write_text("".join(log), encoding="utf-8")

    note(common.as_json(here))
    with tempfile.TemporaryDirectory(prefix="flawscope-measure-") as made:
        cores = here["machine"]["cores"]
        cases = [case for model in args.models for case in _cases(args, model, Path(made), cores)]
        rows = _measure(args, cases, note)
    common.show_document(args, document := {**here, "rows": rows}, lambda: _table(rows))
    if folder:
        (folder / FACTS_FILE).write_text(f"{common.as_json(document)}\n", encoding="utf-8")
        _plot(rows, folder / PLOT_FILE)
    return 1 if any("error" in row for row in rows) else 0


def _cases(args: argparse.Namespace, model: str, made: Path, cores: int) -> Iterator[Combination]:
    """Yields the combinations of a model, exported where its engine needs that; the reference comes first."""
    from flawscope.artefact.files import TRAINED_SUFFIX, suffix_of
    from flawscope.predictor import read_manifest

    trained = suffix_of(model) == TRAINED_SUFFIX
    own = read_manifest(model).calibration.precision
    apart = Path(tempfile.mkdtemp(dir=made))  # models may have the same name
    for engine in sorted(args.engines, key=ENGINES.index):
        if importlib.util.find_spec(engine) is None:
            common.say(f"{engine} is not installed: left out")
            continue
        if (engine == "torch") > trained:
            continue  # an exported file has no torch model
        for precision in [own] if engine == "torch" or not trained else args.precisions:
            if precision == "bf16" and engine == "onnxruntime":
                continue
            file, reason = model, ""
            if trained and engine != "torch":
                file, reason = _export_model(args, model, precision, apart)
            data = args.data, args.category, args.good
            first = Combination(model, engine, precision, 1, 1, file, reason, *data)
            for n in args.threads or [cores]:
                yield from (replace(first, threads=n, batch=batch) for batch in args.batches)


def _export_model(args: argparse.Namespace, model: str, precision: str, made: Path) -> tuple[str, str]:
    """Exports a fitted model, once for each precision; returns the .onnx file, or why there is none."""
    from flawscope.artefact import model_file
    from flawscope.datasets import open_dataset

    out = made / f"{Path(model).stem}-{precision}.onnx"
    if out.is_file():
        return str(out), ""
    try:
        require_installed("export", "torch", extras="train,export")
        from flawscope.export import export as exporting

        good: list[Any] = []
        if precision != "fp32" and args.data:
            seed, group = common.seed_and_group(model_file.read_manifest(model))
            train = open_dataset(args.data, args.category, seed=seed, group=group, good=args.good).train
            good = [item.path for item in train[:: max(1, len(train) // MAX_CALIBRATION_PICTURES)]]
        exporting.export(model, out, precision=precision, pictures=good, step=common.progress_for(args))
    except Exception as error:
        return "", common.reason_of(error, debug=args.debug)
    return str(out), ""


def _measure(args: argparse.Namespace, cases: list[Combination], note: Callable[[str], None]) -> list[Row]:
    """Measures all combinations in rounds, each time in a process of its own; returns a row for each."""
    found: list[list[Row]] = [[] for _ in cases]
    step, judged = common.progress_for(args), dict[tuple[str, str, str], Row]()
    for round_ in range(ROUNDS):
        for k, case in enumerate(cases):
            step("measuring", round_ * len(cases) + k, ROUNDS * len(cases))
            if found[k] and "error" in found[k][-1]:
                continue
            key = case.model, case.engine, case.precision  # threads and batches change no score
            judge = key not in judged
            one: Row = {"error": case.reason} if case.reason else timing.in_process(_time_case, case, judge)
            if "judged" in one:
                judged[key] = one.pop("judged")
            found[k].append(one)
            said = f"failed: {one['error']}" if "error" in one else f"{timing.summarize(one['seconds'])}"
            note(f"round {round_ + 1}, {case.name}: {said}")
    rows = []
    for case, rounds in zip(cases, found, strict=True):
        key = case.model, case.engine, case.precision
        reference = next((j for name, j in judged.items() if name[0] == case.model), {})
        rows.append(_row(case, rounds, judged.get(key, {}), reference))
    return rows


def _row(case: Combination, rounds: list[Row], judged: Row, reference: Row) -> Row:
    named = {k: getattr(case, k) for k in HEADER[:5]}
    if failed := [one["error"] for one in rounds if "error" in one]:
        return {**named, "error": failed[0]}
    pairs = zip(judged["scores"], reference["scores"], strict=True)
    return {
        **named,
        **timing.summarize([seconds for one in rounds for seconds in one["seconds"]]),
        "pictures_per_second": round(statistics.median(one["rate"] for one in rounds), 2),
        "peak_mib": max(one["peak"] for one in rounds) >> 20,
        "largest_difference": max((abs(a - b) / max(abs(b), 1) for a, b in pairs), default=None),
        "image_auroc": judged["image_auroc"],
        "false_alarms": judged["false_alarms"],
    }


def _time_case(case: Combination, judge: bool) -> Row:
    """Measures seconds of calls, pictures a second and peak memory; with `judge` also scores and accuracy."""
    from flawscope.datasets import open_dataset
    from flawscope.predictor import load

    engine = None if case.engine == "torch" else case.engine
    model = load(case.file, engine=engine, device="cpu", threads=case.threads)
    seed, group = common.seed_and_group(model.manifest)
    data = case.data and open_dataset(case.data, case.category, seed=seed, group=group, good=case.good)
    pictures: list[Any] = [item.path for item in data.test or data.train] if data else _sample_pictures(model)
    pictures = pictures[:: max(1, len(pictures) // MAX_PICTURES)]
    row: Row = {
        "seconds": timing.time_calls(model, pictures, case.batch),
        "rate": timing.throughput(model, pictures, case.batch),
        "peak": timing.peak_memory(),
    }
    if not judge:
        return row
    if data and any(item.anomalous for item in data.test):
        from flawscope.evaluation import evaluate

        result = evaluate(model, data)
        scores = [one.prediction.score for one in result.pictures]
        alarms = result.false_alarms["measured"]
        judged = {"image_auroc": result.metrics["image_auroc"], "false_alarms": alarms}
        row["judged"] = {"scores": scores, **judged}
    else:
        scores = [float(getattr(one, "score", 0)) for _, one in model.stream(pictures)]
        row["judged"] = {"scores": scores, "image_auroc": None, "false_alarms": None}
    return row


def _sample_pictures(model: Predictor) -> list[Any]:
    from flawscope.artefact.model_file import unpack_images

    samples = model.artefact.tensors.get("samples")
    if samples is None or not len(samples):
        raise InputError("the model holds no sample pictures: give --data ROOT")
    images = unpack_images(samples).clip(0, 1).transpose(0, 2, 3, 1)
    return [(255 * image).round().astype("uint8") for image in images]


def _table(rows: Sequence[Row]) -> str:
    def number(value: float | None, form: str) -> str:
        return "n/a" if value is None else f"{value:{form}}"

    lines = []
    for row in rows:
        named = [row[k] for k in HEADER[:5]]
        if "error" in row:
            continue
        values = [row["median_ms"], row["p95_ms"], row["pictures_per_second"], row["peak_mib"]]
        values.append(number(row["largest_difference"], ".1e"))
        lines.append([*named, *values, number(row["image_auroc"], ".4f"), number(row["false_alarms"], ".3f")])
    text = [common.format_table(lines, [*HEADER, *ACCURACY])] if lines else []
    text += [
        f"{r['model']}, {r['engine']} {r['precision']}, threads {r['threads']}, batch {r['batch']}: "
        f"failed: {r['error']}"
        for r in rows
        if "error" in r
    ]
    return "\n".join(text)


def _plot(rows: Sequence[Row], path: Path) -> None:
    """Plots image AUROC over p95 latency; pictures a second, where there are no labels."""
    from matplotlib.figure import Figure

    done = [row for row in rows if "error" not in row]
    labelled = all(row["image_auroc"] is not None for row in done)
    key = "image_auroc" if labelled else "pictures_per_second"
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    groups: dict[str, list[Row]] = {}
    for row in done:
        name = f"{Path(row['model']).name} {row['engine']} {row['precision']}"
        groups.setdefault(name, []).append(row)
    for name, group in groups.items():
        axes.plot([row["p95_ms"] for row in group], [row[key] for row in group], "o", label=name)
        for row in group:
            text, at = f"{row['threads']}/{row['batch']}", (row["p95_ms"], row[key])
            axes.annotate(text, at, (3, 3), textcoords="offset points", fontsize=7)
    axes.set(
        xlabel="p95 latency of a call, ms (threads/batch)",
        ylabel=key.replace("_", " ").replace("auroc", "AUROC"),
    )
    axes.grid(alpha=0.3)
    if done:
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
