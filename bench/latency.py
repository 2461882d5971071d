"""How long does one picture take: per method, runtime, precision and batch, and where does the time go?

    python bench/latency.py
    python bench/latency.py --methods patchcore --set size=256 --batches 1,8,32
    python bench/latency.py --methods efficientad --models efficientad=A.safetensors
    python bench/latency.py --device cuda

Every cell is measured in two processes of its own. One only answers for pictures, as `flawscope predict`
does: `predict` from path to answer, pictures per second with decoding beside it, peak memory. The other takes
the work apart, all works in every round (A B A B), so that ratios are of neighbours in time:

    run          what the session does: images to scores and maps
    embed        the first of its two steps in the same engine (fp32 and bf16), the networks; in torch `score`
                 too, the second one
    plain, published
                 references in torch (`references.py`)
    decode, preprocess, postprocess
                 the rest of `predict`, in one thread: reading, to the network's size, decisions and regions

Methods that learn in steps are trained for a few only, if no model is given: it costs the same. What this
machine or this version cannot do is skipped with a remark.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import models
from common import Args, Cell, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

REST = 0.02  # seconds between works: threads of OpenMP and of ONNX Runtime spin for some milliseconds
STREAM = 64  # pictures, for pictures per second
PARTS = ("run", "embed", "score", "plain", "published", "decode", "preprocess", "postprocess")


def predict(model: str, pictures: list[str], batch: int, repeats: int, threads: int, device: str) -> Cell:
    """From paths to predictions, nothing else in this process."""
    predictor = models.open_model(model, device, threads)

    def answer(first: int) -> None:
        chosen = [pictures[(first + k) % len(pictures)] for k in range(batch)]
        if batch == 1:
            predictor.predict(chosen[0])
        else:
            list(predictor.stream(chosen, batch=batch))

    for k in range(min(repeats, 3)):
        answer(k * batch)
    times = [common.seconds(lambda k=k: answer(k * batch)) for k in range(repeats)]  # type: ignore[misc]
    many = min(max(STREAM, 2 * batch), 8 * repeats)
    paths = [pictures[k % len(pictures)] for k in range(many)]
    took = [common.seconds(lambda: list(predictor.stream(paths, batch=batch))) for _ in range(3)]
    return {
        "predict": common.spread(times),
        "pictures_per_second": common.sig(many / statistics.median(took), 4),
        "device_peak_mib": common.device_peak(device),
    }


def parts(
    model: str, trained: str, pictures: list[str], batch: int, repeats: int, threads: int, device: str
) -> Cell:
    """Seconds of every part and of the references, interleaved in this process."""
    import numpy as np
    import torch

    import references
    from flawscope.pictures.decoding import load
    from flawscope.predictor import Predictor
    from flawscope.runtime.torch import TorchSession

    torch.set_num_threads(threads)
    predictor = models.open_model(model, device, threads)
    session, preprocess = predictor.session, predictor.manifest.preprocess
    reference = models.open_model(trained, device if device.startswith("cuda") else "cpu", threads).session
    assert isinstance(reference, TorchSession)
    paths = [pictures[k % len(pictures)] for k in range(batch)]
    opened = [load(p, None) for p in paths]
    images = np.concatenate([preprocess(picture)[0] for picture in opened])
    canned = Predictor(predictor.artefact, Canned(session.size, *session.run(images)))

    def postprocess() -> None:
        for answer in canned.predict(opened):
            answer.regions  # noqa: B018

    works: dict[str, Work] = {"run": lambda: session.run(images)}
    if isinstance(session, TorchSession):
        works |= torch_steps(session, images)
    elif work := engine_embed(session.runtime, predictor.manifest, reference.model, images, threads):
        works["embed"] = work
    works |= references.forward(
        predictor.manifest.method, reference.model, torch.from_numpy(images).to(reference.device)
    )
    works |= {
        "decode": lambda: [load(p, None) for p in paths],
        "preprocess": lambda: [preprocess(picture) for picture in opened],
        "pre- and postprocess": postprocess,
    }
    times = common.rounds(works, repeats, warm=min(repeats, 3), pause=REST)
    before, both = times["preprocess"], times.pop("pre- and postprocess")
    times["postprocess"] = [max(b - a, 0.0) for a, b in zip(before, both, strict=True)]
    ratios = {f"run / {k}": common.paired(times["run"], times[k]) for k in PARTS[1:5] if k in times}
    return {"seconds": {name: common.spread(t) for name, t in times.items()}, "ratio": ratios}


class Canned:
    """A session that has the answer already: what is left is everything around it."""

    runtime, suffix, batch = "canned", "", 1

    def __init__(self, size: tuple[int, int], scores: Images, maps: Images):
        self.size, self.scores, self.maps = size, scores, maps

    def run(self, images: Images) -> tuple[Images, Images]:
        return self.scores[: len(images)], self.maps[: len(images)]

    def save(self, artefact: Any, path: Any) -> None:
        raise NotImplementedError


def torch_steps(session: Any, images: Images) -> dict[str, Work]:
    """The detector's two steps, run as the session runs them: on a CPU a picture a thread."""
    import torch

    from flawscope.methods.threads import workers

    model, device = session.model, session.device
    given = torch.from_numpy(images).to(device)
    apart = device.type == "cpu" and len(given) > 1

    def each(work: Any, items: Any) -> Any:
        if apart:
            with workers(device) as run:
                return run(lambda one: work(one[None]), items)
        with torch.inference_mode():
            result = work(items)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    found = each(model.embed, given)
    features = torch.cat(found) if apart else found
    return {"embed": lambda: each(model.embed, given), "score": lambda: each(model.score, features)}


