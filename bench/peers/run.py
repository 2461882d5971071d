"""flawscope and anomalib beside each other: the same data, backbone, size and coreset ratio, one machine.

    python bench/peers/run.py --data ROOT
    python bench/peers/run.py --only patchcore --categories toothbrush,transistor
    python bench/peers/run.py --table

install      an environment each, made here in the work folder: seconds, MiB, distributions
start        --help and imports, in turn
job          `flawscope_job.sh`, `flawscope_job.py` and `anomalib_job.py`: counted lines, and a run of each
patchcore    a whole fit each, never extrapolated; then both judged on the same test pictures by
             flawscope.metrics, and at the threshold that each sets by itself
export       trained and exported model of each compared on the test pictures
latency      from a path to an answer, processes that take turns
--table      what the results give as the README's table; measures nothing
--readme     the same, written in the place of the one that README.md has

Both read the same PNG files (anomalib's MVTecAD reads no JPEG), use the same weights of EfficientNet-Lite0
and run in environments with the same versions of torch and the other libraries (constraints.txt). anomalib's
weights are a download; here `anomalib_side.py` gives it those of the package, in their order.
Every cell is written when it is done; a run that was stopped goes on where it was. Give --work then: without
it, environments and models are made anew where they are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

Args = argparse.Namespace
PARTS = ("install", "start", "job", "patchcore", "export", "latency")
ANOMALIB = "anomalib==2.7.0"
# of each step: what is installed into which environment. anomalib without its extra for OpenVINO, which has
# nncf too: less than its documentation installs.
STEPS = {
    "flawscope": ("flawscope", ("flawscope[train,export,openvino]",)),
    "flawscope core": ("core", ("flawscope",)),
    "anomalib, to predict": ("anomalib", (ANOMALIB, "openvino")),
    "anomalib": ("anomalib", (ANOMALIB, "openvino", "onnx", "onnxscript")),
}
SAME = ("torch", "torchvision", "timm", "numpy", "openvino", "onnx", "pillow")
TORCH = ("torch", "torchvision", "triton", "nvidia", "cuda")  # beginnings of distributions' names
JOBS = {"shell": "flawscope_job.sh", "Python": "flawscope_job.py", "anomalib": "anomalib_job.py"}


class Record(common.Record):
    @staticmethod
    def _script() -> str:
        return f"bench/peers/{Path(__file__).name}"

    def _sanitised_command(self, args: Args) -> str:
        given = super()._sanitised_command(args)
        return given.replace(f"bench/{Path(sys.argv[0]).name}", self._script(), 1)


# --------------------------------------------------------------------------------------------- environments


class Place:
    """The work folder: environments, the data as PNG, models. What is missing is made, unmeasured."""

    def __init__(self, args: Args, folder: Path):
        self.args, self.folder = args, folder.resolve()

    def python(self, name: str) -> Path:
        """The interpreter of environment `name`."""
        for label, (environment, _) in STEPS.items():
            if environment == name and not self.done(label).is_file():
                install(self, label)
        return self.folder / name / "bin" / "python"

    def done(self, label: str) -> Path:
        return self.folder / STEPS[label][0] / f".{label.replace(' ', '_')}"

    def weights(self) -> Path:
        """The packaged weights, where flawscope finds them."""
        code = "from flawscope.features.weights import *; print(locate(DEFAULT_BACKBONE).path)"
        found = subprocess.run(
            [self.python("flawscope"), "-c", code], check=True, capture_output=True, text=True, env=clean()
        )
        return Path(found.stdout.strip())

    def data(self) -> Path:
        """A folder with the categories as PNG files, masks too, in MVTec AD's layout."""
        root = self.folder / "data"
        code = (
            "import sys; from PIL import Image\n"
            "for a, b in zip(sys.argv[1::2], sys.argv[2::2]): Image.open(a).save(b)"
        )
        for category in self.args.categories:
            source = common.mvtec(self.args, category)
            if source is None:
                raise SystemExit(f"no {category} below the data root")
            if (root / category).is_dir():
                continue
            draft = root / f".{category}"
            names: list[Path] = []
            for path in common.pictures_below(source):
                target = (draft / path.relative_to(source)).with_suffix(".png")
                target.parent.mkdir(parents=True, exist_ok=True)
                names += [path, target]
            measured([self.python("flawscope"), "-c", code, *names])
            draft.rename(root / category)
        return root

    def test(self, category: str) -> list[Path]:
        return common.pictures_below(self.data() / category / "test")

    def trained(self, category: str, program: str) -> Path:
        """The file that the fit of `patchcore` writes."""
        name = "part.safetensors" if program == "flawscope" else "model.ckpt"
        path = self.folder / "models" / category / program / name
        if not path.is_file():
            common.say(f"fitting {program} ...")
            fit(self, category, program)
        return path

    def exported(self, category: str, program: str) -> dict[str, Any]:
        """`openvino` (and anomalib's `torch`): the files of the trained model's export, and what failed."""
        trained = self.trained(category, program)
        note = trained.with_name("exports.json")
        if not note.is_file():
            common.say(f"exporting {program}'s model ...")
            if program == "flawscope":
                out = trained.with_name("part.xml")
                measured([self.python(program), "-m", "flawscope", "export", trained, "--out", out])
                made: dict[str, Any] = {"made": {"openvino": str(out), "torch": str(trained)}, "failed": {}}
            else:
                made = self.side("export", trained, "--out", trained.parent, "--picture-size", "512x512").json
            note.write_text(json.dumps(made))
        found: dict[str, Any] = json.loads(note.read_text())
        return found

    def side(self, *words: str | Path, cwd: Path | None = None) -> Measured:
        """`anomalib_side.py` with anomalib's Python."""
        command = [self.python("anomalib"), HERE / "anomalib_side.py", *words, "--weights", self.weights()]
        return measured(command, cwd=cwd or self.folder)


