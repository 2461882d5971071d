"""How long does one picture take: per method, runtime, precision and batch, and where does the time go?

    python bench/latency.py
    python bench/latency.py --methods patchcore --set size=256 --batches 1,8,32
    python bench/latency.py --methods efficientad --models efficientad=A.safetensors
    python bench/latency.py --device cuda

Every cell is measured in two processes of its own. One only answers for pictures, as `flawscope predict`
does: `predict` from path to answer, pictures per second with decoding beside it, peak memory. The other takes
the work apart, all works in every round (A B A B):

    run          what the session does: images to scores and maps
    embed, score its two steps, the networks and the search; in torch
    decode, preprocess
                 in one thread; `predict` decodes ahead

Methods that learn in steps are trained for a few only, if no model is given: it costs the same. What this
machine or this version cannot do is skipped with a remark.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import models
from common import Args, Cell, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

WARMUP = 3  # calls that are not timed
FIT_STEPS = 20  # where no model is given
PICTURES = 32  # different ones
REST = 0.02  # seconds between works: threads of OpenMP and of ONNX Runtime spin for some milliseconds
PARTS = ("run", "embed", "score", "decode", "preprocess")


def time_calls(model: Any, pictures: list[str], batch: int, calls: int) -> list[float]:
    """Seconds of each call: `predict` of a picture, or `stream` of `batch` pictures."""

    def call(k: int) -> float:
        chosen = [pictures[(k * batch + i) % len(pictures)] for i in range(batch)]
        begun = time.perf_counter()
        model.predict(chosen[0]) if batch == 1 else list(model.stream(chosen, batch=batch))
        return time.perf_counter() - begun

    return [call(k) for k in range(WARMUP + calls)][WARMUP:]


def throughput(model: Any, pictures: list[str], batch: int, count: int) -> float:
    """Pictures a second of `stream` over at least `count` pictures."""
    many = [pictures[k % len(pictures)] for k in range(max(count, 2 * batch))]
    begun = time.perf_counter()
    list(model.stream(many, batch=batch))
    return len(many) / (time.perf_counter() - begun)


def predict(model: str, pictures: list[str], batch: int, repeats: int, threads: int, device: str) -> Cell:
    """From paths to predictions, nothing else in this process."""
    predictor = models.open_model(model, device, threads)
    return {
        "predict": common.p50_p99(time_calls(predictor, pictures, batch, repeats)),
        "pictures_per_second": common.round_to(throughput(predictor, pictures, batch, repeats), 4),
        "device_peak_mib": common.device_peak(device),
    }


def parts(model: str, pictures: list[str], batch: int, repeats: int, threads: int, device: str) -> Cell:
    """Seconds of every part, interleaved in this process."""
    import numpy as np
    import torch

    from flawscope.pictures.decoding import load_picture
    from flawscope.runtime.torch import TorchSession

    torch.set_num_threads(threads)
    predictor = models.open_model(model, device, threads)
    session, preprocess = predictor.session, predictor.manifest.preprocess
    paths = [pictures[k % len(pictures)] for k in range(batch)]
    opened = [load_picture(p, None) for p in paths]
    images = np.concatenate([preprocess(picture)[0] for picture in opened])
    works: dict[str, Work] = {"run": lambda: session.run(images)}
    if isinstance(session, TorchSession):
        works |= torch_steps(session, images)
    works |= {
        "decode": lambda: [load_picture(p, None) for p in paths],
        "preprocess": lambda: [preprocess(picture) for picture in opened],
    }
    times = common.time_rounds(works, repeats, warm=min(repeats, 3), pause=REST)
    return {"seconds": {name: common.p50_p99(t) for name, t in times.items()}}


def torch_steps(session: Any, images: Images) -> dict[str, Work]:
    """The detector's two steps, of the whole batch at once."""
    import torch

    model, given = session.model, torch.from_numpy(images).to(session.device)

    def within(work: Any, values: Any) -> Any:
        with torch.inference_mode():
            found = work(values)
        if session.device.type == "cuda":
            torch.cuda.synchronize()
        return found

    features = within(model.embed, given)
    return {"embed": lambda: within(model.embed, given), "score": lambda: within(model.score, features)}


