"""How long does a fit take, and how much memory?

    python bench/fit.py
    python bench/fit.py --methods patchcore --set size=256 --repeats 3
    python bench/fit.py --only drawn --methods patchcore --counts 60,200,1000 --set size=256 --set memory=0.15

data   `flawscope fit` of each category, whole processes: seconds and peak memory.
drawn  the same on --counts drawn pictures of --side pixels: what grows with their number. Where a method
       predicts its memory before it starts, the prediction stands beside the measured peak.

--cpu gives processor seconds instead, of each stage, which other work on the machine hardly changes.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
from common import Args, Cell, Settings

SHOWN = ("peak_mib", "predicted_mib", "predicted / peak", "bank", "shards", "steps")


def measure(args: Args, method: str, root: Path, folder: Path, settings: Settings) -> Cell:
    """`flawscope fit`, --repeats times."""
    model = folder / "fit.safetensors"
    words = [w for k, v in settings.items() for w in ("--set", f"{k}={'null' if v is None else v}")]
    whole = []
    for _ in range(args.repeats):
        command = ("fit", "--data", root, "--method", method, "--preset", args.preset, "--out", model)
        whole.append(common.flawscope(*command, "--threads", str(args.threads), "--quiet", *words))
        common.say(f"  {whole[-1].seconds:.2f} s")
    from flawscope.artefact.model_file import read_manifest

    facts = read_manifest(model).facts
    peak = max(child.peak for child in whole)
    found: dict[str, Any] = {
        "seconds": common.summary([child.seconds for child in whole]),
        "peak_mib": peak // common.MIB,
        "stages": facts["seconds"],
        **{k: facts[k] for k in ("bank", "patches", "shards", "covering_radius", "steps") if k in facts},
    }
    if predicted := facts.get("memory_predicted"):
        found["predicted_mib"] = predicted // common.MIB
        found["predicted / peak"] = common.round_to(predicted / peak, 4)
    return found


def fit_by_cpu(root: str, preset: str, settings: Settings, threads: int) -> Cell:
    """A fit of PatchCore whose stages are timed by the processor's clock."""
    import torch

    import flawscope
    from flawscope.methods.patchcore import patches

    torch.set_num_threads(threads)
    patches.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    model = flawscope.fit(root, preset=preset, device="cpu", **settings)
    facts, took = model.manifest.facts, time.process_time()
    stages = facts["seconds"]
    first = stages["features"] + stages["coreset"]
    return {
        "pictures": sum(one.role in ("train", "calibration") for one in model.manifest.pictures),
        "left out": model.calibration.count,
        "stages": stages,
        "/ features and coreset": common.round_to((first + stages["calibration"]) / first, 3),
        "cpu_seconds": common.round_to(took),
        "bank": facts["bank"],
        "patches": facts["patches"],
        "predicted_mib": facts["memory_predicted"] // common.MIB,
    }


def measure_cpu(args: Args, root: Path, settings: Settings) -> Cell:
    child = common.run_function(
        fit_by_cpu, root=root, preset=args.preset, settings=settings, threads=args.threads
    )
    return {**child.json, "peak_mib": child.peak // common.MIB}


def main() -> int:
    parser = common.make_parser(__doc__, "fit", methods="patchcore")
    parser.add_argument("--only", default="data,drawn", help="default: %(default)s")
    parser.add_argument("--counts", type=common.ints, default=[60, 200, 1000], help="default: 60,200,1000")
    parser.add_argument("--side", type=int, default=256, help="of drawn pictures (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of whole processes (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="processor seconds of PatchCore's stages")
    args = common.parse_arguments(parser, threads=2, counts=[12], side=64, repeats=1)
    record = common.Record(args, "whole fits")
    rows = []
    with common.workspace(args.work) as folder:
        cases = list(common.category_folders(args)) if "data" in args.only else []
        for count in args.counts if "drawn" in args.only else ():
            name = f"{count} drawn, {args.side} px"
            cases.append((name, common.draw_plates(folder / common.slug(name), train=count, size=args.side)))
        for name, root in cases:
            for method in common.methods(args):
                settings = common.settings(args, method)
                of = f"{name}/{method}, {common.label_of(settings, args.preset)}, {args.threads} threads"
                if args.cpu:
                    cell = record.attempt(of, partial(measure_cpu, args, root, settings))
                    rows += [] if cell is None else [{"fit": of, **common.without_metadata(cell)}]
                    continue
                work = lambda m=method, r=root, s=settings: measure(args, m, r, folder, s)  # noqa: E731
                if cell := record.attempt(of, work):
                    row = {k: cell[k] for k in SHOWN if k in cell}
                    rows.append({"fit": of, "seconds": cell["seconds"]["median"], **row})
    common.print_table("whole processes", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
