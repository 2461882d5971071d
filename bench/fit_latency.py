"""Does `fit --latency` keep its limit, and is a model that may take longer the more accurate one?

    python bench/fit_latency.py --threads 2
    python bench/fit_latency.py --only candidates --products gear,cable,leather --categories ""

`limits`: each cell is one call of `flawscope fit --latency`, and then its model in a process of its own:
image AUROC and AU-PRO on the test pictures, and the time from decoded pixels to the decision, over 200 calls
with these pictures in turn. Measure while nothing else runs: the load before each cell stands in it.

`candidates`: all of PatchCore's candidates on products that take no part in `limits`, exported, in ONNX
Runtime: the measurement behind their order.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common
import drawn
from common import Args, Cell


def judge(model: str, root: str, engine: str, threads: int, calls: int) -> Cell:
    """Accuracy of a model on the test pictures, and its times."""
    import flawscope
    from flawscope.benchmark import timing
    from flawscope.evaluation import evaluate
    from flawscope.pictures.decoding import decode

    own = None if engine == "torch" else engine
    predictor = flawscope.load(model, engine=own, device="cpu", threads=threads)
    assert isinstance(predictor, flawscope.Predictor)
    found = evaluate(predictor, flawscope.open_dataset(root))
    judged = [one.item.path for one in found.pictures]
    pictures = [decode(path) for path in judged[:: -(-len(judged) // 40)]]  # good and defective ones
    return {
        "metrics": {name: found.metrics[name] for name in common.METRICS},
        "false_alarms": found.false_alarms,
        **timing.summarize(timing.time_calls(predictor, pictures, calls=calls)),
    }


def fit(root: str, model: str, preset: str, settings: dict[str, Any], threads: int) -> Cell:
    """A candidate fitted on all pictures, and exported."""
    import torch

    import flawscope
    from flawscope.export.export import export

    torch.set_num_threads(threads)
    fitted = flawscope.fit(flawscope.open_dataset(root), preset=preset, check=False, **settings)
    fitted.save(Path(model).with_suffix(".safetensors"))
    export(Path(model).with_suffix(".safetensors"), model)
    return {"bank": fitted.manifest.facts["bank"]}


def within(args: Args, folder: Path, name: str, root: Path, limit: int) -> Cell:
    """A model of `fit --latency`."""
    from flawscope.predictor import read_manifest

    model = folder / f"{name}-{limit}.safetensors"
    words = ["--latency", f"{limit}ms", "--threads", args.threads, "--out", model, "--quiet"]
    child = common.flawscope("fit", "--data", root, *map(str, words))
    facts = read_manifest(model).facts["latency"]
    chosen = model if facts["engine"] == "torch" else model.with_suffix(".onnx")
    same = {"engine": facts["engine"], "threads": args.threads, "calls": args.calls}
    found = common.run_function(judge, model=chosen, root=root, **same).json
    kept = {key: facts[key] for key in ("settings", "engine", "precision", "threads", "tried")}
    told = {"to_ms": facts["to_ms"], "p95_ms": facts["p95_ms"]}
    return {"limit_ms": limit, **kept, "told": told, **found, "kept": found["p95_ms"] <= limit, **child.facts}


def candidate(args: Args, folder: Path, root: Path, one: dict[str, Any]) -> Cell:
    model = folder / "candidate.onnx"
    own = {"preset": one.pop("preset", "default"), "settings": one, "threads": args.threads}
    fitted = common.run_function(fit, root=root, model=model, **own).json
    same = {"engine": "onnxruntime", "threads": args.threads, "calls": args.calls}
    return {**fitted, **common.run_function(judge, model=model, root=root, **same).json}


def main() -> int:
    from flawscope.methods import registry

    parser = common.make_parser(__doc__, "fit_latency")
    drawings = {"train": 40, "good": 24, "bad": 24, "size": 512}  # as large as the real pictures
    parser.set_defaults(categories="toothbrush", threads=2, calls=200, drawings=drawings)
    parser.add_argument("--only", default="limits", choices=("limits", "candidates"))
    parser.add_argument("--products", default="plate,fabric", help="drawn ones (default: %(default)s)")
    parser.add_argument("--limits", type=common.ints, default=[20, 50, 150], help="ms: 20,50,150")
    quick = {"products": "", "limits": [5000], "calls": 4}
    args = common.parse_arguments(parser, **quick)
    record = common.Record(args, "the most accurate model within a time")
    rows = []
    with common.workspace(args.work) as folder:
        for name, root in drawn.products(args, folder, 5, **args.drawings):
            if args.only == "candidates":
                for one in registry.method("patchcore").candidates:
                    settings = {k: v for k, v in one.items() if k != "preset"}
                    words = common.label_of(settings, one.get("preset", "default"))
                    work = lambda r=root, c=dict(one): candidate(args, folder, r, c)  # noqa: E731
                    if cell := record.attempt(f"{name}/{words}", work):
                        rows.append(row_of(name, words, cell))
                continue
            for limit in args.limits:
                work = lambda n=name, r=root, t=limit: within(args, folder, n, r, t)  # noqa: E731
                if cell := record.attempt(f"{name}/{limit} ms, {args.threads} threads", work):
                    rows.append(row_of(name, f"{limit} ms: {cell['settings']}, {cell['engine']}", cell))
    common.print_table("milliseconds from decoded pixels to the decision", rows)
    return record.status()


def row_of(name: str, what: str, cell: Cell) -> Cell:
    metrics = {key: cell["metrics"][key] for key in ("image_auroc", "au_pro")}
    return {"product": name, "what": what, "median": cell["to_ms"], "p95": cell["p95_ms"], **metrics}


if __name__ == "__main__":
    sys.exit(common.run_script(main))
