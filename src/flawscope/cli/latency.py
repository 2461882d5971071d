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
from flawscope.progress import Step

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.datasets.dataset import Item
    from flawscope.predictor import Predictor

KEY = "latency"  # of the manifest's facts
SHOWN = 10  # pictures that are timed in turn, at most
LEAST, MOST = 40, 125  # pictures that a trial learns from; so many fill a bank at its cap at 128 px
TRIAL, CALLS = 60, 200  # timed calls of a trial, and of the finished model
ENOUGH = 0.2  # seconds for each of these calls; where they take longer there are fewer
MARGIN = 0.9  # of the limit that a trial may take, since the finished model must keep it
TORCH = 4.0  # limits that torch may take before no other engine is asked: none here was four times as fast
EIGHT_BITS = 0.75  # of fp32's time, the least that int8 has taken (docs/measurements.md)
BUSY = 0.5  # load a core above which times are doubtful
WAY = ("settings", "engine", "precision")
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
    return common.time_in("milliseconds", "30ms")(text.removesuffix("ms"))


def fitted(args: argparse.Namespace, say: fit_one.Say, step: Step) -> Predictor:
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
    """The search of one call. Rows hold a candidate's `settings`, `engine`, `precision` and times."""

    def __init__(self, args: argparse.Namespace, say: fit_one.Say, step: Step, made: Path):
        from flawscope.artefact import files
        from flawscope.datasets import open_dataset

        self.args, self.say, self.step, self.made = args, say, step, made
        self.limit: float = args.latency
        self.here = timing.surroundings()
        self.threads: int = args.threads or self.here["machine"]["cores"]
        self.cores = pluralize(self.threads, "thread")
        self.out = files.check_writable(args.out)
        self.exported = files.check_writable(self.out.with_suffix(".onnx"))
        self.call = fit_one.asked(args)
        seed = registry.configure(registry.method(self.call.method), "default", self.call.settings).seed
        self.dataset = open_dataset(args.data, args.category, seed=seed, group=args.group or args.part)
        self.shown, self.learnt = divided(self.dataset.train)
        self.tried: list[Row] = []

    def run(self) -> Predictor:
        if (load := self.here["load_average"] or 0) > BUSY * self.here["machine"]["cores"]:
            self.say(f"this machine is busy (load average {load:g}): times are longer than on a quiet one")
        close: list[tuple[Candidate, Row]] = []  # within the limit, but for the margin
        for candidate in candidates(self.call):
            for row in self._trial(candidate):
                if row["p95_ms"] > MARGIN * self.limit:
                    close += [(candidate, row)] if row["p95_ms"] <= self.limit else []
                elif (predictor := self._finished(candidate, row["engine"], row["precision"])) is not None:
                    return predictor
        for candidate, row in sorted(close, key=lambda one: _p95(one[1]))[:1]:
            if (predictor := self._finished(candidate, row["engine"], row["precision"])) is not None:
                return predictor
        fastest = min(timed(self.tried), key=_p95, default=None)
        if fastest is None:
            raise InputError(f"--latency: no candidate could be timed: {self.tried[-1]['error']}")
        raise InputError(
            f"--latency {self.limit:g}ms: the fastest candidate takes {described(fastest)} on "
            f"{self.cores}: allow more time, or give more --threads"
        )

    def _trial(self, candidate: Candidate) -> list[Row]:
        """The fastest way to run a candidate in each precision, of a model like the one that all pictures
        would give, the fastest of all first."""
        method, model = registry.method(candidate.method), self.made / "trial.safetensors"
        config = method.configure(candidate.preset, candidate.settings)
        share = len(self.learnt) / len(self.dataset.train)
        changed = {} if method.rehearse is None else method.rehearse(config, share)
        as_large = replace(candidate, settings={**candidate.settings, **changed})
        few = replace(self.dataset, train=tuple(self.learnt))
        self._fit(as_large, few, model, lambda line: None, no_check=True, no_samples=False)
        rows = [self._time(candidate, model, "torch", "fp32", TRIAL)]
        if rows[0].get("p95_ms", 0) <= TORCH * self.limit:
            rows += self._exports(candidate, model, "fp32")
            best = min(map(_p95, rows))
            if MARGIN * self.limit < best <= MARGIN * self.limit / EIGHT_BITS:
                rows += self._exports(candidate, model, "int8")
        fastest: dict[str, Row] = {}
        for row in sorted(timed(rows), key=_p95):
            fastest.setdefault(row["precision"], row)
        return [*fastest.values()]

    def _exports(self, candidate: Candidate, model: Path, precision: str) -> list[Row]:
        """Rows of all engines that run exported files."""
        from flawscope.export.export import engines_for

        file = model.with_suffix(".onnx")
        try:
            self._export(model, file, precision, self.learnt)
        except FlawscopeError as error:
            return [self._note(candidate, "onnxruntime", precision, {"error": common.reason_of(error)})]
        return [self._time(candidate, file, engine, precision, TRIAL) for engine in engines_for(precision)]

    def _finished(self, candidate: Candidate, engine: str, precision: str) -> Predictor | None:
        """The candidate fitted on all pictures and written, where it keeps the limit."""
        from flawscope.predictor import load

        model, file = self.made / "model.safetensors", self.made / "model.onnx"
        trained = chosen = self._fit(candidate, self.dataset, model, self.say)
        if engine != "torch":
            try:
                self._export(model, file, precision, self.dataset.train)
            except FlawscopeError as error:
                self._note(candidate, engine, precision, {"error": common.reason_of(error), "finished": True})
                return None
            chosen = load(file, engine=engine, device="cpu", threads=self.args.threads)
        written = model if engine == "torch" else file
        row = self._time(candidate, written, engine, precision, CALLS, finished=True)
        if _p95(row) > self.limit:
            return None
        self.tried.remove(row)
        facts = {"limit_ms": self.limit, **row, "threads": self.threads, **self.here, "tried": self.tried}
        lines = [
            f"latency: {described(row)}, half of the pictures in {row['median_ms']:.3g} ms (asked: "
            f"{self.limit:g} ms), on {self.cores} of {self.here['machine']['cpu']}",
            *given_up(self.tried, row),
        ]
        for one in {id(one): one for one in (trained, chosen)}.values():
            one.manifest.facts[KEY] = facts
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
        predictor, _ = fit_one.model_of(args, call, None, say, self.step, dataset)
        predictor.save(out)
        return predictor

    def _export(self, model: Path, file: Path, precision: str, good: Sequence[Item]) -> None:
        from flawscope.export.export import export

        pictures = [item.path for item in good] if precision != "fp32" or self.args.no_samples else []
        export(model, file, precision=precision, pictures=pictures, step=self.step)

    def _time(
        self, candidate: Candidate, file: Path, engine: str, precision: str, calls: int, **more: Any
    ) -> Row:
        paths = [os.fspath(item.path) for item in self.shown]
        way = os.fspath(file), engine, self.threads, paths, calls
        times = _times(*way)
        if times.get("p95_ms", 0) > TORCH * self.limit:  # another process may have run beside it: once more
            times = min(times, _times(*way), key=_p95)
        return self._note(candidate, engine, precision, {**times, **more})

    def _note(self, candidate: Candidate, engine: str, precision: str, found: Row) -> Row:
        row = {**dict(zip(WAY, (candidate.name, engine, precision), strict=True)), **found}
        self.tried.append(row)
        self.say(f"{'the model' if row.get('finished') else 'trial'}: {described(row)}")
        return row