def engine_embed(runtime: str, manifest: Any, model: Any, images: Images, threads: int) -> Work | None:
    """`embed` of the trained model alone in an engine, with the session's options; None for a precision that
    changes the graph."""
    precision = manifest.calibration.precision
    if precision not in ("fp32", "bf16"):
        return None
    from flawscope.export import onnx_graph

    graph = onnx_graph.trace(model)[0].SerializeToString()
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        engine = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda: engine.run(None, {"images": images})
    from flawscope.runtime.openvino import HINTS
    from flawscope.runtime.openvino import engine as openvino

    core = openvino().Core()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}
    hints |= {"ENABLE_CPU_PINNING": False, "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(graph, b""), "CPU", hints).create_infer_request()
    return lambda: request.infer([images], share_inputs=True, share_outputs=True)


# ------------------------------------------------------------------------------------------------ the cells


def subject(args: Args, folder: Path, category: str, root: Path, method: str) -> tuple[Path, str]:
    """The model of a method and its name: given, or fitted now, for a few steps."""
    from flawscope.methods import registry

    given = dict(pair.split("=", 1) for pair in args.models.split(",") if pair)
    if path := given.get(method):
        own = folder / Path(path).name  # exports come beside it
        if not own.is_file():
            own.write_bytes(Path(path).read_bytes())
        return own, f"{method}, {own.stem}"
    few = registry.method(method).learns_in_steps and "steps" not in common.settings(args, method)
    more = {"steps": args.fit_steps} if few else {}
    name = f"{method}, {common.label(common.settings(args, method), args.preset)}"
    return models.plain_model(args, folder, category, root, method, **more), name


def measured(args: Args, files: tuple[Path, Path], pictures: list[str], batch: int) -> Cell:
    from flawscope.artefact.model_file import read_manifest

    model, trained = files
    same: dict[str, Any] = {"pictures": pictures, "batch": batch, "threads": args.threads}
    same |= {"device": args.device, "repeats": max(min(args.repeats, 10), args.repeats // batch)}
    apart = common.task(parts, model=model, trained=trained, **same).json
    child = common.task(predict, model=model, **same)
    manifest = read_manifest(trained)
    kept = {k: manifest.facts[k] for k in ("bank", "patches", "steps") if k in manifest.facts}
    return {
        **apart,
        **child.json,
        **child.facts,
        "file_mib": common.sig(models.file_size(model) / common.MIB, 4),
        "facts": {"size": manifest.config["size"], **kept},
    }


def main() -> int:
    parser = common.parser(__doc__, "latency", methods="all")
    common.add_runtimes(parser)
    parser.add_argument("--models", default="", help="METHOD=FILE,METHOD=FILE instead of fits")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda measures torch only")
    parser.add_argument("--batches", type=common.numbers, default=[1, 8], help="default: 1,8")
    parser.add_argument("--repeats", type=int, default=100, help="of pictures (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=32, help="different ones (default: %(default)s)")
    parser.add_argument("--fit-steps", type=int, default=20, help="where no model is given")
    quick = {
        "threads": 2,
        "repeats": 2,
        "batches": [1],
        "precisions": "fp32",
        "runtimes": "torch,onnxruntime",
    }
    args = common.arguments(parser, **quick, runtimes="torch,onnxruntime")
    if not common.cuda_or_cpu(args.device):
        return 0
    if args.device != "cpu":
        args.runtimes = "torch"
    record = common.Record(args, "from a picture to an answer")
    rows = []
    with common.workspace(args.work) as folder:
        for category, root in common.roots(args):
            pictures = common.spread_over(common.pictures_below(root / "test"), args.pictures)
            for method in common.methods(args):
                for runtime, precision in common.combinations(args):
                    trained, name = subject(args, folder, category, root, method)
                    model = models.exported(trained, runtime, precision, root)
                    for batch in args.batches if model else ():
                        where = f"{args.device}, {args.threads} threads"
                        of = f"{category}/{name}/{where}/{runtime} {precision}/batch {batch}"
                        work = lambda m=model, t=trained, b=batch: measured(args, (m, t), pictures, b)  # noqa
                        if cell := record.attempt(of, work):
                            rows.append(row_of(f"{category}, {name}", f"{runtime} {precision}", batch, cell))
    common.table("milliseconds a batch, medians", rows)
    return record.status()


def row_of(name: str, engine: str, batch: int, cell: Cell) -> Cell:
    return {
        "model": name,
        "engine": engine,
        "batch": batch,
        "predict": common.ms(cell["predict"]),
        "p99": common.sig(1000 * cell["predict"]["p99"], 4),
        **{k: common.ms(cell["seconds"].get(k)) for k in PARTS},
        **cell["ratio"],
        "pictures/s": cell["pictures_per_second"],
        "peak MiB": cell["process_peak_mib"],
        "file MiB": cell["file_mib"],
    }


if __name__ == "__main__":
    sys.exit(common.start(main))
