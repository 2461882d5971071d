"""How long one picture takes: per runtime, precision and batch, and where the time goes.

    python bench/latency.py --peer-python PYTHON_WITH_ANOMALIB
    python bench/latency.py --set size=256 --out bench/results/latency-256.json --peer-python ...
    python bench/latency.py --device cuda

Every combination is measured in two processes of its own. One only answers for pictures, as `flawscope
predict` does: median, 99th percentile, pictures per second, peak memory. The other takes the work apart and
puts it beside a plain reference in torch: the same features, then one fp32 matrix product of all patches with
the whole memory bank and a minimum, picture by picture. All works come in every round (A B A B), so ratios
are of neighbours in time. The reference is given away for less than it is worth: it leaves out |x|², the
root, the re-weighting and the map.

    plain               fresh memory for the products, as one would write it; ratios in the text are to this
    plain, kept buffer  the products written into memory that is kept
    product only        without the minimum: the floor

decode and preprocess are per batch, in one thread; `predict` decodes ahead in threads. postprocess is putting
the batch together, decisions, the `Prediction`s and their regions, without drawing. How network and search
share the time inside an exported graph is the engine's own count of its nodes (`shares`).

anomalib: the same backbone, layers, picture size and memory bank in its Patchcore, exported by its own
`to_torch` and `to_openvino`, `predict(path)` of its own inferencers, whole processes in turn with ours. Its
graph is for one size of picture, so that this part needs a model of one size.

One cell is a combination; a run that was stopped goes on where it was. What this machine or this version
cannot do is skipped with a remark; a process that fails is told, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flawscope.runtime.torch import TorchSession

    Images = NDArray[np.float32]

REST = 0.02  # seconds between works: threads of OpenMP and of ONNX Runtime spin for some milliseconds
STREAM = 64  # pictures, for pictures per second
Args = argparse.Namespace
Record = common.Record
Work = Callable[[], object]


# ------------------------------------------------------------------------------------ pictures to answers


def task_predict(
    model: str, pictures: list[str], batch: int, repeats: int, threads: int, device: str, stream: bool = True
) -> dict[str, Any]:
    """Seconds from paths to predictions, nothing else in this process."""
    predictor = common.open_model(model, device, threads)

    def answer(first: int) -> None:
        chosen = [pictures[(first + k) % len(pictures)] for k in range(batch)]
        if batch == 1:
            predictor.predict(chosen[0])
        else:
            list(predictor.stream(chosen, batch=batch))

    for k in range(3):
        answer(k * batch)
    times = [common.seconds(lambda k=k: answer(k * batch)) for k in range(repeats)]
    found: dict[str, Any] = {"seconds": times, "device_peak_mib": _device_peak(device)}
    if stream:
        many = max(STREAM, 2 * batch)
        paths = [pictures[k % len(pictures)] for k in range(many)]
        took = [common.seconds(lambda: list(predictor.stream(paths, batch=batch))) for _ in range(3)]
        found["stream"] = many / statistics.median(took)
    return found


def _device_peak(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated() // common.MIB)


# ------------------------------------------------------------------------------------------- taken apart


def task_parts(
    model: str,
    trained: str,
    pictures: list[str],
    batch: int,
    repeats: int,
    threads: int,
    device: str,
    compiled: bool = False,
) -> dict[str, Any]:
    """Seconds of every part and of the plain reference, interleaved in this process."""
    import numpy as np
    import torch

    from flawscope.pictures.decoding import load
    from flawscope.predictor import Predictor
    from flawscope.runtime.torch import TorchSession

    torch.set_num_threads(threads)
    predictor = common.open_model(model, device, threads)
    session, preprocess = predictor.session, predictor.manifest.preprocess
    reference = common.open_model(trained, device if device.startswith("cuda") else "cpu", threads).session
    assert isinstance(reference, TorchSession)
    if compiled:
        session.model = torch.compile(session.model)  # type: ignore[attr-defined]
    paths = [pictures[k % len(pictures)] for k in range(batch)]
    opened = [load(p, None) for p in paths]
    loaded = [(p, preprocess(p)) for p in paths]
    images = np.concatenate([image for _, (image, _) in loaded])
    canned = Predictor(predictor.artefact, Canned(session.size, *session.run(images)))

    def postprocess() -> None:
        for _, result in canned._run(list(loaded)):  # what `predict` does around the session
            result.regions  # type: ignore[union-attr]  # noqa: B018

    works: dict[str, Work] = {"run": lambda: session.run(images)}
    works |= plain(reference, images)
    if isinstance(session, TorchSession) and not compiled:
        works |= steps(session, images)
    works |= {
        "decode": lambda: [load(p, None) for p in paths],
        "preprocess": lambda: [preprocess(picture) for picture in opened],
        "postprocess": postprocess,
    }
    times = common.rounds(works, repeats, warm=3, pause=REST)
    ratios = {name: common.paired(times["run"], times[name]) for name in times if name.startswith("plain")}
    found: dict[str, Any] = {
        "seconds": {name: common.spread(t) for name, t in times.items()},
        "ratio": ratios,
        "threads": torch.get_num_threads(),
        "device_peak_mib": _device_peak(device),
    }
    patches = getattr(reference.model, "patches", None)
    if patches and not isinstance(session, TorchSession):
        with contextlib.suppress(ImportError):
            found["shares"] = NODES[session.runtime](model, images, threads, patches)
    return found


class Canned:
    """A session that has the answer already: what is left is everything around it."""

    runtime, suffix, batch = "canned", "", 1

    def __init__(self, size: tuple[int, int], scores: Images, maps: Images):
        self.size, self.scores, self.maps = size, scores, maps

    def run(self, images: Images) -> tuple[Images, Images]:
        return self.scores, self.maps

    def save(self, artefact: Any, path: Any) -> None:
        raise NotImplementedError


def plain(session: TorchSession, images: Images) -> dict[str, Work]:
    """The reference in its three forms; none for a method without a memory bank."""
    import torch

    model: Any = session.model
    if not hasattr(model, "views"):
        return {}
    kept = [torch.empty(n, len(v.bank), device=session.device) for n, v in zip(model.patches, model.views)]  # noqa: B905

    def search(buffers: list[Any], minimum: bool = True) -> Work:
        def work() -> None:
            with torch.inference_mode():
                features = model.embed(torch.from_numpy(images).to(session.device))
                parts = features.split(model.patches, dim=1)
                for view, part, buffer in zip(model.views, parts, buffers, strict=True):
                    for queries in part - view.centre:  # [P, D] of one picture: all of them need gigabytes
                        products = torch.addmm(view.norms, queries, view.bank.T, alpha=-2, out=buffer)
                        if minimum:
                            products = products.amin(1)
            products[:1].cpu()  # waits for a GPU

        return work

    fresh = [None] * len(kept)
    return {
        "plain": search(fresh),
        "plain, kept buffer": search(kept),
        "plain, product only": search(fresh, minimum=False),
    }


def steps(session: TorchSession, images: Images) -> dict[str, Work]:
    """The detector's two named steps, run as the session runs them."""
    import torch

    from flawscope.methods.threads import workers

    model, device = session.model, session.device
    batch = torch.from_numpy(images).to(device)
    apart = device.type == "cpu" and len(batch) > 1  # then a picture a thread

    def each(work: Callable[[Any], Any], items: Any) -> Any:
        if apart:
            with workers(device) as run:
                return run(lambda one: work(one[None]), items)
        with torch.inference_mode():
            result = work(items)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    found = each(model.embed, batch)
    features = torch.cat(found) if apart else found
    return {"network": lambda: each(model.embed, batch), "search": lambda: each(model.score, features)}


