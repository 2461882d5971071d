"""Fits the most accurate model that answers within a time on this machine: `flawscope fit --latency 30ms`.

The method names settings from the most accurate to the fastest (`Method.candidates`). Each is fitted on a few
of the pictures, with a memory bank as large as all of them would fill, exported, and timed in every engine
that is here; the first that is fast enough is fitted on all pictures and timed again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flawscope.benchmark import timing
from flawscope.cli import common, fit_one
from flawscope.errors import FlawscopeError, InputError, pluralize, require_installed
from flawscope.methods import registry
from flawscope.progress import ProgressCallback

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.datasets.dataset import Item
    from flawscope.predictor import Predictor

FACT_KEY = "latency"  # of the manifest's facts
MAX_TIMED = 10  # pictures that are timed in turn at most
MIN_TRIAL_PICTURES, MAX_TRIAL_PICTURES = 40, 125  # the most fill a bank up to its cap at 128 px
TRIAL_CALLS, FINAL_CALLS = 60, 200  # timed calls: of a trial, of the finished model
SECONDS_PER_CALL = 0.2  # mean time of a timed call beyond which fewer are made
TRIAL_MARGIN = 0.9  # of the limit, for a trial: the finished model may be a little slower
TORCH_TIME_RATIO = 4.0  # no engine was 4 times as fast as torch: beyond, none is timed
INT8_TIME_RATIO = 0.75  # of fp32's time: the fastest int8 measured (docs/measurements.md)
BUSY_LOAD = 0.5  # load a core above which times are doubtful
ROW_KEYS = ("settings", "engine", "precision")
Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """Settings in words, and as `fit` takes them."""

    name: str
    method: str
    preset: str
    settings: dict[str, Any]


def milliseconds(text: str) -> float:
    """Reads 30ms or 30."""
    return common.time_parser("milliseconds", "30ms")(text.removesuffix("ms"))


def fit_within_limit(args: argparse.Namespace, say: fit_one.Say, step: ProgressCallback) -> Predictor:
    """Fits the most accurate model whose 95th percentile from decoded pixels to the decision is at most
    `--latency` on this machine's processor, and writes it to `--out`, with an .onnx file beside it where an
    engine other than torch is the faster. Returns the model in that engine.

    Raises:
        InputError: the options do not go together, or no candidate is fast enough.
    """
    refused = ("preset", "min_defect", "update", "cluster", "resume")
    if given := [f"--{name.replace('_', '-')}" for name in refused if getattr(args, name)]:
        raise InputError(f"--latency chooses the settings of one new model: leave out {given[0]}")
    if args.device not in ("auto", "cpu"):
        raise InputError(f"--latency times the processor: leave out --device {args.device}")
    require_installed("--latency", "onnx", "onnxscript", extras="train,export")
    with TemporaryDirectory(prefix="flawscope-latency-") as made:
        return _Search(args, say, step, Path(made)).run()


class _Search:
    """Search of one call. A row has a candidate's settings, engine and precision, and times or an error."""

    def __init__(self, args: argparse.Namespace, say: fit_one.Say, step: ProgressCallback, folder: Path):
        from flawscope.artefact import files
        from flawscope.datasets import open_dataset

        self.args, self.say, self.step, self.folder = args, say, step, folder
        self.limit: float = args.latency
        self.host = timing.environment_facts()
        self.threads: int = args.threads or self.host["machine"]["cores"]
        self.cores = pluralize(self.threads, "thread")
        self.out = files.check_writable(args.out)
        self.exported = files.check_writable(self.out.with_suffix(".onnx"))
        self.call = fit_one.read_fit_settings(args)
        seed = registry.configure(registry.method(self.call.method), "default", self.call.settings).seed
        self.dataset = open_dataset(args.data, args.category, seed=seed, group=args.group or args.part)
        self.timed_items, self.trial_items = split_pictures(self.dataset.train)
        self.rows: list[Row] = []

    def run(self) -> Predictor:
        if (load := self.host["load_average"] or 0) > BUSY_LOAD * self.host["machine"]["cores"]:
            self.say(f"this machine is busy (load average {load:g}): times are longer than on a quiet one")
        close: list[tuple[Candidate, Row]] = []  # within the limit, but for the margin
        for candidate in candidates(self.call):
            for row in self._run_trial(candidate):
                if row["p95_ms"] > TRIAL_MARGIN * self.limit:
                    close += [(candidate, row)] if row["p95_ms"] <= self.limit else []
                elif (predictor := self._fit_final(candidate, row["engine"], row["precision"])) is not None:
                    return predictor
        for candidate, row in sorted(close, key=lambda one: _p95(one[1]))[:1]:
            if (predictor := self._fit_final(candidate, row["engine"], row["precision"])) is not None:
                return predictor
        fastest = min(timed_rows(self.rows), key=_p95, default=None)
        if fastest is None:
            raise InputError(f"--latency: no candidate could be timed: {self.rows[-1]['error']}")
        raise InputError(
            f"--latency {self.limit:g}ms: the fastest candidate takes {describe_row(fastest)} on "
            f"{self.cores}: allow more time, or give more --threads"
        )

    def _run_trial(self, candidate: Candidate) -> list[Row]:
        """Times a candidate on a trial model as large as the one of all pictures; returns the row of the
        fastest engine for each precision, fastest first."""
        method, model = registry.method(candidate.method), self.folder / "trial.safetensors"
        config = method.configure(candidate.preset, candidate.settings)
        share = len(self.trial_items) / len(self.dataset.train)
        changed = {} if method.rehearse is None else method.rehearse(config, share)
        as_large = replace(candidate, settings={**candidate.settings, **changed})
        few = replace(self.dataset, train=tuple(self.trial_items))
        self._fit(as_large, few, model, lambda line: None, no_check=True, no_samples=False)
        rows = [self._time(candidate, model, "torch", "fp32", TRIAL_CALLS)]
        if rows[0].get("p95_ms", 0) <= TORCH_TIME_RATIO * self.limit:
            rows += self._time_exports(candidate, model, "fp32")
            best = min(map(_p95, rows))
            if TRIAL_MARGIN * self.limit < best <= TRIAL_MARGIN * self.limit / INT8_TIME_RATIO:
                rows += self._time_exports(candidate, model, "int8")
        fastest: dict[str, Row] = {}
        for row in sorted(timed_rows(rows), key=_p95):
            fastest.setdefault(row["precision"], row)
        return [*fastest.values()]

    def _time_exports(self, candidate: Candidate, model: Path, precision: str) -> list[Row]:
        """Exports the model, and times it in all engines that run such files."""
        from flawscope.export.export import engines_for

        file = model.with_suffix(".onnx")
        try:
            self._export(model, file, precision, self.trial_items)
        except FlawscopeError as error:
            return [self._add_row(candidate, "onnxruntime", precision, {"error": common.reason_of(error)})]
        return [self._time(candidate, file, name, precision, TRIAL_CALLS) for name in engines_for(precision)]

    def _fit_final(self, candidate: Candidate, engine: str, precision: str) -> Predictor | None:
        """Fits a candidate on all pictures, times and writes it; None where it does not keep the limit."""
        from flawscope.predictor import load

        model, file = self.folder / "model.safetensors", self.folder / "model.onnx"
        trained = chosen = self._fit(candidate, self.dataset, model, self.say)
        if engine != "torch":
            try:
                self._export(model, file, precision, self.dataset.train)
            except FlawscopeError as error:
                failure = {"error": common.reason_of(error), "finished": True}
                self._add_row(candidate, engine, precision, failure)
                return None
            chosen = load(file, engine=engine, device="cpu", threads=self.args.threads)
        written = model if engine == "torch" else file
        row = self._time(candidate, written, engine, precision, FINAL_CALLS, finished=True)
        if _p95(row) > self.limit:
            return None
        self.rows.remove(row)
        facts = {"limit_ms": self.limit, **row, "threads": self.threads, **self.host, "tried": self.rows}
        lines = [
            f"latency: {describe_row(row)}, half of the pictures in {row['median_ms']:.3g} ms (asked: "
            f"{self.limit:g} ms), on {self.cores} of {self.host['machine']['cpu']}",
            *slower_settings_line(self.rows, row),
        ]
        for one in {id(one): one for one in (trained, chosen)}.values():
            one.manifest.facts[FACT_KEY] = facts
            one.manifest.facts["summary"] = [*one.manifest.facts["summary"], *lines]
        trained.save(self.out)
        if chosen is not trained:
            chosen.save(self.exported)
            chosen.failures, chosen.suspects = trained.failures, trained.suspects
        return chosen

    def _fit(
        self, candidate: Candidate, dataset: Dataset, out: Path, say: fit_one.Say, **options: bool
    ) -> Predictor:
        method, preset, settings = candidate.method, candidate.preset, candidate.settings
        call = self.call._replace(method=method, preset=preset, settings=settings)
        args = argparse.Namespace(**{**vars(self.args), "out": str(out), **options})
        predictor, _ = fit_one.fit_model(args, call, None, say, self.step, dataset)
        predictor.save(out)
        return predictor

    def _export(self, model: Path, file: Path, precision: str, good: Sequence[Item]) -> None:
        from flawscope.export.export import export

        pictures = [item.path for item in good] if precision != "fp32" or self.args.no_samples else []
        export(model, file, precision=precision, pictures=pictures, step=self.step)

    def _time(
        self, candidate: Candidate, file: Path, engine: str, precision: str, calls: int, **more: Any
    ) -> Row:
        paths = [os.fspath(item.path) for item in self.timed_items]
        way = os.fspath(file), engine, self.threads, paths, calls
        times = _time_in_process(*way)
        if times.get("p95_ms", 0) > TORCH_TIME_RATIO * self.limit:  # a busy moment, perhaps: once more
            times = min(times, _time_in_process(*way), key=_p95)
        return self._add_row(candidate, engine, precision, {**times, **more})

    def _add_row(self, candidate: Candidate, engine: str, precision: str, found: Row) -> Row:
        row = {**dict(zip(ROW_KEYS, (candidate.name, engine, precision), strict=True)), **found}
        self.rows.append(row)
        self.say(f"{'the model' if row.get('finished') else 'trial'}: {describe_row(row)}")
        return row


