"""flawscope and anomalib beside each other: the same data, backbone, size and coreset ratio, one machine.

    python bench/peers/run.py --data ROOT --work FOLDER
    python bench/peers/run.py --only patchcore --categories toothbrush,transistor

install      an environment each, made here in the work folder: seconds, MiB, distributions
patchcore    a whole fit each, never extrapolated; then both judged on the same test pictures by
             flawscope.evaluation.metrics, and at the threshold that each sets by itself; beside them
             flawscope as it is shipped, default and accurate
latency      from a path to an answer, processes that take turns
untrained    the same for fitted models of ours, --models METHOD=FILE (and exports that lie beside
             them); anomalib's EfficientAD has random weights, its PatchCore our largest
             size and a memory bank of as many random elements

Both read the same PNG files (anomalib's MVTecAD reads no JPEG), use the same weights of EfficientNet-Lite0
and run in environments with the same versions of torch and the other libraries (constraints.txt). anomalib's
weights are a download; here `anomalib_side.py` gives it those of the package, in their order. With --backbone
and --weights `patchcore` compares both by another network: of resnet18, whose weights were trained with the
colours that anomalib gives every network, both see the same. Tables of both end the run. Give --work: without
it, environments and models are made anew where they are needed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402
from common import Args, ChildResult, Record  # noqa: E402

PICTURES, ROUNDS = 30, 2  # that are timed in each round of latencies
STARTS = 5  # processes that answer for one picture
BOTH = ("flawscope", "anomalib")
PACKAGED = "tf_efficientnet_lite0"
AS_ANOMALIB = ("--size", "256", "--set", "ratio=0.1")  # settings of flawscope that are anomalib's own
# of flawscope's other fits, which are judged beside: as it is shipped
SHIPPED = {"flawscope, default": (), "flawscope, accurate": ("--preset", "accurate")}
JUDGED = ("image_auroc", "au_pro", "pixel_ap", "pixel_auroc")
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
        code = "from flawscope.methods.features.weights import *; print(locate(DEFAULT_BACKBONE).path)"
        return Path(measured([self.python("flawscope"), "-c", code]).stdout.strip())

    def data(self) -> Path:
        """A folder with the categories as PNG files, masks too, in MVTec AD's layout."""
        root = self.folder / "data"
        code = (
            "import sys; from PIL import Image\n"
            "for a, b in zip(sys.argv[1::2], sys.argv[2::2]): Image.open(a).save(b)"
        )
        for category, source in common.category_folders(self.args):
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
        name = "model.ckpt" if program == "anomalib" else "part.safetensors"
        path = self.models(category, program) / name
        if not path.is_file():
            common.say(f"fitting {program} ...")
            fit(self, category, program)
        return path

    def models(self, category: str, program: str) -> Path:
        network = "" if self.args.backbone == PACKAGED else f"-{self.args.backbone}"
        return self.folder / f"models{network}" / category / common.slug(program)

    def exported(self, category: str, program: str) -> dict[str, Any]:
        """`openvino` (and anomalib's `torch`): the files of the trained model's export, and what failed."""
        trained = self.trained(category, program)
        note = trained.with_name("exports.json")
        if not note.is_file():
            common.say(f"exporting {program}'s model ...")
            if program == "flawscope":
                out = trained.with_name("part.openvino.onnx")
                measured([self.python(program), "-m", "flawscope", "export", trained, "--out", out])
                made: dict[str, Any] = {"made": {"openvino": str(out), "torch": str(trained)}, "failed": {}}
            else:
                made = self.side("export", trained, "--out", trained.parent, "--picture-size", "512x512").json
            note.write_text(json.dumps(made))
        found: dict[str, Any] = json.loads(note.read_text())
        return found

    def side(self, *words: str | Path, cwd: Path | None = None) -> ChildResult:
        """`anomalib_side.py` with anomalib's Python."""
        command = [self.python("anomalib"), HERE / "anomalib_side.py", *words]
        command += ["--backbone", self.args.backbone, "--weights", self.args.weights or self.weights()]
        return measured(command, cwd=cwd or self.folder)


