"""What the measurements share: the machine in words, timing, child processes, results on disk.

Imports neither torch nor flawscope by itself, so that a script that only starts other processes stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from flawscope.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
CATEGORIES = ("transistor", "toothbrush")
PACKAGES = ("flawscope", "torch", "torchvision", "timm", "numpy", "pillow", "scipy", "safetensors")
ENGINES = ("onnx", "onnxruntime", "openvino")
MIB, GIB = 2**20, 2**30
METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "au_pro": "AU-PRO",
}


# --------------------------------------------------------------------------------------------- arguments


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with what every script here understands."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--data", type=Path, help="reference data: mvtec/CATEGORY, weights (default: $FLAWSCOPE_DATA)"
    )
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="default: %(default)s")
    made.add_argument("--again", action="store_true", help="measure anew what the results already hold")
    made.add_argument("--task", help=argparse.SUPPRESS)  # JSON: a part that runs in a process of its own
    return made


def add_settings(made: argparse.ArgumentParser) -> None:
    """`--set`, as `flawscope fit` has it."""
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of every fit")


def add_peer(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--peer-python",
        default=os.environ.get("FLAWSCOPE_PEER_PYTHON"),
        help="Python that has anomalib (default: $FLAWSCOPE_PEER_PYTHON, then this one)",
    )
    made.add_argument(
        "--peer-picks",
        type=numbers,
        default=[512, 1024],
        help="picks that slow selections are timed with (default: 512,1024)",
    )


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The values of `--set` for `flawscope.fit`."""
    from flawscope.config import parse_assignments

    return parse_assignments(args.set)


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def label_of(settings: dict[str, Any], preset: str = "default") -> str:
    """Settings in words, without folders and without the number of steps."""
    words = [] if preset == "default" else [preset]
    for key, value in settings.items():
        if key != "steps":
            words.append(f"{key}={Path(value).name if isinstance(value, str) else value}")
    return ", ".join(words) or "default"