# ------------------------------------------------------------------------------------------------ the cells


def subject(args: Args, folder: Path, of: tuple[str, Path, str], engine: tuple[str, str]) -> Path:
    """The model of a method for an engine: given, or fitted now, for a few steps."""
    from flawscope.methods import registry

    method, given = of[2], common.parse_models(args)
    if path := given.get(method):
        own = folder / Path(path).name  # exports come beside it
        if not own.is_file():
            own.write_bytes(Path(path).read_bytes())
        return own if engine[0] == "torch" else models.exported(own, *engine, of[1])
    few = registry.method(method).learns_in_steps and "steps" not in common.settings(args, method)
    return models.model_for(args, folder, of, engine, **({"steps": FIT_STEPS} if few else {}))


def measured(args: Args, folder: Path, of: Any, engine: Any, batch: int) -> Cell:
    from flawscope.predictor import read_manifest

    model = subject(args, folder, of, engine)
    paths = common.pictures_below(of[1] / "test")
    pictures = [str(path) for path in paths[:: max(1, len(paths) // PICTURES)]][:PICTURES]
    same: dict[str, Any] = {"pictures": pictures, "batch": batch, "threads": args.threads}
    same |= {"device": args.device, "repeats": max(min(args.repeats, 10), args.repeats // batch)}
    apart = common.run_function(parts, model=model, **same).json
    child = common.run_function(predict, model=model, **same)
    manifest = read_manifest(model)
    kept = {k: manifest.facts[k] for k in ("bank", "patches", "steps") if k in manifest.facts}
    return {
        **apart,
        **child.json,
        **child.facts,
        "file_mib": common.size_mib(model),
        "facts": {"size": manifest.config["size"], **kept},
    }


def main() -> int:
    parser = common.make_parser(__doc__, "latency", methods="all")
    common.add_runtimes(parser)
    parser.add_argument("--models", default="", help="METHOD=FILE,METHOD=FILE instead of fits")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda measures torch only")
    parser.add_argument("--batches", type=common.ints, default=[1, 8], help="default: 1,8")
    parser.add_argument("--repeats", type=int, default=100, help="of pictures (default: %(default)s)")
    quick = {"repeats": 2, "batches": [1], "runtimes": "torch,onnxruntime", "precisions": "fp32"}
    args = common.parse_arguments(parser, threads=2, methods="patchcore", **quick)
    if args.device != "cpu":
        args.runtimes = "torch"
    record = common.Record(args, "from a picture to an answer")
    rows = []
    where = f"{args.device}, {args.threads} threads"
    with common.workspace(args.work) as folder:
        for category, root, method, name in common.cases(args):
            named = common.parse_models(args).items()
            given = "".join(f", {Path(path).name} as {one}" for one, path in named)
            for engine, batch in ((e, b) for e in common.combinations(args) for b in args.batches):
                of = (category, root, method)
                work = lambda o=of, e=engine, b=batch: measured(args, folder, o, e, b)  # noqa: E731
                if cell := record.attempt(f"{name}{given}/{where}/{' '.join(engine)}/batch {batch}", work):
                    rows.append(row_of(name, " ".join(engine), batch, cell))
    common.print_table("milliseconds a batch, medians", rows)
    return record.status()


def row_of(name: str, engine: str, batch: int, cell: Cell) -> Cell:
    return {
        "model": name,
        "engine": engine,
        "batch": batch,
        "predict": common.to_ms(cell["predict"]),
        "p99": common.round_to(1000 * cell["predict"]["p99"], 4),
        **{k: common.to_ms(cell["seconds"].get(k)) for k in PARTS},
        "pictures/s": cell["pictures_per_second"],
        "peak MiB": cell["process_peak_mib"],
        "file MiB": cell["file_mib"],
    }


if __name__ == "__main__":
    sys.exit(common.run_script(main))