def clean() -> dict[str, str]:
    """The environment without what would bring another flawscope than the installed one."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def measured(command: Sequence[str | Path], cwd: Path | None = None) -> ChildResult:
    return common.run(command, clean(), cwd)


def install(place: Place, label: str) -> dict[str, Any]:
    """One step of STEPS, measured."""
    environment, wanted = STEPS[label]
    folder = place.folder / environment
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as temporary:
        words = [checkout(Path(temporary), w) if w.startswith("flawscope") else w for w in wanted]
        if label == "flawscope":  # packaged weights, and those of `accurate`, lie in this checkout
            weights = shutil.copytree(common.ROOT / "weights", Path(temporary) / "weights")
            words[:0] = [str(weights), str(weights / "dinov2")]
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
    return {
        "requirements": list(wanted),
        "seconds": common.round_to(took, 4),
        "mib": round(sum(sizes.values()) / common.MIB),
        "mib_without_torch": round((sum(sizes.values()) - torch) / common.MIB),
        "distributions": len(sizes),
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
    found = measured([python, "-c", code]).json
    found = {name: v for name, v in found.items() if name not in ("pip", "setuptools", "wheel")}
    return {n: v[0] for n, v in found.items()}, {n: v[1] for n, v in found.items()}


def installs(args: Args, record: Record, place: Place) -> None:
    for label in STEPS:
        if not record.has(f"install/{label}") and place.done(label).is_file():
            shutil.rmtree(place.folder / STEPS[label][0])  # from a run whose results are not these
        record.attempt(f"install/{label}", lambda label=label: install(place, label))  # type: ignore[misc]


# ----------------------------------------------------------------------------------------------- patchcore


def fit(place: Place, category: str, program: str) -> ChildResult:
    """`flawscope fit`, or `Engine.fit` with everything as shipped, in a process of its own."""
    folder = place.models(category, program)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = place.data()
    if program == "anomalib":
        return place.side("fit", data, "--category", category, "--out", folder)
    command = [place.python("flawscope"), "-m", "flawscope", "fit", "--data", data / category, "--quiet"]
    command += [*SHIPPED.get(program, AS_ANOMALIB), "--out", folder / "part.safetensors"]
    if place.args.weights:
        command += ["--set", f"backbone={place.args.backbone}", "--set", f"weights={place.args.weights}"]
    return measured(command)


def judge(place: Place, category: str, program: str) -> dict[str, Any]:
    """Metrics of a fitted model's scores and maps of the test pictures, and what anomalib reports itself."""
    model, data = place.trained(category, program), place.data()
    script = [place.python("flawscope"), HERE / "flawscope_side.py"]
    reported = {}
    if program == "anomalib":
        own = place.side("test", model, "--data", data, "--category", category)
        reported = {"reported": own.json}
    else:
        measured([*script, "predict", model, "--data", data / category])
    return {**measured([*script, "judge", model.parent, "--data", data / category]).json, **reported}


def patchcore(args: Args, record: Record, place: Place) -> None:
    part = "patchcore" if args.backbone == PACKAGED else f"patchcore, {args.backbone}"
    for category in args.categories.split(","):

        def fitted(category: str = category) -> dict[str, Any]:
            ours = [fit(place, category, "flawscope") for _ in range(2)]
            theirs = fit(place, category, "anomalib")
            ours.append(fit(place, category, "flawscope"))
            files = {p: place.trained(category, p) for p in BOTH}
            times = common.summary([m.seconds for m in ours]), common.summary([theirs.seconds])
            peaks = statistics.median(m.peak for m in ours) // common.MIB, theirs.peak // common.MIB
            return {
                "seconds": dict(zip(BOTH, times, strict=True)),
                "peak_mib": dict(zip(BOTH, peaks, strict=True)),
                "file_mib": {program: common.size_mib(file) for program, file in files.items()},
                "anomalib": theirs.json,
                "note": "whole processes; two of flawscope before the one of anomalib, one after",
            }

        def judged(category: str = category) -> dict[str, Any]:
            found = {program: judge(place, category, program) for program in BOTH}
            if not args.weights:
                found |= {program: judge(place, category, program) for program in SHIPPED}
            return found

        record.attempt(f"{part}/{category}/fit", fitted)
        record.attempt(f"{part}/{category}/test", judged)


# ------------------------------------------------------------------------------------------------- latency