# ------------------------------------------------------------------- nodes of an exported graph, by engine


def shares(
    nodes: Iterator[tuple[list[int], float]], like: Sequence[int], patches: list[int]
) -> dict[str, Any]:
    """Share of the time by the shape of what a node makes, for images of the shape `like`: maps of many
    channels [B, C, h, w] are the network's; one row a picture or the size of the image, score and map; what
    else there is, the search, which may gather any number of rows."""
    batch, _, *size = like
    spent = {"network": 0.0, "search": 0.0, "score and map": 0.0}
    for shape, took in nodes:
        if len(shape) == 4 and shape[0] == batch and shape[1] > 1:
            spent["network"] += took
        elif (
            not shape
            or shape[-2:] == size
            or (shape[0] == batch and shape[1:2] not in [[p] for p in patches])
        ):
            spent["score and map"] += took
        else:
            spent["search"] += took
    total = sum(spent.values())
    return {name: common.sig(took / total, 3) for name, took in spent.items()}


def onnx_nodes(model: str, images: Images, threads: int, patches: list[int]) -> dict[str, float]:
    """By ONNX Runtime's own profile of ten runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        engine = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(10):
            engine.run(None, {"images": images})
        events = json.loads(Path(engine.end_profiling()).read_text())

    def nodes() -> Iterator[tuple[list[int], float]]:
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                made = event["args"].get("output_type_shape") or [{}]
                yield next(iter(made[0].values()), []), float(event["dur"])

    return shares(nodes(), images.shape, patches)


def openvino_nodes(model: str, images: Images, threads: int, patches: list[int]) -> dict[str, float]:
    """By OpenVINO's performance counters, of the graph with this batch made static."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape(list(images.shape))
    options = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(graph, "CPU", options)
    request = compiled.create_infer_request()
    for _ in range(10):
        request.infer([images])

    def nodes() -> Iterator[tuple[list[int], float]]:
        for op in compiled.get_runtime_model().get_ops():
            took = str(op.get_rt_info()["execTimeMcs"].astype(str))
            if took.isdigit() and op.get_output_size():
                yield [int(n) for n in op.get_output_shape(0)], float(took)

    return shares(nodes(), images.shape, patches)