def clean() -> dict[str, str]:
    """The environment without what would bring another flawscope than the installed one."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def install(place: Place, label: str) -> dict[str, Any]:
    """One step of STEPS, measured."""
    environment, wanted = STEPS[label]
    folder = place.folder / environment
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as temporary:
        words = [checkout(Path(temporary), w) if w.startswith("flawscope") else w for w in wanted]
        start = time.perf_counter()
        if not python.is_file():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, env=clean())
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        done = subprocess.run(
            [*command, "-c", HERE / "constraints.txt", *words], env=clean(), capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{label} cannot be installed:\n{done.stderr[-2000:]}")
        took = time.perf_counter() - start
    sizes, versions = distributions(python)
    torch = sum(size for name, size in sizes.items() if name.startswith(TORCH))
    place.done(label).touch()
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:8]
    return {
        "requirements": list(wanted),
        "seconds": common.sig(took, 4),
        "mib": round(sum(sizes.values()) / common.MIB),
        "mib_without_torch": round((sum(sizes.values()) - torch) / common.MIB),
        "distributions": len(sizes),
        "largest_mib": {name: round(sizes[name] / common.MIB) for name in largest},
        "versions": {k: v for k, v in versions.items() if k in (*SAME, "anomalib", "flawscope", "lightning")},
        "note": "seconds depend on the package index and its cache",
    }


def checkout(folder: Path, requirement: str) -> str:
    """This checkout's sources elsewhere, because setuptools writes beside what it builds."""
    root = folder / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(common.ROOT / "src", root / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(common.ROOT / name, root)
    return f"{root}{requirement.removeprefix('flawscope')}"


def distributions(python: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Bytes and version of every distribution, without those that a new environment has."""
    code = """
import json, os
from importlib.metadata import distributions
found = {}
for d in distributions():
    paths = {os.path.realpath(d.locate_file(f)) for f in d.files or ()}
    found[d.name.lower()] = [sum(os.path.getsize(p) for p in paths if os.path.isfile(p)), d.version]
print(json.dumps(found))
"""
    found = json.loads(
        subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    )
    found = {name: v for name, v in found.items() if name not in ("pip", "setuptools", "wheel")}
    return {n: v[0] for n, v in found.items()}, {n: v[1] for n, v in found.items()}


def installs(args: Args, record: Record, place: Place) -> None:
    for label in STEPS:
        if not record.has(f"install/{label}") and place.done(label).is_file():
            shutil.rmtree(place.folder / STEPS[label][0])  # from a run whose results are not these
        found = record.attempt(f"install/{label}", lambda label=label: install(place, label))
        if found and label == "anomalib" and "whole_seconds" not in found:
            first = record.cells["install/anomalib, to predict"]
            found["whole_seconds"] = common.sig(first["seconds"] + found["seconds"], 4)
            record.write()


# ------------------------------------------------------------------------------------------------ processes


class Measured:
    def __init__(self, seconds: float, peak: int, stdout: str):
        self.seconds, self.peak, self.stdout = seconds, peak, stdout

    @property
    def json(self) -> Any:
        return json.loads(self.stdout.strip().splitlines()[-1])


def measured(command: Sequence[str | Path], cwd: Path | None = None) -> Measured:
    """Run a process; wall time and the most memory that it and all below it held at a time.

    The memory is the sum of their proportional set sizes (Linux), polled: shared pages count once.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(c) for c in command], stdout=out, stderr=err, cwd=cwd, env=clean()
        )
        peaks, ended = [0], threading.Event()

        def watch() -> None:  # beside the wait, which then ends with the process and not at the next poll
            while not ended.wait(0.2 if len(peaks) > 10 else 0.05):
                peaks.append(held(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            took = time.perf_counter() - start
            ended.set()
            watcher.join()
        out.seek(0)
        err.seek(0)
        if code:
            words = "\n".join(err.read().strip().splitlines()[-12:])
            raise SystemExit(f"{shlex.join(map(str, command))}\nfailed with {code}:\n{words}")
        return Measured(took, max(peaks), out.read())


def held(process: int) -> int:
    """Bytes, of a process and all below it."""
    total = 0
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(held(int(child)) for child in (task / "children").read_text().split())
    except OSError:  # it has ended
        pass
    return total


# --------------------------------------------------------------------------------------------------- start


def start(args: Args, record: Record, place: Place) -> None:
    def measure() -> dict[str, Any]:
        ours, theirs = place.python("flawscope"), place.python("anomalib")
        parts = "from anomalib.engine import Engine; from anomalib.models import Patchcore"
        commands = {
            "flawscope --help": [ours.with_name("flawscope"), "--help"],
            "anomalib --help": [theirs.with_name("anomalib"), "--help"],
            "import flawscope": [ours, "-c", "import flawscope"],
            "import anomalib": [theirs, "-c", "import anomalib"],
            "flawscope, all for a fit": [
                ours,
                "-c",
                "import torch, flawscope.methods.detector, flawscope.methods.patchcore.model",
            ],
            "anomalib, all for a fit": [theirs, "-c", parts],
        }
        for command in commands.values():
            subprocess.run(command, check=True, capture_output=True, env=clean(), cwd=place.folder)
        works = {
            name: lambda command=command: subprocess.run(
                command, check=True, capture_output=True, env=clean(), cwd=place.folder
            )
            for name, command in commands.items()
        }
        return {"seconds": common.interleaved(works, args.repeats, warm=0)}

    record.attempt("start", measure)


# ----------------------------------------------------------------------------------------------------- job


def lines_of(path: Path) -> int:
    """Lines that somebody writes: neither empty nor a comment, nor the docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        import ast

        first = ast.parse(text).body[0]
        body = text.splitlines()
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body = body[first.end_lineno :]
    else:
        body = text.splitlines()
    return sum(1 for line in body if line.strip() and not line.strip().startswith("#"))


def jobs(args: Args, record: Record, place: Place) -> None:
    for name, script in JOBS.items():

        def measure(name: str = name, script: str = script) -> dict[str, Any]:
            folder = place.folder / f"job-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "data").symlink_to(place.data(), target_is_directory=True)
            if name == "anomalib":
                child = place.side("job", HERE / script, cwd=folder)
            elif name == "Python":
                child = measured([place.python("flawscope"), HERE / script], cwd=folder)
            else:
                path = f"PATH={place.python('flawscope').parent}:$PATH; set -e; . {HERE / script}"
                child = measured(["bash", "-c", path], cwd=folder)
            pictures = [p for p in folder.rglob("*.png") if "data" not in p.relative_to(folder).parts]
            exported = list(folder.rglob("*.xml"))
            if not pictures or not exported:
                raise SystemExit(f"{script} has written {len(pictures)} pictures, {len(exported)} exports")
            return {
                "script": f"bench/peers/{script}",
                "lines": lines_of(HERE / script),
                "seconds": common.sig(child.seconds, 4),
                "peak_mib": child.peak // common.MIB,
                "pictures_written": len(pictures),
                "last_line": child.stdout.strip().splitlines()[-1][:300],
            }

        record.attempt(f"job/{name}", measure)


# ----------------------------------------------------------------------------------------------- patchcore


def fit(place: Place, category: str, program: str) -> Measured:
    """`flawscope fit`, or `Engine.fit` with everything as shipped, in a process of its own."""
    folder = place.folder / "models" / category / program
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = place.data()
    if program == "flawscope":
        command = [place.python(program), "-m", "flawscope", "fit", "--data", data / category, "--quiet"]
        return measured(
            [*command, "--size", "256", "--set", "ratio=0.1", "--out", folder / "part.safetensors"]
        )
    return place.side("fit", data, "--category", category, "--out", folder)


def patchcore(args: Args, record: Record, place: Place) -> None:
    for category in args.categories:

        def fitted(category: str = category) -> dict[str, Any]:
            ours = [fit(place, category, "flawscope") for _ in range(2)]
            theirs = fit(place, category, "anomalib")
            ours.append(fit(place, category, "flawscope"))
            files = {p: place.trained(category, p) for p in ("flawscope", "anomalib")}
            return {
                "seconds": {
                    "flawscope": common.summary([m.seconds for m in ours]),
                    "anomalib": common.summary([theirs.seconds]),
                },
                "peak_mib": {
                    "flawscope": statistics.median(m.peak for m in ours) // common.MIB,
                    "anomalib": theirs.peak // common.MIB,
                },
                "file_mib": {p: common.sig(f.stat().st_size / common.MIB, 4) for p, f in files.items()},
                "anomalib": theirs.json,
                "note": "whole processes; two of flawscope before the one of anomalib, one after",
            }

        def judged(category: str = category) -> dict[str, Any]:
            place.trained(category, "flawscope")
            folder = place.trained(category, "anomalib").parent
            data = place.data()
            own = place.side("test", folder / "model.ckpt", "--data", data, "--category", category).json
            script = [place.python("flawscope"), HERE / "flawscope_side.py"]
            model = place.trained(category, "flawscope")
            measured([*script, "predict", model, "--data", data / category])
            found = {
                program: measured([*script, "judge", path, "--data", data / category]).json
                for program, path in (("flawscope", model.parent), ("anomalib", folder))
            }
            return {**found, "anomalib_reports": own}

        record.attempt(f"patchcore/{category}/fit", fitted)
        record.attempt(f"patchcore/{category}/test", judged)


# -------------------------------------------------------------------------------------------------- export


def export(args: Args, record: Record, place: Place) -> None:
    category = args.categories[0]

    def measure() -> dict[str, Any]:
        result: dict[str, Any] = {}
        script = [place.python("flawscope"), HERE / "flawscope_side.py"]
        for program in ("flawscope", "anomalib"):
            made = place.exported(category, program)
            folder = place.trained(category, program).parent
            xml = Path(made["made"]["openvino"])
            size = sum(xml.with_suffix(s).stat().st_size for s in (".xml", ".bin"))
            result[program] = {"file_mib": common.sig(size / common.MIB, 4), "failed": made["failed"]}
            result[program]["way"] = made.get("way", "as shipped")
            if program == "flawscope":
                data = place.data() / category
                found = measured([*script, "parity", place.trained(category, program), xml, "--data", data])
                result[program]["as shipped"] = found.json
                continue
            for name, more in (("as shipped", ()), ("f32", ("--precision", "f32"))):
                words = ("parity", folder / "model.ckpt", "--exported", xml, "--data", place.data())
                result[program][name] = place.side(*words, "--category", category, *more).json
        return result

    record.attempt(f"export/{category}", measure)


# ------------------------------------------------------------------------------------------------- latency


def latency(args: Args, record: Record, place: Place) -> None:
    category = args.categories[0]
    threads = ("--threads", str(args.threads))

    def measure() -> dict[str, Any]:
        pictures = place.folder / "pictures.json"
        pictures.write_text(json.dumps([str(p) for p in place.test(category)]))
        ours, theirs = (place.exported(category, p)["made"] for p in ("flawscope", "anomalib"))

        def flawscope(engine: str) -> Callable[[], Measured]:
            script = [place.python("flawscope"), HERE / "flawscope_side.py", "time", ours[engine]]
            more = ("--pictures", pictures, "--repeats", str(args.pictures), *threads)
            return lambda: measured([*script, *more])

        def anomalib(engine: str, *more: str) -> Callable[[], Measured]:
            script = [place.python("anomalib"), HERE.parent / "peer.py", "predict", theirs[engine]]
            rest = ("--engine", engine, "--pictures", pictures, "--repeats", str(args.pictures), *threads)
            return lambda: measured([*script, *rest, *more], cwd=place.folder)

        runs = {
            "torch/flawscope": flawscope("torch"),
            "torch/anomalib": anomalib("torch"),
            "openvino/flawscope": flawscope("openvino"),
            "openvino/anomalib": anomalib("openvino", "--precision", "f32"),
            "openvino as shipped/anomalib": anomalib("openvino"),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        peaks, details = dict.fromkeys(runs, 0), {}
        for _ in range(args.rounds):
            for name, run in runs.items():
                child = run()
                times[name] += child.json["seconds"]
                peaks[name] = max(peaks[name], child.peak // common.MIB)
                details[name] = child.json.get("precision")
        return {
            "seconds": {name: common.spread(t) for name, t in times.items()},
            "peak_mib": peaks,
            "precision": details,
            "threads": args.threads,
            "rounds": args.rounds,
        }

    def whole() -> dict[str, Any]:
        """Processes that answer for one picture."""
        ours, theirs = (place.exported(category, p)["made"]["openvino"] for p in ("flawscope", "anomalib"))
        picture = str(place.test(category)[0])
        code = (
            "import sys; from anomalib.deploy import OpenVINOInferencer as I; "
            "print(I(sys.argv[1], device='CPU').predict(sys.argv[2]).pred_score)"
        )
        commands = {
            "flawscope": [place.python("flawscope").with_name("flawscope"), "predict", ours, picture],
            "anomalib": [place.python("anomalib"), "-c", code, theirs, picture],
        }
        times: dict[str, list[Measured]] = {name: [] for name in commands}
        for k in range(args.repeats + 1):
            for name, command in commands.items():
                child = measured(command, cwd=place.folder)
                if k:
                    times[name].append(child)
        return {
            "seconds": {n: common.summary([m.seconds for m in t]) for n, t in times.items()},
            "peak_mib": {n: max(m.peak for m in t) // common.MIB for n, t in times.items()},
        }

    record.attempt(f"latency/{category}", measure)
    record.attempt(f"one picture/{category}", whole)


# ---------------------------------------------------------------------------------------------------- main


def main() -> int:
    made = common.parser(__doc__, "peers")
    made.add_argument("--only", default=",".join(PARTS), help="parts, joined by commas (default: all)")
    made.add_argument(
        "--categories",
        type=lambda t: t.split(","),
        default=["toothbrush"],
        help="of the fits; anomalib takes half an hour for transistor (default: toothbrush)",
    )
    made.add_argument(
        "--work", type=Path, help="keep environments and models here (default: a temporary folder)"
    )
    made.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of the latencies (default: %(default)s)"
    )
    made.add_argument("--repeats", type=int, default=5, help="of starts (default: %(default)s)")
    made.add_argument("--pictures", type=int, default=30, help="timed in each round (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=2, help="of the latencies (default: %(default)s)")
    made.add_argument("--table", action="store_true", help="print the table of the results and leave")
    made.add_argument("--readme", action="store_true", help="write it into README.md and leave")
    args = made.parse_args()
    if args.table or args.readme:
        import table

        made_of = table.table(json.loads(args.out.read_text()))
        if args.readme:
            readme = common.ROOT / "README.md"
            readme.write_text(table.replaced(readme.read_text(encoding="utf-8"), made_of), encoding="utf-8")
        else:
            print(made_of)
        return 0
    chosen = args.only.split(",")
    if wrong := [part for part in chosen if part not in PARTS]:
        made.error(f"--only: {wrong[0]} is none of {', '.join(PARTS)}")
    record = Record(args, "flawscope and anomalib on the same data", {"threads": args.threads})
    works = dict(zip(PARTS, (installs, start, jobs, patchcore, export, latency), strict=True))
    with common.workspace(args.work) as folder:
        place = Place(args, folder)
        record.private[str(place.folder)] = "$WORK"
        for part in PARTS:
            if part in chosen:
                works[part](args, record, place)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