def listed(args: Args, place: Place, category: str) -> tuple[Any, ...]:
    """What every process that is timed is told: the test pictures, how many, how many threads."""
    pictures = place.folder / "pictures.json"
    pictures.write_text(json.dumps([str(p) for p in place.test(category)]))
    return "--pictures", pictures, "--repeats", str(PICTURES), "--threads", str(args.threads)


def in_turns(args: Args, place: Place, runs: dict[str, list[Any]]) -> dict[str, Any]:
    """Processes that print their `seconds`, all of them in every round."""
    turns = [{k: measured(v, place.folder) for k, v in runs.items()} for _ in range(ROUNDS)]
    return {
        "seconds": {k: common.p50_p99([s for t in turns for s in t[k].json["seconds"]]) for k in runs},
        "peak_mib": {k: max(t[k].peak for t in turns) // common.MIB for k in runs},
        "precision": {k: turns[0][k].json.get("precision") for k in runs},
        "threads": args.threads,
        "rounds": ROUNDS,
    }


def latency(args: Args, record: Record, place: Place) -> None:
    category = args.categories.split(",")[0]

    def measure() -> dict[str, Any]:
        rest = listed(args, place, category)
        files = {p: place.exported(category, p)["made"] for p in BOTH}
        sides = {"flawscope": ("flawscope_side.py", "time"), "anomalib": ("anomalib_side.py", "predict")}

        def command(program: str, engine: str, *more: str) -> list[Any]:
            script, task = sides[program]
            words = [place.python(program), HERE / script, task, files[program][engine], *rest]
            return [*words, "--engine", engine, *more] if program == "anomalib" else words

        runs = {
            "torch/flawscope": command("flawscope", "torch"),
            "torch/anomalib": command("anomalib", "torch"),
            "openvino/flawscope": command("flawscope", "openvino"),
            "openvino/anomalib": command("anomalib", "openvino", "--precision", "f32"),
            "openvino as shipped/anomalib": command("anomalib", "openvino"),
        }
        return in_turns(args, place, runs)

    def whole() -> dict[str, Any]:
        """Processes that answer for one picture."""
        ours, theirs = (place.exported(category, p)["made"]["openvino"] for p in BOTH)
        picture = str(place.test(category)[0])
        code = (
            "import sys; from anomalib.deploy import OpenVINOInferencer as I; "
            "print(I(sys.argv[1], device='CPU').predict(sys.argv[2]).pred_score)"
        )
        program = place.python("flawscope").with_name("flawscope")
        commands = {
            "flawscope": [program, "predict", ours, picture, "--engine", "openvino"],
            "anomalib": [place.python("anomalib"), "-c", code, theirs, picture],
        }
        turns = [{k: measured(v, place.folder) for k, v in commands.items()} for _ in range(STARTS + 1)]
        return {
            "seconds": {k: common.summary([t[k].seconds for t in turns[1:]]) for k in commands},
            "peak_mib": {k: max(t[k].peak for t in turns[1:]) // common.MIB for k in commands},
        }

    record.attempt(f"latency/{category}", measure)
    record.attempt(f"one picture/{category}", whole)


def untrained(args: Args, record: Record, place: Place) -> None:
    if not args.models:
        common.say("skipped: untrained needs fitted models, --models METHOD=FILE.safetensors")
    for method, file in common.parse_models(args).items():
        beside(args, record, place, method, Path(file).resolve())


def beside(args: Args, record: Record, place: Place, method: str, given: Path) -> None:
    """A fitted model of ours and anomalib's untrained one of the same method and sizes."""
    category = args.categories.split(",")[0]
    folder = place.folder / method

    def ours() -> dict[str, Path]:
        made = {"torch": given}
        if (half := given.with_name(f"{given.stem}-bf16.safetensors")).is_file():  # fitted in bf16
            made["torch bf16"] = half
        for suffix, engine in ((".onnx", "onnxruntime"), (".openvino.onnx", "openvino")):
            path = given.with_name(f"{given.stem}-fp32{suffix}")
            if not path.is_file():
                measured([place.python("flawscope"), "-m", "flawscope", "export", given, "--out", path])
            made[f"{engine} fp32"] = path
        return made

    def measure() -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        own, side = place.python("flawscope"), place.python("anomalib")
        like = measured([own, HERE / "flawscope_side.py", "sizes", given]).json
        words = ["--method", method, "--out", folder, "--picture-size", "512x512"]
        if like["elements"]:
            words += ["--network-size", f"{like['size']}x{like['size']}", "--elements", str(like["elements"])]
        theirs = place.side("untrained", given, *words).json
        rest = listed(args, place, category)
        runs: dict[str, list[Any]] = {
            f"flawscope, {name}": [own, HERE / "flawscope_side.py", "time", path, *rest]
            for name, path in ours().items()
        }
        for name, engine, more in (
            ("torch", "torch", ()),
            ("openvino f32", "openvino", ("--precision", "f32")),
            ("openvino as shipped", "openvino", ()),
        ):
            if engine in theirs["made"]:
                words = [side, HERE / "anomalib_side.py", "predict", theirs["made"][engine], *rest]
                runs[f"anomalib, {name}"] = [*words, "--engine", engine, *more]
        told = {k: v for k, v in theirs.items() if k in ("failed", "way")}
        return {**in_turns(args, place, runs), "like": like, "anomalib": told}

    if cell := record.attempt(f"{method}/{category}/{args.threads} threads", measure):
        times = {name: common.to_ms(values) for name, values in cell["seconds"].items()}
        common.print_table(f"{method}, ms", [{"what": name, "ms": ms} for name, ms in times.items()])


# --------------------------------------------------------------------------------------------------- table


def pairs_in(value: Any, name: str = "") -> Iterator[tuple[str, float, float]]:
    """Every figure that both programs have, however deep: flawscope's and anomalib's."""
    if not isinstance(value, dict):
        return
    ours, theirs = (value.get(p) for p in BOTH)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in (ours, theirs)):
        yield name, ours, theirs
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() & theirs.keys() - {"_"}:
            yield from pairs_in(dict(zip(BOTH, (ours[key], theirs[key]), strict=True)), f"{name}, {key}")
    beside = [(k.removesuffix("/flawscope"), v) for k, v in value.items() if k.endswith("/flawscope")]
    for key, own in beside:
        yield from pairs_in({"flawscope": own, "anomalib": value.get(f"{key}/anomalib")}, f"{name}, {key}")
    for key, inner in value.items():
        if key not in (*BOTH, "_"):
            yield from pairs_in(inner, f"{name}, {key}" if name else key)


def show(record: Record) -> None:
    cells = dict(record.cells)
    cells["install"] = {p: cells.pop(f"install/{p}", None) for p in BOTH}
    rows = []
    for what, ours, theirs in sorted(pairs_in(cells)):
        row = {"what": what, "flawscope": ours, "anomalib": theirs}
        rows.append({**row, "anomalib / flawscope": theirs / ours if ours else None})
    common.print_table("both", rows)
    rows = []
    for name, cell in record.cells.items():
        if name.startswith("patchcore") and name.endswith("/test"):
            rows += [
                {"test": name, "of": program, **{k: figures[k] for k in JUDGED}}
                for program, figures in cell.items()
                if program.startswith(BOTH) and "au_pro" in figures
            ]
    common.print_table("contours", rows)


# ---------------------------------------------------------------------------------------------------- main

PARTS = {
    "install": installs,
    "patchcore": patchcore,
    "latency": latency,
    "untrained": untrained,
}


def main() -> int:
    parser = common.make_parser(__doc__, "peers")
    parser.set_defaults(categories="toothbrush")  # anomalib takes half an hour for transistor
    parser.add_argument("--only", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--models", default="", help="METHOD=FILE,METHOD=FILE: fitted, for `untrained`")
    parser.add_argument("--backbone", default=PACKAGED, help="of `patchcore` (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="of another --backbone: a safetensors file")
    args = common.parse_arguments(parser)
    args.weights = args.weights and args.weights.resolve()
    if unknown := set(args.only.split(",")) - set(PARTS):
        parser.error(f"--only: {min(unknown)} is none of {', '.join(PARTS)}")
    if args.quick:
        common.say("skipped: environments take minutes and gigabytes; call it without --quick")
        return 0
    record = Record(args, "flawscope and anomalib on the same data")
    with common.workspace(args.work) as folder:
        place = Place(args, folder)
        record.private[str(place.folder)] = "$WORK"
        for part in args.only.split(","):
            PARTS[part](args, record, place)
    show(record)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
