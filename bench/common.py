"""What the measurements share: arguments, data, timing, child processes, results on disk.

Imports neither torch nor flawscope by itself, so that a script that only starts other processes stays small.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import inspect
import json
import math
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / house / "src") for house in ("", "station", "line")]
RESULTS = ROOT / "bench" / "results"
MIB = 2**20
PACKAGES = ("flawscope", "torch", "torchvision", "timm", "numpy", "pillow", "scipy", "safetensors")
PACKAGES += ("onnx", "onnxruntime", "openvino", "scikit-learn", "ray", "pyarrow", "av")
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "au_pro")
MAIN_METRICS = ("image_auroc", "pixel_auroc", "au_pro")
GROUPED = ("commutator", "paper")  # sets whose names begin with the item or the sheet, before a `_`
# settings of `--quick`, which runs in seconds; its figures mean nothing
QUICK: dict[str, dict[str, Any]] = {
    "patchcore": {"size": "64"},
    "efficientad": {"steps": 2, "window": 41, "natural": "none", "training": "fp32"},
    "prnet": {"size": "64", "width": 0.25, "batch": 2, "steps": 2, "training": "fp32"},
}
Args = argparse.Namespace
Cell = dict[str, Any]
Settings = dict[str, Any]
Work = Callable[[], object]


# --------------------------------------------------------------------------------------------- arguments


def make_parser(description: str | None, name: str, *, methods: str = "", data: bool = True) -> Any:
    """Makes a parser with the options that every script has.

    Args:
        methods: default of --methods, `all` for all; empty: the script fits nothing.
        data: whether it reads a data set.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="default: %(default)s")
    made.add_argument("--again", action="store_true", help="measure anew what the results already hold")
    made.add_argument("--quick", action="store_true", help="a trial of the script on drawn data, in seconds")
    made.add_argument("--work", type=Path, help="keep models and other files here")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    if data:
        made.add_argument("--data", type=Path, help="folder with mvtec/CATEGORY (default: $FLAWSCOPE_DATA)")
        made.add_argument("--categories", default="transistor,toothbrush", help="default: %(default)s")
    if methods:
        made.add_argument("--methods", default=methods, help="default: %(default)s")
        made.add_argument("--preset", default="default", help="of every method (default: %(default)s)")
        made.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE",
            help="setting of every method that has it; METHOD.KEY=VALUE: of one",
        )  # fmt: skip
    return made