NODES = {"onnxruntime": onnx_nodes, "openvino": openvino_nodes}


# --------------------------------------------------------------------------------------- a model, pictures


class Subject:
    """The model that is measured and its pictures: given, or fitted when the first cell needs it."""

    def __init__(self, args: Args, folder: Path):
        self.args, self.folder = args, folder
        root = common.mvtec(args, args.category)
        self.label = args.category if root else "drawn"
        if root is None:
            common.say("a drawn category is used")
        self.root = root or common.draw(folder, 40, 512)
        test = self.root / "test"
        found = common.pictures_below(test if test.is_dir() and root else self.root)
        step = max(1, len(found) // args.pictures)
        self.pictures = [str(p) for p in found[::step][: args.pictures]]  # of every kind
        self._trained: Path | None = None

    @property
    def trained(self) -> Path:
        if self._trained is None:
            given = self.args.model
            name = given.stem if given else f"{self.args.method}-{self.label}"
            path = self.folder / f"{name}.safetensors"
            if given:
                path.write_bytes(given.read_bytes())  # exports come beside it
            elif not path.is_file():
                common.say(f"fitting {self.label} ...")
                settings = [word for pair in self.args.set for word in ("--set", pair)]
                common.flawscope(
                    *("fit", "--data", self.root, "--out", path, "--quiet"),
                    *("--method", self.args.method, *settings),
                )
            self._trained = path
        return self._trained

    def file(self, runtime: str, precision: str) -> Path | None:
        if runtime == "torch" and precision != "fp32":
            return common.at_precision(self.trained, precision)
        return common.exported(self.trained, runtime, precision, self.root)

    def facts(self) -> dict[str, Any]:
        from flawscope.artefact.model_file import read_manifest

        manifest = read_manifest(self.trained)
        keys = ("bank", "patches", "shards")
        return {k: manifest.facts.get(k) for k in keys} | {"size": manifest.config.get("size")}


# ------------------------------------------------------------------------------------------------ sections


def combination(
    args: Args, record: Record, subject: Subject, runtime: str, precision: str, batch: int, compiled: bool
) -> dict[str, Any] | None:
    """One cell; None and a remark where there is no such model."""
    on = "" if args.device == "cpu" else f"{args.device} "
    name = f"{subject.label}/{on}{runtime} {precision}{' compiled' if compiled else ''}/batch {batch}"
    if record.has(name):
        return record.cell(name, dict)
    model = subject.file(runtime, precision)
    if model is None:
        return None
    repeats = max(args.fewest, args.repeats // batch)
    common_values = {
        "model": model,
        "pictures": subject.pictures,
        "batch": batch,
        "repeats": repeats,
        "threads": args.threads,
        "device": args.device,
    }

    def measure() -> dict[str, Any]:
        parts = common.task(
            __file__, "parts", **common_values, trained=subject.trained, compiled=compiled
        ).json
        found = {**subject.facts(), "file_mib": common.sig(common.file_size(model) / common.MIB, 4), **parts}
        run = parts["seconds"]["run"]["median"]
        found["pictures_per_second_run"] = common.sig(batch / run, 4)
        if not compiled:
            child = common.task(__file__, "predict", **common_values)
            whole = child.json
            found["seconds"]["predict"] = common.spread(whole["seconds"])
            found["pictures_per_second_stream"] = common.sig(whole["stream"], 4)
            found["peak_mib"] = child.peak // common.MIB
            found["device_peak_mib"] = whole["device_peak_mib"]
        return found

    return record.attempt(name, measure)


def runtimes(args: Args, record: Record, subject: Subject) -> None:
    rows, split = [], []
    for runtime, precision in common.combinations(args):
        for compiled in (False, True) if args.device != "cpu" and precision == "fp32" else (False,):
            for batch in args.batches:
                cell = combination(args, record, subject, runtime, precision, batch, compiled)
                if cell is None:
                    break  # no such model: no batch of it either
                name = (f"{runtime} {precision}{' compiled' if compiled else ''}", batch)
                rows.append(name + overview(cell))
                split.append(name + parts(cell, batch))
    header = ("runtime", "batch", "predict ms", "p99", "run ms", "p99", "pictures/s", "peak MiB", "file MiB")
    ratios = ("/ plain", "/ kept", "/ product")
    common.table(f"latency of {subject.label}, {args.threads} threads", rows, (*header, *ratios))
    header = (
        "runtime",
        "batch",
        "decode",
        "preprocess",
        "network",
        "search",
        "postprocess",
        "engine's share",
    )
    common.table("where it goes, ms per picture (network and search in one where exported)", split, header)


def overview(cell: dict[str, Any]) -> tuple[Any, ...]:
    def ms(name: str, key: str) -> str:
        return f"{1000 * cell['seconds'][name][key]:.2f}" if name in cell["seconds"] else "-"

    return (
        *(ms(name, key) for name in ("predict", "run") for key in ("median", "p99")),
        cell.get("pictures_per_second_stream", cell["pictures_per_second_run"]),
        cell.get("peak_mib", "-"),
        cell["file_mib"],
        *(cell["ratio"].get(k, "-") for k in ("plain", "plain, kept buffer", "plain, product only")),
    )


def parts(cell: dict[str, Any], batch: int) -> tuple[str, ...]:
    times = {name: 1000 * t["median"] / batch for name, t in cell["seconds"].items()}
    inside = [f"{times[k]:.2f}" if k in times else "" for k in ("network", "search")]
    if not any(inside):
        inside = [f"{times['run']:.2f}", "(both)"]
    spent = ", ".join(f"{name} {share:.0%}" for name, share in cell.get("shares", {}).items())
    before = (f"{times[k]:.2f}" for k in ("decode", "preprocess"))
    return (*before, *inside, f"{times['postprocess']:.3f}", spent)


PAIRS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    # name: its export, its engine, more for the peer, our runtimes and precisions
    "TorchInferencer": ("torch", "torch", (), ("torch fp32", "onnxruntime fp32", "openvino fp32")),
    "OpenVINOInferencer, f32": (
        *("one size", "openvino", ("--precision", "f32")),
        ("onnxruntime fp32", "openvino fp32"),
    ),
    # left alone, OpenVINO computes in bf16 where the processor can
    "OpenVINOInferencer": ("one size", "openvino", (), ("openvino fp32", "openvino bf16")),
    "OpenVINOInferencer, any size, f32": (
        *("any size", "openvino", ("--precision", "f32")),
        ("onnxruntime fp32", "openvino fp32"),
    ),
}


def anomalib(args: Args, record: Record, subject: Subject) -> None:
    """Ours and theirs from path to answer, one picture at a time, in processes that take turns."""
    python = common.peer_python(args)
    made: dict[str, Any] = {}
    rows = []
    for name, (which, engine, more, opponents) in PAIRS.items():
        for opponent in opponents:
            runtime, precision = opponent.split()
            cell_name = f"{subject.label}/anomalib {name} against {opponent}"
            ours: Path | None = None
            command: list[Any] = []
            if not record.has(cell_name):
                if python is None or (runtime, precision) not in common.combinations(args):
                    continue
                ours = subject.file(runtime, precision)
                if ours is None:
                    continue
                made = made or peer_models(python, subject)
                if which not in made.get("made", {}):
                    common.say(f"skipped: {cell_name}: {made['failed'].get(which)}")
                    continue
                command = [python, common.ROOT / "bench" / "peer.py", "predict", made["made"][which]]
                command += ["--engine", engine, "--pictures", made["list"], *more]
                command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]

            def measure(ours: Any = ours, command: list[Any] = command) -> dict[str, Any]:
                return take_turns(args, subject, ours, command)

            cell = record.attempt(cell_name, measure)
            if cell is None:
                continue
            row = (f"{1000 * cell[k]['median']:.1f}" for k in ("anomalib", "flawscope"))
            peaks = (cell["peak_mib"][k] for k in ("anomalib", "flawscope"))
            rows.append((name, cell["precision"], opponent, *row, cell["ratio"], *peaks))
    header = ("anomalib", "computes in", "flawscope", "theirs ms", "ours ms", "theirs / ours", "MiB", "ours")
    if rows:
        common.table(f"predict(path) of {subject.label}, same bank, in turn", rows, header)