def shown(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without folders."""
    return {k: Path(v).name if isinstance(v, str) else v for k, v in settings.items()}


def slug(text: str) -> str:
    """A file name of it."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def several_steps(text: str) -> list[int | None]:
    """500,1000,default: None is the default."""
    return [None if word == "default" else int(word) for word in text.split(",")]


def data_root(args: argparse.Namespace) -> Path:
    return Path(args.data or os.environ.get("FLAWSCOPE_DATA") or ROOT / "data")


def mvtec(args: argparse.Namespace, category: str) -> Path | None:
    """The folder of a category of the reference data, or None and a remark where it is missing."""
    folder = data_root(args) / "mvtec" / category
    if folder.is_dir():
        return folder
    say(f"skipped: no {category} below the data root; give --data or set FLAWSCOPE_DATA")
    return None


def peer_python(args: argparse.Namespace) -> str | None:
    """The interpreter that has anomalib, or None and a remark."""
    if args.peer_python:
        return str(args.peer_python)
    if importlib.util.find_spec("anomalib"):
        return sys.executable
    say("skipped: anomalib is not installed here; give --peer-python")
    return None


# ----------------------------------------------------------------------------------------------- machine


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "system": platform.system(),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES + ENGINES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """The commit that is measured, with a plus where the source differs from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


# ------------------------------------------------------------------------------------------------ timing


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Median and all of them, six digits."""
    return {"median": sig(statistics.median(times)), "all": [sig(t) for t in times]}


def sig(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def ratio(a: float, b: float) -> float:
    return sig(a / b, 4)


def interleaved(
    works: dict[str, Callable[[], object]], repeats: int, warm: int = 1
) -> dict[str, dict[str, Any]]:
    """Seconds of every work, all of them in every round (A B A B), so that a drift meets all alike."""
    return {name: summary(t) for name, t in rounds(works, repeats, warm).items()}


def rounds(
    works: dict[str, Callable[[], object]], repeats: int, warm: int = 1, pause: float = 0.0
) -> dict[str, list[float]]:
    """The same, every time in the order of the rounds. `pause`: seconds of rest before each work, so that
    one engine's threads, which spin for a while after their work, take no core from the next."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(warm + repeats):
        for name, work in works.items():
            time.sleep(pause)
            took = seconds(work)
            if round_ >= warm:
                times[name].append(took)
    return times


def spread(times: Sequence[float]) -> dict[str, Any]:
    """Median and 99th percentile (nearest rank: the largest of up to 100), and of how many."""
    ordered = sorted(times)
    last = ordered[math.ceil(0.99 * (len(ordered) + 1)) - 2] if len(ordered) > 100 else ordered[-1]
    return {"median": sig(statistics.median(ordered)), "p99": sig(last), "repeats": len(ordered)}


def paired(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of a / b, round by round."""
    return sig(statistics.median(x / y for x, y in zip(a, b, strict=True)), 4)


def extrapolate(runs: Sequence[dict[str, Any]], picks: int) -> dict[str, Any]:
    """What `picks` picks would take, from the times of fewer: every pick costs the same on top of a fixed
    set-up. A straight line through the shortest and the longest run."""
    first, last = min(runs, key=lambda r: r["picks"]), max(runs, key=lambda r: r["picks"])
    each = (last["seconds"] - first["seconds"]) / (last["picks"] - first["picks"])
    if each <= 0:  # too few picks to tell them from the set-up
        each = last["seconds"] / last["picks"]
    setup = max(0.0, first["seconds"] - each * first["picks"])
    return {
        "seconds": sig(setup + each * picks),
        "seconds_per_pick": sig(each),
        "seconds_setup": sig(setup),
        "extrapolated_from": [{"picks": r["picks"], "seconds": sig(r["seconds"])} for r in runs],
    }


# --------------------------------------------------------------------------------------- child processes


@dataclass(frozen=True)
class Child:
    """A finished process: wall time, and the largest memory it held."""

    seconds: float
    peak: int  # bytes
    stdout: str

    @property
    def json(self) -> Any:
        """The JSON document printed, or the last line's where others came before it."""
        try:
            return json.loads(self.stdout)
        except json.JSONDecodeError:
            return json.loads(self.stdout.strip().splitlines()[-1])


def run(command: Sequence[str | os.PathLike[str]], env: dict[str, str] | None = None) -> Child:
    """Run and measure a process; its errors end the measurement, with its last words.

    The peak is Linux's VmHWM of the process, polled: `ru_maxrss` would start from what this process held
    when it forked. Elsewhere it is `ru_maxrss`.
    """
    import resource

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(c) for c in command], stdout=out, stderr=err, env={**os.environ, **(env or {})}
        )
        peak = 0
        status = Path(f"/proc/{process.pid}/status")
        while True:
            peak = max(peak, _high_water(status))
            try:
                code = process.wait(timeout=0.02)
                break
            except subprocess.TimeoutExpired:
                continue
            except BaseException:
                process.kill()
                process.wait()
                raise
        took = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        if code:
            words = "\n".join(err.read().strip().splitlines()[-8:])
            raise SystemExit(f"{shlex.join(map(str, command))}\nfailed with {code}:\n{words}")
        unit = 1 if sys.platform == "darwin" else 1024
        peak = peak or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
        return Child(took, peak, out.read())


def finish(command: Sequence[str]) -> None:
    """Run a short process to its end, with nothing between it and the clock."""
    subprocess.run(command, check=True, capture_output=True)


def own_peak() -> int:
    """The most memory that this process has held so far, bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return _high_water(Path("/proc/self/status")) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _high_water(status: Path) -> int:
    with contextlib.suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def flawscope(*arguments: str | os.PathLike[str], env: dict[str, str] | None = None) -> Child:
    """`flawscope ...` in a process of its own."""
    return run([sys.executable, "-m", "flawscope", *arguments], env)


def task(script: str, name: str, **values: Any) -> Child:
    """Function `name` of `script` in a fresh process: `script --task '{"name": ..., ...}'`."""
    given = {k: os.fspath(v) if isinstance(v, Path) else v for k, v in values.items()}
    return run([sys.executable, script, "--task", json.dumps({"name": name, **given})])


def run_task(text: str, tasks: dict[str, Callable[..., Any]]) -> int:
    """The other end of `task`: prints what the function returns as one line of JSON."""
    values = json.loads(text)
    print(json.dumps(tasks[values.pop("name")](**values)))
    return 0


@contextlib.contextmanager
def workspace(given: Path | None = None) -> Iterator[Path]:
    """A folder for what is made on the way: the given one is kept, a temporary one is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="flawscope-bench-") as folder:
        yield Path(folder)