def parse_arguments(made: Any, **quick: Any) -> Args:
    """Parses the arguments; with --quick, drawn data and the values of `quick` are the defaults."""
    args = made.parse_args()
    if args.quick:
        folder = Path(tempfile.mkdtemp(prefix="flawscope-quick-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if "data" in args:
            quick = {"data": folder, "categories": "plate", **quick}
            draw_plates(folder / "mvtec", train=16, good=4, bad=2, size=96)
        made.set_defaults(out=folder / args.out.name, **quick)
        args = made.parse_args()
    return args


def draw_plates(folder: Path, *, train: int, good: int = 0, bad: int = 0, size: int = 256) -> Path:
    """Draws a data set of plates, once; returns its root."""
    from flawscope.synthesis.demo.dataset import draw_dataset

    if not (folder / "plate").is_dir():
        draft = folder / ".draft"
        draw_dataset(draft, train=train, good=good, bad_per_kind=bad, size=size, seed=1)
        (draft / "plate").rename(folder / "plate")
        shutil.rmtree(draft)
    return folder / "plate"


def simulate_defects(
    good: Sequence[NDArray[np.uint8]], count: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yields pictures with simulated defects of all kinds and sizes, on good ones in turn, with masks."""
    import numpy as np

    from flawscope.synthesis import DefectScale, Foreground, simulate_defect
    from flawscope.synthesis.simulate import KINDS

    part, kinds, scales = Foreground.of(good), [*KINDS], [*DefectScale]
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        carrier = good[number % len(good)]
        defect = simulate_defect(
            carrier,
            rng,
            kind=kinds[number % len(kinds)],
            scale=scales[number // len(kinds) % len(scales)],
            contrast=math.exp(rng.uniform(math.log(8), math.log(64))),
            foreground=part.mask(carrier),
        )
        yield defect.picture, defect.mask


class Pictures(NamedTuple):
    """Pictures, paths or [H, W, 3] uint8, with their masks [H, W] bool."""

    pictures: list[Any]
    masks: list[NDArray[np.bool_]]


def with_simulated_defects(good: Sequence[NDArray[np.uint8]], count: int, seed: int) -> Pictures:
    """Good pictures, then simulated defects of all kinds and sizes on them."""
    import numpy as np

    found = Pictures([*good], [np.zeros(picture.shape[:2], bool) for picture in good])
    for picture, mask in simulate_defects(good, count, seed):
        found.pictures.append(picture)
        found.masks.append(mask)
    return found


def judge_maps(
    scores: NDArray[np.floating], maps: Iterable[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> Cell:
    """Metrics of pictures' scores and of their maps, brought to the pictures' size, bilinear."""
    import numpy as np
    from PIL import Image

    from flawscope.evaluation.metrics import image_metrics, pixel_metrics

    at_size = [
        np.asarray(Image.fromarray(values).resize(mask.shape[::-1], Image.Resampling.BILINEAR))
        for values, mask in zip(maps, masks, strict=True)
    ]
    defective = np.array([bool(mask.any()) for mask in masks])
    pixel = pixel_metrics(at_size, masks)
    found = {
        "image_auroc": image_metrics(defective, scores).auroc,
        "au_pro": pixel.au_pro,
        "pixel_ap": pixel.ap,
    }
    return {name: round_to(value, 4) for name, value in found.items()}


def group_of(path: Path) -> str:
    """The item or sheet that a picture of a set, SET/SPLIT/KIND/NAME, shows."""
    is_grouped = any(path.parts[-4].startswith(word) for word in GROUPED)
    return path.stem.partition("_")[0] if is_grouped else path.stem


def ints(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def add_runtimes(made: Any, precisions: str = "fp32,bf16") -> None:
    made.add_argument("--runtimes", default=",".join(RUNTIMES), help="default: %(default)s")
    made.add_argument("--precisions", default=precisions, help="default: %(default)s")


# suffix of a model file, by the runtime that opens it
RUNTIMES = {"torch": ".safetensors", "onnxruntime": ".onnx", "openvino": ".openvino.onnx"}
PRECISIONS = {
    "torch": ("fp32", "bf16"),  # torch imitates fp16 on a CPU, minutes a batch
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}


def combinations(args: Args) -> list[tuple[str, str]]:
    """Pairs (runtime, precision) of --runtimes and --precisions that exist."""
    asked = args.precisions.split(",")
    return [(r, p) for r in args.runtimes.split(",") for p in PRECISIONS[r] if p in asked]


def category_folders(args: Args) -> Iterator[tuple[str, Path]]:
    """Yields name and folder of each of --categories that is there."""
    names = [f"mvtec/{one}" for one in args.categories.split(",") if one]
    yield from ((folder.name, folder) for _, folder in set_folders(args, names))


def set_folders(args: Args, names: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Yields name and folder of each of these sets, mvtec/NAME or real/NAME, that is there."""
    root = Path(args.data or os.environ.get("FLAWSCOPE_DATA") or ROOT / "data")
    for name in filter(None, names):
        if (root / name).is_dir():
            yield name, root / name
        else:
            say(f"skipped: no {name} below the data root; give --data or set FLAWSCOPE_DATA")


def measure_sets(
    args: Args, record: Record, names: Iterable[str], measure: Callable[[Path], Cell]
) -> dict[str, Cell]:
    """Measures each of these sets that is there; returns the cells of those that did not fail."""
    cells: dict[str, Cell] = {}
    for name, root in set_folders(args, names):
        cell = record.attempt(name, partial(measure, root))
        if cell is not None:
            cells[name] = cell
    return cells


def methods(args: Args) -> list[str]:
    from flawscope.methods import registry

    return registry.names() if args.methods == "all" else args.methods.split(",")


def cases(args: Args) -> Iterator[tuple[str, Path, str, str]]:
    """Yields category, its folder, method, and a label of these and the settings."""
    for category, root in category_folders(args):
        for method in methods(args):
            words = label_of(settings(args, method), args.preset)
            yield category, root, method, f"{category}/{method}, {words}"


def settings(args: Args, method: str) -> Settings:
    """Settings of a method among those of --set, as arguments of `flawscope.fit`."""
    from flawscope.config import parse_assignments
    from flawscope.methods import registry

    own = {**QUICK.get(method, {})} if args.quick else {}
    asked, names = registry.method(method), registry.names()
    for key, value in parse_assignments(args.set).items():
        owner, dot, name = key.rpartition(".")
        if owner == method or (not dot and name in asked.config.__dataclass_fields__):
            own = {**own, name: value}
        elif dot and owner not in names:
            raise SystemExit(f"--set {key}: no method called {owner}")
    made = asked.configure(args.preset, own)  # a wrong one is reported before the work
    return {name: getattr(made, name, value) for name, value in own.items()}  # typed


def label_of(values: Mapping[str, Any], preset: str = "default") -> str:
    """Describes settings in words, without folders."""
    words = [] if preset == "default" else [preset]
    words += [f"{key}={Path(v).name if isinstance(v, str) else v}" for key, v in values.items()]
    return ", ".join(words) or "default"


def parse_models(args: Args) -> dict[str, str]:
    """Files of --models METHOD=FILE,..., by method."""
    return dict(pair.split("=", 1) for pair in args.models.split(",") if pair)


def slug(text: str) -> str:
    """Turns a text into a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def exported_model(work: Path, size: str, *, train: int, good: int, side: int) -> tuple[Path, Path]:
    """Fits and exports a PatchCore of drawn plates, once; returns the model and the plates' folder."""
    data = draw_plates(work, train=train, good=good, bad=4, size=side)
    fitted, made = work / f"model-{size}.safetensors", work / f"model-{size}.onnx"
    if not made.is_file():
        flawscope("fit", "--data", data, "--size", size, "--out", fitted, "--quiet")
        flawscope("export", fitted, "--out", made, "--quiet")
    return made, data


def size_mib(path: str | Path) -> Any:
    return round_to(Path(path).stat().st_size / MIB, 4)


def pictures_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


# --------------------------------------------------------------------------------------- timing, numbers


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_rounds(
    works: Mapping[str, Work], repeats: int, warm: int = 1, pause: float = 0.0
) -> dict[str, list[float]]:
    """Times works, all of them in every round (A B A B), so that a drift meets all alike. `pause`:
    seconds of rest before each, so that one engine's threads, which spin on for a while, take no core from
    the next."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(warm + repeats):
        for name, work in works.items():
            time.sleep(pause)
            took = seconds(work)
            if round_ >= warm:
                times[name].append(took)
    return times


def p50_p99(times: Sequence[float]) -> Cell:
    """Median and 99th percentile (nearest rank: the largest of up to 100) of times, and their number."""
    ordered = sorted(times)
    last = ordered[math.ceil(0.99 * (len(ordered) + 1)) - 2] if len(ordered) > 100 else ordered[-1]
    return {"median": round_to(statistics.median(ordered)), "p99": round_to(last), "repeats": len(ordered)}


def summary(times: Sequence[float]) -> Cell:
    """Median of times, and all times."""
    return {"median": round_to(statistics.median(times)), "all": [round_to(t) for t in times]}


def round_to(value: float | None, digits: int = 6) -> Any:
    """Rounds to so many significant digits; None stays."""
    return None if value is None else float(f"{value:.{digits}g}")


# --------------------------------------------------------------------------------------- child processes


MEMORY_INTERVAL = 0.02  # seconds between two readings of a process's memory, at least


@dataclass(frozen=True)
class ChildResult:
    """A finished process: wall time, processor time, and the largest memory that it and all below it held at
    a time."""

    seconds: float
    cpu: float  # seconds of the processor, with those of its own children
    peak: int  # bytes
    stdout: str

    @property
    def json(self) -> Any:
        """The JSON document in the last line printed."""
        return json.loads(self.stdout.strip().splitlines()[-1])

    @property
    def facts(self) -> Cell:
        """Wall time and peak memory of the process, for a result."""
        return {"process_seconds": round_to(self.seconds), "process_peak_mib": self.peak // MIB}


def run(command: Sequence[Any], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> ChildResult:
    """Run and measure a process; its errors end the measurement, with its last words. `env`: all of it."""
    words = [os.fspath(word) for word in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began, cpu_before = time.perf_counter(), _children_cpu()
        process = subprocess.Popen(words, stdout=out, stderr=err, env=env, cwd=cwd)
        peak, ended = [0], threading.Event()

        def watch() -> None:  # beside the wait, which then ends with the process and not at the next poll
            pause = MEMORY_INTERVAL
            while not ended.wait(pause):
                started = time.thread_time()
                peak[0] = max(peak[0], _tree_memory(process.pid))
                # a reading of many large processes takes long, and slows down what is measured
                pause = max(MEMORY_INTERVAL, 50 * (time.thread_time() - started))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            took = time.perf_counter() - began
            ended.set()
            watcher.join()
        out.seek(0)
        err.seek(0)
        if code:
            last = "\n".join(err.read().strip().splitlines()[-8:])
            raise SystemExit(f"{shlex.join(words)}\nfailed with {code}:\n{last}")
        return ChildResult(took, _children_cpu() - cpu_before, peak[0], out.read())


def _children_cpu() -> float:
    """Processor seconds of all children that have ended; 0 on Windows, which does not count them."""
    times = os.times()
    return times.children_user + times.children_system


def _tree_memory(process: int, first: bool = True) -> int:
    """Bytes (Linux; elsewhere 0): the most that the process itself held, and what those below it hold now,
    pages that they share once."""
    file, key = ("status", "VmHWM:") if first else ("smaps_rollup", "Pss:")
    total = 0
    with contextlib.suppress(OSError, StopIteration):  # it has ended
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
        total = 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(_tree_memory(int(child), False) for child in (task / "children").read_text().split())
    return total


def flawscope(*words: str | Path) -> ChildResult:
    """Runs `flawscope ...` in a process of its own."""
    return run([sys.executable, "-m", "flawscope", *words])


def run_function(function: Callable[..., Any], **values: Any) -> ChildResult:
    """Calls a function of a script in a fresh process; arguments and result are passed as JSON."""
    given = {k: os.fspath(v) if isinstance(v, Path) else v for k, v in values.items()}
    script = inspect.getsourcefile(function)
    assert script
    return run([sys.executable, script, "--task", function.__name__, json.dumps(given)])


def run_script(main: Callable[[], int] | None = None) -> int:
    """Runs a script's `main`, or the function that `run_function` asks for."""
    from flawscope.errors import FlawscopeError

    try:
        if sys.argv[1:2] == ["--task"]:
            print(json.dumps(getattr(sys.modules["__main__"], sys.argv[2])(**json.loads(sys.argv[3]))))
            return 0
        return main() if main else 0
    except FlawscopeError as error:
        say(f"error: {error}")
        return 2


def device_peak(device: str) -> int | None:
    """Peak memory on a GPU in MiB; None on other devices."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated() // MIB)


@contextlib.contextmanager
def workspace(given: Path | None) -> Iterator[Path]:
    """Folder for intermediate files: a given one is kept, a temporary one is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="flawscope-bench-") as folder:
        yield Path(folder)


# ----------------------------------------------------------------------------------------------- results


class Record:
    """Results on disk, written after every cell, so that a long run can be stopped and taken up again. A cell
    that is there is not measured again, unless --again is given."""

    def __init__(self, args: Args, what: str):
        """Prints machine and versions, too."""
        from flawscope.machine import machine_info

        self.path: Path = args.out
        self.again: bool = args.again
        data = str(getattr(args, "data", None) or os.environ.get("FLAWSCOPE_DATA") or ROOT / "data")
        self.private = {data: "$FLAWSCOPE_DATA", str(ROOT): "."}
        script = Path(sys.argv[0]).resolve()
        self.script = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
        self.document: Cell = {"what": what, "script": self.script, "cells": {}}
        if self.path.is_file():
            before = json.loads(self.path.read_text())
            if before.get("script") == self.script:
                self.document["cells"] = before["cells"]
            else:
                say(f"{self.path.name} is of another script: starting anew")
        self.cells: Cell = self.document["cells"]
        self._done: set[str] = set()
        self.failures: list[str] = []
        self.facts = {"machine": machine_info(), "versions": _versions(), "commit": _commit()}
        shown = " ".join(f"{k} {v}" for part in list(self.facts.values())[:2] for k, v in part.items())
        print(f"{what}\n{shown} commit {self.facts['commit']}", flush=True)

    def has(self, name: str) -> bool:
        """Whether the result is taken from the file."""
        return name in self.cells and (not self.again or name in self._done)

    def cell(self, name: str, work: Callable[[], Cell]) -> Cell:
        """Returns the result `name` from the file, or measures and writes it."""
        if self.has(name):
            say(f"{name}: taken from {self.path.name}")
            return self.cells[name]
        say(f"{name} ...")
        load, began = os.getloadavg()[0], time.perf_counter()
        found = work()
        spent = {"load_average_before": round(load, 2), "seconds": round(time.perf_counter() - began, 1)}
        self.cells[name] = self._clean({**found, "_": {"command": self._command(), **self.facts, **spent}})
        self._done.add(name)
        self._write()
        return self.cells[name]

    def attempt(self, name: str, work: Callable[[], Cell]) -> Cell | None:
        """Like `cell`, but a failure gives None, a remark and an entry in `failures`."""
        from flawscope.errors import FlawscopeError

        try:
            return self.cell(name, work)
        except (SystemExit, FlawscopeError, ImportError) as error:
            say(f"FAILED: {name}: {error}")
            self.failures.append(name)
            return None

    def task(self, name: str, function: Callable[..., Any], **values: Any) -> Cell | None:
        """Like `attempt`, of a script's function in a fresh process."""
        return self.attempt(name, lambda: run_function(function, **values).json)

    def status(self) -> int:
        """The exit code."""
        return 1 if self.failures else 0

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.document, indent=1) + "\n")
        draft.replace(self.path)

    def _clean(self, value: Any) -> Any:
        """Replaces this machine's folders in texts."""
        if isinstance(value, Mapping):
            return {str(k): self._clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(v) for v in value]
        if isinstance(value, str | Path):
            text = str(value)
            for folder, name in self.private.items():
                text = text.replace(folder, name)
            return text
        return value

    def _command(self) -> str:
        """The command line, with other folders and files by their names only."""
        words = [re.sub(r"(^|(?<=[=,]))/[^=,]*/([^/=,]+)", r"\2", self._clean(w)) for w in sys.argv[1:]]
        return " ".join(["python", self.script, *(w if w.startswith("$") else shlex.quote(w) for w in words)])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commit() -> str:
    """The commit that is measured, with a plus where the source differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "src") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table; the rows' keys are its header."""
    from flawscope.cli.common import format_table

    if rows:
        header = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_format_value(row.get(key)) for key in header] for row in rows]
        print(f"\n{title}\n{format_table(cells, header)}")


def _format_value(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value


def to_ms(found: Mapping[str, Any] | None) -> float | None:
    """Median of seconds, in milliseconds."""
    return None if found is None else round_to(1000 * found["median"], 4)


def without_metadata(cell: Cell) -> Cell:
    """A cell without the facts of its measurement (`_`)."""
    return {key: value for key, value in cell.items() if key != "_"}


def false_alarms_text(found: Mapping[str, Any]) -> str:
    """Formats `false_alarms` of an evaluation."""
    if found["measured"] is None:
        return "-"
    low, high = found["interval"]
    return f"{found['measured']:.1%} ({low:.1%} to {high:.1%}), target {found['target']:.1%}"