def peer_models(python: str, subject: Subject) -> dict[str, Any]:
    """anomalib's own exports of a Patchcore with our model's backbone and bank; nothing for several sizes."""
    import numpy as np
    from PIL import Image

    from flawscope.artefact.model_file import read
    from flawscope.features.weights import locate

    artefact = read(subject.trained)
    config, tensors = artefact.manifest.config, artefact.tensors
    size = artefact.manifest.preprocess.network_size
    weights = locate(config.get("backbone", "")).path
    usual = config.get("backbone") == "tf_efficientnet_lite0" and list(config["stages"]) == [2, 3]
    if not usual or "views.1.bank" in tensors or size[0] != size[1] or weights is None:
        return {"failed": dict.fromkeys(("torch", "one size", "any size"), "it needs Lite0 and one size")}
    bank = subject.folder / "bank.npy"
    np.save(bank, tensors["views.0.bank"] + tensors["views.0.centre"])
    first = Image.open(subject.pictures[0]).size
    same = [p for p in subject.pictures if Image.open(p).size == first]  # its graph is for one size
    listed = subject.folder / "pictures.json"
    listed.write_text(json.dumps(same))
    common.say("exporting anomalib's models ...")
    out = subject.folder / "anomalib"
    command: list[str | Path] = [python, common.ROOT / "bench" / "peer.py", "export", bank, "--out", out]
    command += ["--weights", weights, "--size", str(size[0]), "--picture-size", f"{first[1]}x{first[0]}"]
    return {**common.run(command).json, "list": listed}


