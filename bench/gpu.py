"""What does a GPU bring? The other scripts on CUDA, in one go and in 16 minutes at most.

    python bench/gpu.py
    python bench/gpu.py --only tests,predict
    python bench/gpu.py --quick --device cpu

Needs torch with CUDA and the packages of `flawscope[train,export,dev]`. Where no GPU is found it says so and
prints the commands that it would run. Each is a process of its own with a time limit: a command that fails or
takes too long costs only itself. Without --data the pictures are drawn: they decide no time.

    tests     those marked `cuda`: scores as on the CPU, no wait for the GPU in a pick or step, memory
    fit       PatchCore, EfficientAD and PRN, 300 steps (accuracy.py), with the seconds of each stage
    predict   PatchCore and EfficientAD at several batches and precisions (latency.py)

Writes bench/results/gpu-NAME.json, each as its script does without a GPU.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))  # where it is not installed

import common
from common import Args

TOTAL = 16 * 60  # seconds of everything


class Step(NamedTuple):
    """A command, and the most seconds that it may take."""

    name: str
    command: list[str]
    limit: float


def plan(args: Args, data: Path) -> list[Step]:
    """The steps in the order in which they run. SystemExit where --only names others."""
    quick = args.quick
    beside = ["--data", str(data), "--categories", args.categories.split(",")[0], "--device", args.device]
    tiny = [f"{m}.{k}={v}" for m, values in common.QUICK.items() for k, v in values.items() if quick]

    def script(name: str, out: str, *words: str, settings: Sequence[str] = ()) -> list[str]:
        sets = [word for pair in settings for word in ("--set", pair)]
        path = str(Path(args.out).with_name(f"gpu-{out}.json"))
        program = [sys.executable, str(common.ROOT / "bench" / name)]
        return [*program, *words, *beside, *sets, "--again", "--out", path]

    steps, batches = ("2", "1,2") if quick else ("300", "1,8,16,32,64")
    latency = ["--methods", "patchcore,efficientad", "--runtimes", "torch", "--precisions", "fp32,fp16,bf16"]
    latency += ["--batches", batches, "--repeats", "2" if quick else "60"]
    fits = ["--methods", "all", "--seen", "2", "--steps", steps]
    found = [
        Step("tests", [sys.executable, "-m", "pytest", "-m", "cuda", "tests/gpu"], 240),
        Step("fit", script("accuracy.py", "fit", *fits, settings=tiny), 360),
        Step("predict", script("latency.py", "predict", *latency, settings=tiny), 360),
    ]
    asked = args.only.split(",") if args.only else [step.name for step in found]
    if unknown := sorted({*asked} - {step.name for step in found}):
        raise SystemExit(f"--only {','.join(unknown)}: give some of {', '.join(s.name for s in found)}")
    return [step for step in found if step.name in asked]


def timed(command: Sequence[str], limit: float) -> str | None:
    """Run a command with all that it starts for so many seconds at most. Why it failed; None: it did not."""
    paths = [str(common.ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, env=env, cwd=common.ROOT, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s, its limit"
    finally:  # also where this one is interrupted
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"exit status {status}" if status else None


def reason_against(device: str) -> str | None:
    """Why nothing can be run there; None: it can."""
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU"
    return None


def main() -> int:
    parser = common.make_parser(__doc__, "gpu")
    parser.set_defaults(categories="plate")
    parser.add_argument("--device", default="cuda", help="default: %(default)s; cpu: to try the script")
    parser.add_argument("--only", default="", help="some of the steps, such as tests,fit")
    args = common.parse_arguments(parser)
    with common.workspace(args.work) as work:
        data = Path(args.data or work)
        steps = plan(args, data)
        if reason := reason_against(args.device):
            print(f"no GPU: {reason}; these would run in {TOTAL / 60:.0f} minutes at most:")
            for step in steps:
                words = [Path(word).name if word.startswith("/") else word for word in step.command]
                print(f"  {step.name}, {step.limit:.0f} s at most: {shlex.join(words)}")
            return 0
        if not args.data:
            common.draw_plates(work / "mvtec", train=200, good=20, bad=5)
        failed = {}
        for step in steps:
            common.say(f"{step.name}, at most {step.limit:.0f} s ...")
            begun = time.monotonic()
            failed[step.name] = timed(step.command, step.limit)
            print(f"{step.name}: {failed[step.name] or 'done'}, {time.monotonic() - begun:.0f} s", flush=True)
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(common.run_script(main))