def candidates(call: fit_one.Asked) -> Iterator[Candidate]:
    """Yields the method's candidates with the settings that were given, which win; each once.

    Raises:
        InputError: the method names none.
    """
    asked, known = registry.method(call.method), list[Any]()
    if not asked.candidates:
        able = ", ".join(one.name for one in registry.loadable() if one.candidates)
        raise InputError(f"{asked.name} names no candidates for --latency: take {able}, or leave it out")
    for one in asked.candidates:
        method, preset = str(one.get("method", asked.name)), str(one.get("preset", "default"))
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


def divided(train: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Pictures that are timed, and others that a trial learns from, both spread evenly over the good ones."""
    every = max(5, len(train) // SHOWN)
    shown = list(train[every // 2 :: every]) or list(train)
    rest = [item for item in train if item not in shown] or shown
    few = min(max(LEAST, len(train) // 8), MOST)  # an eighth: banks hold up to a tenth of all patches
    return shown, rest[:: -(-len(rest) // few)]


def described(row: Row) -> str:
    """A row in words: its time and what it is of."""
    what = f"{row['settings']}, {row['engine']} {row['precision']}"
    return f"{what}: {row['error']}" if "error" in row else f"{row['p95_ms']:.3g} ms ({what})"


def _p95(row: Row) -> float:
    return float(row.get("p95_ms", "inf"))


def timed(tried: Sequence[Row]) -> list[Row]:
    """Rows with times; the row of a finished model in the place of its trial's, also where it has none."""
    ways = {tuple(row[k] for k in WAY): row for row in tried if "p95_ms" in row or row.get("finished")}
    return [row for row in ways.values() if "p95_ms" in row]


def given_up(tried: Sequence[Row], chosen: Row) -> list[str]:
    """A line with the settings and precisions that were too slow, each with its time in the best engine."""
    took: dict[str, float] = {}
    for row in timed(tried):
        if any(row[key] != chosen[key] for key in ("settings", "precision")):
            name = row["settings"] + ("" if row["precision"] == "fp32" else f" in {row['precision']}")
            took[name] = min(row["p95_ms"], took.get(name, row["p95_ms"]))
    return ["given up for it: " + ", ".join(f"{k} ({v:.3g} ms)" for k, v in took.items())] if took else []


def _times(*way: Any) -> Row:
    """Times of the calls that `_seconds` makes in a process of its own, or why there are none."""
    found = timing.in_process(_seconds, *way)
    return found if "error" in found else timing.latency(found["seconds"])


def _seconds(file: str, engine: str, threads: int, paths: Sequence[str], calls: int) -> Row:
    """Seconds from a picture's decoded pixels to its decision, as `flawscope predict` answers for one."""
    from flawscope.pictures.decoding import decode
    from flawscope.predictor import load

    model = load(file, engine=None if engine == "torch" else engine, device="cpu", threads=threads)
    return {
        "seconds": timing.timed(model, [decode(path) for path in paths], calls=calls, enough=calls * ENOUGH)
    }