def take_turns(args: Args, subject: Subject, ours: Path, command: list[Any]) -> dict[str, Any]:
    pictures = json.loads(Path(command[command.index("--pictures") + 1]).read_text())
    times: dict[str, list[float]] = {"anomalib": [], "flawscope": []}
    medians: dict[str, list[float]] = {"anomalib": [], "flawscope": []}
    peaks = {"anomalib": 0, "flawscope": 0}
    found: dict[str, Any] = {}
    for _ in range(args.rounds):
        mine = common.task(
            *(__file__, "predict"),
            model=ours,
            pictures=pictures,
            batch=1,
            repeats=args.repeats,
            threads=args.threads,
            device="cpu",
            stream=False,
        )
        theirs = common.run(command)
        found = theirs.json
        for name, child in (("flawscope", mine), ("anomalib", theirs)):
            times[name] += child.json["seconds"]
            medians[name].append(statistics.median(child.json["seconds"]))
            peaks[name] = max(peaks[name], child.peak // common.MIB)
    return {
        **{name: common.spread(t) for name, t in times.items()},
        "medians": {name: [common.sig(m) for m in m_] for name, m_ in medians.items()},
        "ratio": common.paired(medians["anomalib"], medians["flawscope"]),
        "peak_mib": peaks,
        "precision": found.get("precision"),
        "versions": found["versions"],
        "threads": args.threads,
        **subject.facts(),
    }


# ---------------------------------------------------------------------------------------------------- main

TASKS: dict[str, Callable[..., Any]] = {"predict": task_predict, "parts": task_parts}


def main() -> int:
    parser = common.parser(__doc__, "latency")
    common.add_peer(parser)
    common.add_settings(parser)
    common.add_runtimes(parser)
    parser.add_argument("--model", type=Path, help=".safetensors file (default: fitted here)")
    parser.add_argument("--method", default="patchcore")
    parser.add_argument("--category", default="transistor", help="its test pictures; drawn without data")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda measures torch only")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--batches", type=common.numbers, default=[1, 8, 32], help="default: 1,8,32")
    parser.add_argument("--repeats", type=int, default=200, help="of pictures (default: %(default)s)")
    parser.add_argument("--fewest", type=int, default=20, help="of batches (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of whole processes against anomalib")
    parser.add_argument("--pictures", type=int, default=32, help="different ones (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="keep models and exports here")
    args = parser.parse_args()
    if args.task:
        return common.run_task(args.task, TASKS)
    settings = {"set": args.set, "method": args.method, "threads": args.threads}
    record = Record(args, "from a picture to an answer", settings | {"model": args.model and args.model.name})
    common.headline("latency")
    if args.device != "cpu":
        from flawscope.errors import InputError
        from flawscope.methods.detector import device_for

        try:
            device_for(args.device)
        except InputError as error:
            common.say(f"skipped: {error}")
            return 0
        args.runtimes = "torch"
    with common.workspace(args.work) as folder:
        subject = Subject(args, folder)
        runtimes(args, record, subject)
        if args.device == "cpu":
            anomalib(args, record, subject)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