# ------------------------------------------------------------------------------------- models and runtimes

RUNTIMES = {"torch": ".safetensors", "onnxruntime": ".onnx", "openvino": ".xml"}
PRECISIONS = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
}


def combinations(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(runtime, precision) of `--runtimes` and `--precisions`, as far as there could be such a thing."""
    runtimes, precisions = args.runtimes.split(","), args.precisions.split(",")
    return [(r, p) for r in runtimes for p in PRECISIONS[r] if p in precisions]


def add_runtimes(made: argparse.ArgumentParser) -> None:
    made.add_argument("--runtimes", default=",".join(RUNTIMES), help="default: %(default)s")
    made.add_argument("--precisions", default="fp32,bf16,fp16,int8", help="default: %(default)s")


def exported(model: Path, runtime: str, precision: str, root: Path) -> Path | None:
    """`model` exported for a runtime, beside it; made once. None and a remark where there is no such thing.

    For torch it is the model itself, which `at_precision` or `flawscope.fit` bring to another precision. A
    reduced precision is calibrated on the good training pictures below `root`.
    """
    if runtime == "torch":
        return model
    out = model.with_name(f"{model.stem}-{precision}{RUNTIMES[runtime]}")
    if out.is_file():
        return out
    from flawscope.errors import FlawscopeError

    try:
        from flawscope.export.export import export

        good = pictures_below(root / "train" / "good") if precision != "fp32" else []
        certificate = export(model, out, precision=precision, pictures=good)
    except (FlawscopeError, ImportError) as error:
        say(f"skipped: {runtime} {precision}: {error}")
        return None
    say(f"  {runtime} {precision}: {certificate.line()}")
    return out


def open_model(path: Path | str, device: str = "cpu", threads: int | None = None) -> Predictor:
    import flawscope

    return flawscope.load(path, device=device, threads=threads)


def at_precision(model: Path, precision: str) -> Path:
    """A torch model whose network computes at another precision. Its calibration stays as it was: enough to
    measure time with, not to judge pictures."""
    import dataclasses

    from flawscope.artefact import model_file

    out = model.with_name(f"{model.stem}-{precision}{model.suffix}")
    if not out.is_file():
        artefact = model_file.read(model)
        config = {**artefact.manifest.config, "precision": precision}
        calibration = dataclasses.replace(artefact.manifest.calibration, precision=precision)
        manifest = dataclasses.replace(artefact.manifest, config=config, calibration=calibration)
        model_file.write(dataclasses.replace(artefact, manifest=manifest), out)
    return out


def file_size(model: Path) -> int:
    """Bytes; OpenVINO's weights lie in a second file."""
    beside = model.with_suffix(".bin")
    return model.stat().st_size + (beside.stat().st_size if model.suffix == ".xml" else 0)


# -------------------------------------------------------------------------------------- pictures, features


def pictures_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def draw(folder: Path, count: int, size: int = 256) -> Path:
    """`count` drawn pictures of good parts; what is there already is kept. Returns the data set's root."""
    from flawscope.demo.dataset import draw_dataset

    root = folder / f"drawn_{count}_{size}"
    if not root.is_dir():
        draft = root.with_suffix(".draft")
        draw_dataset(draft, train=count, good=0, bad_per_kind=0, size=size)
        draft.rename(root)
    return root


def embed(paths: Sequence[Path], **options: Any) -> list[Tensor]:
    """Per size the features [N, P, D] of pictures by flawscope's extraction: decode, backbone, embed."""
    import torch

    from flawscope import config
    from flawscope.features.backbone import load_backbone
    from flawscope.methods.extract import embed_pictures
    from flawscope.methods.patchcore.config import Config
    from flawscope.methods.patchcore.model import Model
    from flawscope.pictures.preprocess import Preprocess

    settings = config.build(Config, options)
    preprocess = Preprocess(settings.sizes[-1], settings.keep_aspect, settings.crop)
    backbone, _ = load_backbone(settings.backbone, settings.stages, preprocess.network_size, settings.weights)
    model = Model(settings, backbone)
    features = [
        torch.empty(len(paths), p, v.embedding.width) for p, v in zip(model.patches, model.views, strict=True)
    ]

    def load(index: int) -> Tensor:
        return torch.from_numpy(preprocess(paths[index])[0][0])

    def store(index: int, one: Tensor) -> None:
        for own, part in zip(features, one.split(model.patches), strict=True):
            own[index] = part

    embed_pictures(model, load, range(len(paths)), store)
    return features


# ----------------------------------------------------------------------------------------------- results


class Record:
    """Results on disk, written after every cell, so that a long run can be stopped and taken up again.

    A cell that is there is not measured again, unless `--again` is given or the settings differ.
    """

    def __init__(self, args: argparse.Namespace, what: str, settings: dict[str, Any]):
        self.path: Path = args.out
        self.again: bool = args.again
        self.private = {str(data_root(args)): "$FLAWSCOPE_DATA", str(ROOT): "."}
        self.document: dict[str, Any] = {"what": what, "settings": self._clean(settings), "cells": {}}
        self._command = self._sanitised_command(args)
        if self.path.is_file():
            before = json.loads(self.path.read_text())
            if before.get("settings") == self.document["settings"]:
                self.document |= {k: before[k] for k in ("cells", "summary") if k in before}
            else:
                say(f"{self.path.name} has other settings: starting anew")
        self.cells: dict[str, Any] = self.document["cells"]
        self._done: set[str] = set()
        self.failures: list[str] = []

    def cell(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result called `name`: from the file, or measured now and written."""
        if self.has(name):
            say(f"{name}: taken from {self.path.name}")
        else:
            say(f"{name} ...")
            load = os.getloadavg()[0]
            start = time.perf_counter()
            found = work()
            found["_"] = {
                "command": self._command,
                "commit": commit(),
                "machine": machine(),
                "versions": versions(),
                "load_average_before": round(load, 2),
                "seconds": round(time.perf_counter() - start, 1),
            }
            self.cells[name] = self._clean(found)
            self._done.add(name)
            self.write()
        return self.cells[name]

    def has(self, name: str) -> bool:
        """Whether `cell` would take it from the file."""
        return name in self.cells and (not self.again or name in self._done)

    def attempt(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The same, where the rest can go on without it: None, a remark and an entry in `failures`."""
        try:
            return self.cell(name, work)
        except SystemExit as error:  # a process of ours, with its last words
            say(f"FAILED: {name}: {error}")
            self.failures.append(name)
            return None

    def summarise(self, name: str, value: Any) -> None:
        """Something worked out from cells, written anew every time."""
        self.document.setdefault("summary", {})[name] = self._clean(value)
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.document, indent=1) + "\n")
        draft.replace(self.path)

    def _clean(self, value: Any) -> Any:
        """Without this machine's folders."""
        if isinstance(value, dict):
            return {str(k): self._clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(v) for v in value]
        if isinstance(value, Path):
            value = str(value)
        if isinstance(value, str):
            for folder, name in self.private.items():
                value = value.replace(folder, name)
        return value

    def _sanitised_command(self, args: argparse.Namespace) -> str:
        words = ["python", f"bench/{Path(sys.argv[0]).name}"]
        for word in sys.argv[1:]:
            # a word may hold several values: --flag=value, key=value, name=file,name=file
            several = re.search(r"(^|[=,])/", word) or (word.startswith("--") and "=" in word)
            parts = re.split(r"([=,])", word) if several else [word]
            words.append("".join(self._sanitised(part, args) for part in parts))
        return " ".join(w if w.startswith("$") else shlex.quote(w) for w in words)

    @staticmethod
    def _sanitised(given: str, args: argparse.Namespace) -> str:
        """An absolute path without this machine's folders; anything else as it is."""
        if given and given == str(getattr(args, "peer_python", None)):
            return "$PEER_PYTHON"
        path = Path(given)
        if not given or not path.is_absolute():
            return given
        if path == data_root(args):
            return "$FLAWSCOPE_DATA"
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def table(title: str, rows: Sequence[Sequence[Any]], header: Sequence[str]) -> None:
    from flawscope.cli.common import table as aligned

    print(f"\n{title}\n{aligned(rows, header)}", flush=True)


def headline(name: str) -> None:
    """Machine and versions above the tables."""
    facts = machine()
    print(f"{name} on {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}")
    print("; ".join(f"{k} {v}" for k, v in versions().items()) + f"; commit {commit()}")


def short(value: float) -> str:
    """Seconds for a table."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