def candidates(call: fit_one.FitSettings) -> Iterator[Candidate]:
    """Yields the method's candidates with the settings that were given, which win; each once.

    Raises:
        InputError: the method names none.
    """
    base, known = registry.method(call.method), list[Any]()
    if not base.candidates:
        able = ", ".join(one.name for one in registry.loadable_methods() if one.candidates)
        raise InputError(f"{base.name} names no candidates for --latency: take {able}, or leave it out")
    for one in base.candidates:
        method, preset = str(one.get("method", base.name)), str(one.get("preset", "default"))
        own = {k: v for k, v in one.items() if k not in ("method", "preset", *call.settings)}
        settings = {**own, **call.settings}
        try:
            config = registry.method(method).configure(preset, settings)
        except InputError:  # another method, which does not have all that was given
            continue
        if config not in known:
            known.append(config)
            words = [*([preset] if preset != "default" else []), *(f"{k}={v}" for k, v in own.items())]
            yield Candidate(" ".join(words) or "default", method, preset, settings)


def split_pictures(train: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Chooses pictures to time, and others for a trial to learn from, both spread evenly over `train`."""
    every = max(5, len(train) // MAX_TIMED)
    shown = list(train[every // 2 :: every]) or list(train)
    rest = [item for item in train if item not in shown] or shown
    few = min(max(MIN_TRIAL_PICTURES, len(train) // 8), MAX_TRIAL_PICTURES)  # banks hold 1/10 of patches
    return shown, rest[:: -(-len(rest) // few)]


def describe_row(row: Row) -> str:
    """Describes a row: its time or error, settings, engine and precision."""
    what = f"{row['settings']}, {row['engine']} {row['precision']}"
    return f"{what}: {row['error']}" if "error" in row else f"{row['p95_ms']:.3g} ms ({what})"


def _p95(row: Row) -> float:
    return float(row.get("p95_ms", "inf"))


def timed_rows(tried: Sequence[Row]) -> list[Row]:
    """Returns rows with times; a finished model's row, also a failed one, replaces its trial's."""
    ways = {tuple(row[k] for k in ROW_KEYS): row for row in tried if "p95_ms" in row or row.get("finished")}
    return [row for row in ways.values() if "p95_ms" in row]


def slower_settings_line(tried: Sequence[Row], chosen: Row) -> list[str]:
    """Lists in one line the settings and precisions that were too slow, with their best times; else empty."""
    took: dict[str, float] = {}
    for row in timed_rows(tried):
        if any(row[key] != chosen[key] for key in ("settings", "precision")):
            name = row["settings"] + ("" if row["precision"] == "fp32" else f" in {row['precision']}")
            took[name] = min(row["p95_ms"], took.get(name, row["p95_ms"]))
    return ["given up for it: " + ", ".join(f"{k} ({v:.3g} ms)" for k, v in took.items())] if took else []


def _time_in_process(*way: Any) -> Row:
    """Summarizes `_call_seconds` of a process of its own, or returns its error."""
    found = timing.in_process(_call_seconds, *way)
    return found if "error" in found else timing.summarize(found["seconds"])


def _call_seconds(file: str, engine: str, threads: int, paths: Sequence[str], calls: int) -> Row:
    """Times calls, in seconds, from a picture's decoded pixels to its decision, as `predict` makes it."""
    from flawscope.pictures.decoding import decode
    from flawscope.predictor import load

    model = load(file, engine=None if engine == "torch" else engine, device="cpu", threads=threads)
    pictures, most = [decode(path) for path in paths], calls * SECONDS_PER_CALL
    return {"seconds": timing.time_calls(model, pictures, calls=calls, max_seconds=most)}
