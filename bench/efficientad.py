"""EfficientAD measured from outside: accuracy, a training step, a picture's time, the border, false alarms.

    python bench/efficientad.py --only accuracy --set natural=FOLDER --work FOLDER
    python bench/efficientad.py --only accuracy --steps 500,1000,2000 --work FOLDER
    python bench/efficientad.py --only step,latency
    python bench/efficientad.py --only border,calibration --models 0=A.safetensors,16=B.safetensors
    python bench/efficientad.py --only peer --peer-python PYTHON_WITH_ANOMALIB

accuracy     one training a cell, each in a process of its own, and the final model, as its file is read
             back, on the test pictures. The learning rate depends on the number of steps, so that a point of
             the curve of accuracy against --steps is a training of its own. With --work models are kept, and
             a training that was stopped goes on where it was.
step         seconds of a whole step, several kinds in every round (A B C A B C): the plain reference, which
             is public code's step (fp32, contiguous, 384 channels, the whole picture, three passes of the
             student, two of the teacher, one of the autoencoder, Adam), and flawscope's with the preset
             `paper` and by default. Teachers are random ones of rank 384 and 152: a step's time does not
             depend on their numbers. The reference is given away for less than it is worth: its pictures are
             at hand, while ours are drawn, read and recoloured meanwhile by one thread, as in a training.
             `compiled` is an experiment: the networks through torch.compile, beside those as they are.
latency      per runtime, precision and batch, interleaved in one process: the session's `run`; in the same
             runtime the networks alone, from the picture to their three outputs (normalised and mirrored
             included, what is made of the outputs not); and two plain references in torch, fp32, eager,
             contiguous: `plain` has this model's networks, `published` 384 channels and no border.
border       the same drawn defects at the border and in the middle of good test pictures, per model. Share
             of them above the threshold, how far the map's maximum near them rises, and good pictures' maps
             within 16 pixels of the border beside the rest.
calibration  per model the false alarms on good test pictures it has not seen, for several target rates, with
             Clopper-Pearson intervals of 95 %.
peer         anomalib's EfficientAd (small) in its own Python. Its teacher is a download, so that all its
             weights are random, and only times are compared: a step of its `training_step`, its forward, and
             its own inferencers' `predict(path)` in turn with ours.

Every cell is written when it is done; a run that was stopped goes on where it was. A process that fails is
told, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import latency as latencies

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from flawscope.methods.efficientad.trainer import Trainer
    from flawscope.predictor import Predictor

# torch imitates fp16 on a CPU, minutes a batch; OpenVINO only stores it and computes in fp32
LEFT_OUT = (("torch", "fp16"), ("openvino", "fp16"))
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
RING = 16  # pixels of the map that count as border
NEAR = 8  # pixels around a defect in which its map may rise
Args = argparse.Namespace
Record = common.Record
Settings = dict[str, Any]
Work = Callable[[], object]


# ---------------------------------------------------------------------------------------- settings, teachers


def settings_of(args: Args, folder: Path) -> Settings:
    """The values of --set, with a random teacher if one is asked for."""
    settings = common.settings(args)
    if args.random_teacher:
        path = random_teacher(folder, args.random_teacher, settings.get("network", "s"))
        settings = {**settings, "teacher": str(path)}
    return settings


def random_teacher(folder: Path, rank: int, size: str = "s") -> Path:
    """A teacher of random weights that says `rank` different numbers; made once."""
    path = folder / f"random-{size}-{rank}.safetensors"
    if path.is_file():
        return path
    import torch

    from flawscope.methods.efficientad.networks import initialise, narrowed, pdn
    from flawscope.methods.efficientad.targets import widened
    from flawscope.methods.efficientad.teacher import write_teacher

    network = narrowed(pdn(size), rank)  # type: ignore[arg-type]
    initialise(network, torch.Generator().manual_seed(rank))
    state = {k: v.detach() for k, v in network.state_dict().items()}
    weight, bias = list(state)[-2:]
    wide = widened(rank)
    state[weight] = torch.einsum("oc,cikl->oikl", wide, state[weight])
    state[bias] = wide @ state[bias]
    backbone = {"name": f"random numbers, rank {rank}", "origin": "drawn", "licence": "none"}
    write_teacher(path, state, {"size": size, "rank": rank, "channels": 384, "backbone": backbone})
    return path


# ------------------------------------------------------------------------------------------------- accuracy


def task_train(
    root: str,
    settings: Settings,
    preset: str,
    model: str,
    checkpoint: str | None,
    device: str,
    threads: int,
    false_alarm_rate: float | None = None,
) -> dict[str, Any]:
    """One training, and its model, read back, on the test pictures."""
    import torch

    torch.set_num_threads(threads)
    from flawscope.datasets import open_dataset
    from flawscope.evaluation import evaluate
    from flawscope.fitting.fitting import fit

    dataset = open_dataset(root)
    start = time.perf_counter()
    fitted = fit(
        dataset,
        method="efficientad",
        preset=preset,
        **({} if false_alarm_rate is None else {"false_alarm_rate": false_alarm_rate}),
        checkpoint=checkpoint,
        resume=checkpoint is not None,
        device=device,
        **settings,
    )
    fitted.save(model)
    took, peak = time.perf_counter() - start, common.own_peak()
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    manifest, where = fitted.manifest, fitted.manifest.facts["device"]
    del fitted
    predictor = common.open_model(model, where, threads)
    found = evaluate(predictor, dataset).to_dict()
    facts = manifest.facts
    roles: dict[str, int] = {}
    for picture in manifest.pictures:
        roles[picture.role] = roles.get(picture.role, 0) + 1
    kept = ("metrics", "false_alarms", "kinds", "images", "left_out")
    return {k: found[k] for k in kept} | {
        "steps": facts["steps"],
        "penalty": facts["penalty"],
        "teacher": manifest.backbone,
        "training_precision": facts["training_precision"],
        "config": manifest.config,
        "pictures": roles,
        "curve": facts["curve"],
        "seconds": {
            "training": facts["seconds"]["training"],
            "fit": common.sig(took),
            "evaluate": found["seconds"],
        },
        "seconds_per_step": common.sig(facts["seconds"]["training"] / facts["steps"], 4),
        "peak_mib": {"fit": peak // common.MIB, "with evaluation": common.own_peak() // common.MIB},
        "device_peak_mib": latencies._device_peak(where),
        "device": where,
        "threads": facts["threads"],
        "file_mib": common.sig(common.file_size(Path(model)) / common.MIB, 4),
    }


def accuracy(args: Args, record: Record, folder: Path) -> None:
    settings = settings_of(args, folder)
    label = common.label_of(settings, args.preset)
    if args.false_alarm_rate is not None:
        label += f", false alarms {args.false_alarm_rate:g}"
    for category in args.categories.split(","):
        root = common.mvtec(args, category)
        if root is None:
            continue
        for steps in args.steps:
            own = settings if steps is None else {**settings, "steps": steps}
            words = f"{own['steps']} steps" if own.get("steps") else "default steps"
            device = "" if args.device == "cpu" else f", {args.device}"

            def measure(
                own: Settings = own, root: Path = root, words: str = words, category: str = category
            ) -> dict[str, Any]:
                stem = folder / common.slug(f"accuracy-{category}-{label}-{words}")
                child = common.task(
                    *(__file__, "train"),
                    root=root,
                    settings=own,
                    preset=args.preset,
                    model=f"{stem}.safetensors",
                    checkpoint=f"{stem}.checkpoint.safetensors",
                    device=args.device,
                    threads=args.threads,
                    false_alarm_rate=args.false_alarm_rate,
                )
                peak = child.peak // common.MIB
                return {
                    **child.json,
                    "process_peak_mib": peak,
                    "settings": common.shown(own),
                    "preset": args.preset,
                }

            record.attempt(f"accuracy/{category}/{label}{device}/{words}", measure)
    rows = []
    for name, cell in record.cells.items():
        if not name.startswith("accuracy/"):
            continue
        _, category, described, _ = name.split("/")
        low, high = cell["false_alarms"]["interval"]
        alarms = cell["false_alarms"]
        values = (f"{v:.4f}" if (v := cell["metrics"].get(k)) is not None else "n/a" for k in common.METRICS)
        measured = "n/a" if alarms["measured"] is None else f"{alarms['measured']:.1%}"
        rows.append(
            (
                *(category, described, cell["steps"], *values),
                f"{measured} ({low:.1%} to {high:.1%})",
                f"{alarms['target']:.1%}",
                common.short(cell["seconds"]["training"]),
                common.short(cell["seconds"]["fit"]),
                cell["process_peak_mib"],
            )
        )
    header = ("category", "settings", "steps", *common.METRICS.values(), "false alarms", "target")
    rows.sort(key=lambda row: row[:3])
    common.table("accuracy", rows, (*header, "training s", "fit s", "peak MiB"))
    record.summarise(
        "accuracy against steps",
        {
            f"{row[0]}, {row[1]}": [
                {"steps": r[2], "image_auroc": r[3], "pixel_auroc": r[5], "au_pro": r[7], "training_s": r[10]}
                for r in rows
                if r[:2] == row[:2]
            ]
            for row in rows
        },
    )


# ------------------------------------------------------------------------------------------- a training step


class Reference:
    """A step as public code does it."""

    def __init__(self, size: Any, images: Sequence[Tensor], device: torch.device):
        import torch

        from flawscope.methods.efficientad.networks import Autoencoder, normalised, pdn

        self.teacher = pdn(size).to(device).requires_grad_(False).eval()
        self.student = pdn(size, 768).to(device).train()
        self.autoencoder = Autoencoder().to(device).train()
        self.images = [normalised(image[None].contiguous().to(device)) for image in images]
        self.other = normalised(torch.rand(1, 3, *images[0].shape[1:], device=device))
        with torch.no_grad():
            outputs = self.teacher(self.images[0])
        self.mean = outputs.mean((0, 2, 3), keepdim=True)
        self.std = outputs.std((0, 2, 3), keepdim=True)
        values = [*self.student.parameters(), *self.autoencoder.parameters()]
        self.optimiser = torch.optim.Adam(values, lr=1e-4, weight_decay=1e-5)
        self.done = 0

    def __call__(self) -> float:
        import torch

        image = self.images[self.done % len(self.images)]
        self.done += 1
        changed = 1.1 * image  # brighter: the cheapest of the three changes
        with torch.no_grad():
            taught = (self.teacher(image) - self.mean) / self.std
            changed_taught = (self.teacher(changed) - self.mean) / self.std
        squares = (taught - self.student(image)[:, :384]) ** 2
        hard = squares[squares >= torch.quantile(squares, 0.999)].mean()
        penalty = (self.student(self.other)[:, :384] ** 2).mean()
        rebuilt = self.autoencoder(changed)
        described = self.student(changed)[:, 384:]
        of_autoencoder = ((changed_taught - rebuilt) ** 2).mean()
        of_student = ((rebuilt - described) ** 2).mean()
        loss = hard + penalty + of_autoencoder + of_student
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss)


def trainer_for(paths: Sequence[str], settings: Settings, device: str) -> Trainer:
    """A trainer as `fit` makes it, on these pictures."""
    import torch

    from flawscope import config
    from flawscope.methods.efficientad.config import Config
    from flawscope.methods.efficientad.model import create
    from flawscope.methods.efficientad.trainer import Trainer
    from flawscope.methods.efficientad.training_pictures import Taught, other_pictures
    from flawscope.methods.picture_cache import GoodPictures
    from flawscope.pictures.preprocess import Preprocess
    from flawscope.progress import silent

    built = config.build(Config, settings)
    model, _ = create(built)
    model.to(torch.device(device))
    preprocess = Preprocess(built.sizes[-1], built.keep_aspect, built.crop)
    images = GoodPictures(lambda i: torch.from_numpy(preprocess(paths[i])[0][0]), len(paths), 2**30)
    taught = Taught(model, images, images.read(silent), 2**30)
    taught.measure(silent)
    trainer = Trainer(model, images, taught, other_pictures(built.natural), lambda line: None, silent)
    for network in trainer.networks:
        network.train()
    return trainer


class Stepper:
    """Steps of a trainer: whole, with the next batch made meanwhile as `Trainer.run` does; and its parts."""

    def __init__(self, trainer: Trainer, networks: Any = None):
        self.trainer, self.networks = trainer, networks or trainer.networks
        self.pool = ThreadPoolExecutor(1)
        self.done, self.batch = 0, trainer.batch(0)

    def learn(self) -> float:
        losses = self.trainer._learn(self.networks, self.trainer.optimiser, self.batch, self.done)
        return float(losses.sum())  # waits for a GPU

    def draw(self) -> object:
        self.done += 1
        return self.trainer.batch(self.done)

    def whole(self) -> None:
        waiting = self.pool.submit(self.trainer.batch, self.done + 1)
        self.learn()
        self.batch, self.done = waiting.result(), self.done + 1

    def facts(self) -> dict[str, Any]:
        trainer = self.trainer
        height, width = trainer.window
        return {
            "precision": trainer.precision,
            "channels": trainer.model.channels,
            "border": trainer.config.border,
            "outputs_learnt": height * width,
            "outputs_of_picture": trainer.model.grid[0] * trainer.model.grid[1],
            "penalty": trainer.other.name if trainer.other else "none",
        }


def task_steps(
    pictures: list[str], variants: dict[str, Settings | None], repeats: int, threads: int, device: str
) -> dict[str, Any]:
    """Seconds of steps of several kinds, in turn; None is the reference. The first one is what ratios are
    to."""
    import torch

    from flawscope.methods.efficientad.networks import Size

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    whole: dict[str, Work] = {}
    parts: dict[str, Work] = {}
    facts: dict[str, Any] = {}
    network: Size = next((s.get("network", "s") for s in variants.values() if s), "s")
    for name, settings in variants.items():
        if settings is None:
            from flawscope.pictures.preprocess import Preprocess

            read = Preprocess((256, 256))
            images = [torch.from_numpy(read(path)[0][0]) for path in pictures]
            whole[name] = Reference(network, images, torch.device(device))
            facts[name] = {"precision": "fp32", "channels": 384, "border": 0, "outputs_learnt": 56 * 56}
            continue
        stepper = Stepper(trainer_for(pictures, settings, device))
        whole[name] = stepper.whole
        parts |= {f"{name}/learn": stepper.learn, f"{name}/batch": stepper.draw}
        facts[name] = stepper.facts()
    times = common.rounds(whole, repeats, warm=2)
    few = common.rounds(parts, max(2, repeats // 3), warm=1)
    first = next(iter(whole))
    return {
        "seconds": {name: common.spread(t) for name, t in times.items()},
        "all": {name: [common.sig(x, 4) for x in t] for name, t in times.items()},
        "parts": {name: common.spread(t) for name, t in few.items()},
        "ratio": {name: common.paired(t, times[first]) for name, t in times.items()},
        "ratio_to": first,
        "facts": facts,
        "threads": torch.get_num_threads(),
        "device": device,
        "peak_mib": common.own_peak() // common.MIB,
        "device_peak_mib": latencies._device_peak(device),
    }


def task_compiled(
    pictures: list[str], settings: Settings, repeats: int, threads: int, device: str
) -> dict[str, Any]:
    """Flawscope's step with its networks compiled, in turn with the step as it is."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    plain, fast = (Stepper(trainer_for(pictures, settings, device)) for _ in range(2))
    trainer = fast.trainer
    *body, last = trainer.model.student
    try:
        trainer.model.teacher = torch.compile(trainer.model.teacher)  # type: ignore[assignment]
        # `losses` takes the student's last layer apart: the layers before it are one compiled module
        student = [torch.compile(nn.Sequential(*body)), last]
        fast.networks = (student, torch.compile(trainer.model.autoencoder))
        compiling = common.seconds(fast.learn)
        again = common.seconds(fast.learn)  # whatever is compiled later shows here
        times = common.rounds({"as it is": plain.whole, "compiled": fast.whole}, repeats, warm=2)
    except Exception as error:  # an experiment that fails is a finding
        text = re.sub(r"(/[\w.@+-]+){2,}", "...", " ".join(str(error).split()))
        return {"failed": f"{type(error).__name__}: {text:.300}", "threads": threads, "device": device}
    return {
        "seconds_first_step": common.sig(compiling, 4),
        "seconds_second_step": common.sig(again, 4),
        "seconds": {name: common.spread(t) for name, t in times.items()},
        "ratio": common.paired(times["compiled"], times["as it is"]),
        "facts": fast.facts(),
        "threads": torch.get_num_threads(),
        "device": device,
    }


def training_pictures(args: Args, folder: Path) -> tuple[str, list[str]]:
    """A few good pictures and where they are from."""
    root = common.mvtec(args, args.category)
    name = args.category if root else "drawn"
    found = common.pictures_below((root or common.draw(folder, 40, 512)) / "train" / "good")
    return name, [str(p) for p in found[: args.pictures]]


def step_variants(args: Args, folder: Path) -> dict[str, Settings | None]:
    """Name to settings; the reference first."""
    import torch

    from flawscope.methods.efficientad.config import PRESETS
    from flawscope.methods.training import precision_for

    own = {k: v for k, v in common.settings(args).items() if k != "teacher"}
    size = own.get("network", "s")
    wide, narrow = (str(random_teacher(folder, rank, size)) for rank in (384, 152))
    paper = {**own, **PRESETS["paper"]}
    variants: dict[str, Settings | None] = {
        "plain reference": None,
        "paper, rank 384": {**paper, "teacher": wide},
        "paper, rank 152": {**paper, "teacher": narrow},
        "default, rank 152": {**own, "teacher": narrow},
    }
    if precision_for(own.get("training", "auto"), torch.device(args.device)) != "fp32":
        for name, settings in list(variants.items())[1:]:
            variants[f"{name}, fp32"] = {**(settings or {}), "training": "fp32"}
    return variants


def step(args: Args, record: Record, folder: Path) -> None:
    where, pictures = training_pictures(args, folder)
    given = {k: v for k, v in common.settings(args).items() if k != "teacher"}
    label = f"{where}/{common.label_of(given)}, {args.device}, {args.threads} threads"
    same: dict[str, Any] = {
        "pictures": pictures,
        "repeats": args.repeats,
        "threads": args.threads,
        "device": args.device,
    }
    variants = step_variants(args, folder)

    def measure() -> dict[str, Any]:
        found = common.task(__file__, "steps", variants=variants, **same).json
        return {**found, "teachers": "random weights: times only", "settings": common.shown(given)}

    def compiled() -> dict[str, Any]:
        settings = variants["default, rank 152"]
        return common.task(__file__, "compiled", settings=settings, **same).json

    cell = record.attempt(f"step/{label}", measure)
    if cell:
        rows = []
        for name, spent in cell["seconds"].items():
            learn, draw = (
                f"{1000 * cell['parts'][key]['median']:.1f}" if key in cell["parts"] else ""
                for key in (f"{name}/learn", f"{name}/batch")
            )
            facts = cell["facts"][name]
            whole = f"{1000 * spent['median']:.1f}"
            ratio = cell["ratio"][name]
            rows.append(
                (
                    name,
                    facts["precision"],
                    facts["outputs_learnt"],
                    whole,
                    ratio,
                    learn,
                    draw,
                    spent["repeats"],
                )
            )
        header = ("step", "precision", "outputs", "ms", "/ reference", "learning ms", "batch ms", "repeats")
        common.table(f"a training step, {label}", rows, header)
    cell = record.attempt(f"compiled/{label}", compiled)
    if cell and "failed" in cell:
        print(f"\ncompiled: {cell['failed']}")
    elif cell:
        medians = (f"{1000 * cell['seconds'][k]['median']:.1f}" for k in ("as it is", "compiled"))
        row = (*medians, cell["ratio"], common.short(cell["seconds_first_step"]))
        header = ("as it is ms", "compiled ms", "compiled / as it is", "first step s")
        common.table("the default step through torch.compile, an experiment", [row], header)


# -------------------------------------------------------------------------------------------------- latency


def cut(path: Path, out: Path) -> Path:
    """The networks of an exported .onnx model alone: what its last convolutions give."""
    import onnx
    from onnx import TensorProto, helper

    proto = onnx.load(path)
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def before(names: Sequence[str]) -> set[str]:
        """Everything these are made of, themselves included."""
        found, waiting = set(), list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += makers[name].input if name in makers else []
        return found

    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    earlier = before([name for node in convolutions for name in node.input])
    ends = [node.output[0] for node in convolutions if node.output[0] not in earlier]
    if len(ends) != 3:
        raise SystemExit(f"{path.name}: {len(ends)} last convolutions instead of three")
    for i, name in enumerate(
        ends
    ):  # 8-bit models round what a convolution gives: the engine does both in one
        for kind in ("QuantizeLinear", "DequantizeLinear"):
            following = readers.get(name, [])
            if len(following) == 1 and following[0].op_type == kind:
                name = following[0].output[0]
        ends[i] = name if makers[name].op_type != "QuantizeLinear" else ends[i]
    needed = before(ends)
    kept = [node for node in graph.node if needed.intersection(node.output)]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ends]
    made = helper.make_graph(kept, "networks", list(graph.input), outputs, weights)
    model = helper.make_model(made, opset_imports=list(proto.opset_import), ir_version=proto.ir_version)
    onnx.save(model, out)
    return out


def networks_in(runtime: str, file: str, precision: str, images: Any, threads: int) -> Work:
    """The cut model in its engine, with the session's options; outputs are neither copied nor allocated."""
    import numpy as np

    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        engine = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in engine.get_outputs()]
        results = engine.run(names, {"images": images})
        binding = engine.io_binding()
        binding.bind_cpu_input("images", images)
        for name, result in zip(names, results, strict=True):
            binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(result, "cpu", 0))
        return lambda: engine.run_with_iobinding(binding)

    from flawscope.runtime.openvino import HINTS, engine

    ov = engine()
    core = ov.Core()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(core.read_model(file), "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ascontiguousarray(images)))

    def work() -> None:
        request.start_async()
        request.wait()

    return work


def task_engine(
    model: str,
    trained: str,
    networks: str | None,
    runtime: str,
    precision: str,
    pictures: list[str],
    batch: int,
    repeats: int,
    threads: int,
) -> dict[str, Any]:
    """Seconds of a session's `run`, of its networks alone, and of the plain references, interleaved."""
    import numpy as np
    import torch

    from flawscope.methods.efficientad.model import DTYPES, Model, bordered
    from flawscope.methods.efficientad.networks import Autoencoder, normalised, pdn
    from flawscope.methods.threads import workers

    torch.set_num_threads(threads)
    predictor = common.open_model(model, "cpu", threads)
    session, preprocess = predictor.session, predictor.manifest.preprocess
    own: Model = common.open_model(trained, "cpu", threads).session.model  # type: ignore[attr-defined]
    paths = [pictures[k % len(pictures)] for k in range(batch)]
    images = np.concatenate([preprocess(path)[0] for path in paths])
    tensor = torch.from_numpy(images)
    dtype = DTYPES.get(precision)

    def forward(parts: Sequence[Any], images: Tensor, border: int) -> None:
        teacher, student, autoencoder = parts
        seen = normalised(images)
        mirrored = bordered(seen, border)
        teacher(mirrored)
        student(mirrored)
        autoencoder(seen)

    def plain(parts: Sequence[Any], border: int) -> Work:
        made = [copy.deepcopy(part).to(memory_format=torch.contiguous_format).eval() for part in parts]

        def work() -> None:
            with torch.inference_mode():
                forward(made, tensor, border)

        return work

    border = own.config.border
    mine = (own.teacher, own.student, own.autoencoder)
    published = (pdn(own.config.network), pdn(own.config.network, 768), Autoencoder())  # type: ignore[arg-type]
    works: dict[str, Work] = {"run": lambda: session.run(images)}
    if runtime == "torch":
        mine_here = session.model  # type: ignore[attr-defined]
        here = (mine_here.teacher, mine_here.student, mine_here.autoencoder)

        def one(image: Tensor) -> None:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                forward(here, image.contiguous(memory_format=torch.channels_last), border)

        def alone() -> None:
            if batch == 1:
                with torch.inference_mode():
                    one(tensor)
            else:  # as the session runs it: a picture a thread
                with workers("cpu") as each:
                    each(lambda image: one(image[None]), tensor)

        works["networks"] = alone
    elif networks:
        works["networks"] = networks_in(runtime, networks, precision, images, threads)
    works |= {"plain": plain(mine, border), "published": plain(published, 0)}
    times = common.rounds(works, repeats, warm=3, pause=latencies.REST)
    return {
        "seconds": {name: common.spread(t) for name, t in times.items()},
        "ratio": {
            f"run / {name}": common.paired(times["run"], t) for name, t in times.items() if name != "run"
        },
        "threads": torch.get_num_threads(),
        "network": {
            "channels": own.channels,
            "border": border,
            "size": list(own.size),
            "kind": own.config.network,
        },
    }


def subject_of(args: Args, folder: Path) -> latencies.Subject:
    """A given model, or one that is trained for a few steps: its numbers do not change what it costs."""
    few = [] if any(pair.startswith("steps=") for pair in args.set) else [f"steps={args.latency_steps}"]
    teacher = []
    if args.random_teacher:
        size = common.settings(args).get("network", "s")
        teacher = [f"teacher={random_teacher(folder, args.random_teacher, size)}"]
    own = argparse.Namespace(**{**vars(args), "method": "efficientad", "set": [*args.set, *few, *teacher]})
    return latencies.Subject(own, folder)


def latency(args: Args, record: Record, folder: Path) -> None:
    subject = subject_of(args, folder)
    rows = []
    for runtime, precision in common.combinations(args):
        if (runtime, precision) in LEFT_OUT:
            continue
        for batch in args.batches:
            name = f"latency/{subject.label}/{args.threads} threads/{runtime} {precision}/batch {batch}"

            def measure(
                runtime: str = runtime, precision: str = precision, batch: int = batch
            ) -> dict[str, Any]:
                return engine_cell(args, subject, runtime, precision, batch)

            cell = record.attempt(name, measure)
            if cell is None or "skipped" in cell:
                continue

            def ms(key: str, cell: dict[str, Any] = cell) -> str:
                return f"{1000 * cell['seconds'][key]['median']:.2f}" if key in cell["seconds"] else "-"

            ratios = (cell["ratio"].get(f"run / {k}", "-") for k in ("networks", "plain", "published"))
            times = (ms(k) for k in ("predict", "run", "networks", "plain", "published"))
            rows.append(
                (f"{runtime} {precision}", batch, *times, *ratios, cell["peak_mib"], cell["file_mib"])
            )
    header = ("runtime", "batch", "predict ms", "run ms", "networks", "plain", "published")
    more = ("run / networks", "run / plain", "run / published", "peak MiB", "file MiB")
    common.table(f"latency of {subject.label}, {args.threads} threads", rows, (*header, *more))
    for batch in args.batches:
        found = [r for r in rows if r[1] == batch]
        if found:
            fastest = min(found, key=lambda r: float(r[3]))
            known = [r[7] for r in found if r[7] != "-"]
            record.summarise(
                f"latency, {subject.label}, {args.threads} threads, batch {batch}",
                {
                    "fastest": fastest[0],
                    "fastest / plain": fastest[8],
                    "fastest / published": fastest[9],
                    "largest run / networks": max(known, default=None),
                    "targets": {"run / networks": 1.15, "fastest / plain": 0.5},
                },
            )


def engine_cell(
    args: Args, subject: latencies.Subject, runtime: str, precision: str, batch: int
) -> dict[str, Any]:
    model = subject.file(runtime, precision)
    if model is None:
        raise SystemExit(f"there is no {runtime} model of {precision}")
    networks: Path | None = None
    if runtime != "torch":
        kind = "fp32" if precision == "bf16" else precision  # bf16 is the fp32 graph, computed otherwise
        whole = subject.file("onnxruntime", kind)
        if whole is not None:
            networks = whole.with_name(f"{whole.stem}-networks.onnx")
            if not networks.is_file():
                cut(whole, networks)
    same = {"model": model, "pictures": subject.pictures, "batch": batch, "threads": args.threads}
    repeats = max(args.fewest, args.repeats // batch)
    found = common.task(
        *(__file__, "engine"),
        **same,
        trained=subject.trained,
        networks=networks,
        runtime=runtime,
        precision=precision,
        repeats=repeats,
    ).json
    child = common.task(latencies.__file__, "predict", **same, repeats=repeats, device="cpu", stream=False)
    found["seconds"]["predict"] = common.spread(child.json["seconds"])
    return {
        **found,
        "peak_mib": child.peak // common.MIB,
        "file_mib": common.sig(common.file_size(model) / common.MIB, 4),
        "networks_from": networks.name if networks else "the model itself",
        "trained_steps": _facts(subject.trained)["steps"],
    }


def _facts(model: Path) -> dict[str, Any]:
    from flawscope.artefact.model_file import read_manifest

    return read_manifest(model).facts


# --------------------------------------------------------------------------------------------------- border


def models_of(args: Args, folder: Path) -> dict[str, Path]:
    """--models, --model, or else what `accuracy` has kept."""
    found: dict[str, Path] = {}
    for pair in filter(None, (args.models or "").split(",")):
        name, equals, path = pair.partition("=")
        found[name if equals else Path(pair).stem] = Path(path if equals else pair)
    if args.model:
        found[args.model.stem] = args.model
    if not found:
        kept = sorted(folder.glob("accuracy-*.safetensors"))
        found = {p.stem: p for p in kept if not p.stem.endswith(".checkpoint")}
    if not found:
        common.say("skipped: no model; give --model, --models NAME=FILE,..., or --work of an accuracy run")
    return found


def unseen(predictor: Predictor, root: str) -> list[Path]:
    """Good test pictures that the model has not learnt from, nor been calibrated on."""
    from flawscope.datasets import open_dataset
    from flawscope.pictures.decoding import decode, pixel_hash

    known = {p.hash for p in predictor.manifest.pictures}
    good = [item.path for item in open_dataset(root).test if not item.anomalous]
    return [path for path in good if pixel_hash(decode(path)) not in known]


def task_border(
    model: str, root: str, places: int, diameter: int, strength: float, threads: int
) -> dict[str, Any]:
    """Drawn defects at the border and in the middle, at the network's size."""
    import numpy as np

    predictor = common.open_model(model, "cpu", threads)
    session, calibration = predictor.session, predictor.calibration
    read = predictor.manifest.preprocess
    images = [read(path)[0][0] for path in unseen(predictor, root)]
    if len(images) < 2:
        raise SystemExit("there are fewer than two good test pictures that the model has not seen")
    height, width = session.size
    rows, columns = np.mgrid[:height, :width]
    ring = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns]) < RING
    radius = diameter / 2
    rng = np.random.default_rng(0)
    good = [session.run(image[None]) for image in images]
    scores, maps = np.concatenate([g[0] for g in good]), np.concatenate([g[1] for g in good])

    def centre(place: str) -> tuple[float, float]:
        if place == "middle":
            y, x = rng.uniform(0.25, 0.75, 2)
            return y * height, x * width
        along, edge = rng.uniform(0.1, 0.9), int(rng.integers(4))
        near = radius - 0.5  # touches the edge
        y, x = (near, along * width) if edge < 2 else (along * height, near)
        return (y, x) if edge % 2 == 0 else (height - 1 - y, width - 1 - x)

    found: dict[str, dict[str, list[Any]]] = {}
    for number, image in enumerate(images):
        other = images[(number + 1) % len(images)]
        for _ in range(places):
            source = rng.uniform(0, [height - diameter - 1, width - diameter - 1]).astype(int)
            for place in ("border", "middle"):
                y, x = centre(place)
                distance = np.hypot(rows - y, columns - x)
                opacity = np.clip(radius + 0.5 - distance, 0, 1)
                inside = opacity > 0
                darker = image[:, inside].mean() > 0.5
                blob = np.full_like(image, -strength if darker else strength) + image
                # the same piece of another picture at both places
                moved = np.roll(other, (round(y - radius) - source[0], round(x - radius) - source[1]), (1, 2))
                for kind, drawn in (("blob", blob), ("paste", moved)):
                    changed = image + opacity * (drawn.clip(0, 1) - image)
                    score, drawn_map = session.run(changed[None].astype(np.float32))
                    near = distance <= radius + NEAR
                    before, after = float(maps[number][near].max()), float(drawn_map[0][near].max())
                    hits = found.setdefault(f"{kind}/{place}", {"above": [], "before": [], "after": []})
                    hits["above"].append(bool(calibration.is_anomalous(score)[0]))
                    hits["before"].append(before)
                    hits["after"].append(after)
    border = maps[:, ring]
    rest = maps[:, ~ring]
    return {
        "pictures": len(images),
        "border": predictor.manifest.config.get("border"),
        "threshold": common.sig(calibration.threshold),
        "good": {
            "above_threshold": common.sig(float(calibration.is_anomalous(scores).mean()), 4),
            "mean_map_border": common.sig(float(border.mean())),
            "mean_map_rest": common.sig(float(rest.mean())),
            "q995_map_border": common.sig(float(np.quantile(border, 0.995))),
            "q995_map_rest": common.sig(float(np.quantile(rest, 0.995))),
            "maximum_at_border": common.sig(float((border.max(1) > rest.max(1)).mean()), 4),
            "share_of_pixels_at_border": common.sig(float(ring.mean()), 4),
        },
        "defects": {
            name: {
                "count": len(hits["above"]),
                "above_threshold": common.sig(statistics.mean(hits["above"]), 4),
                "mean_rise": common.sig(
                    statistics.mean(a - b for a, b in zip(hits["after"], hits["before"], strict=True))
                ),
                "mean_before": common.sig(statistics.mean(hits["before"])),
                "mean_after": common.sig(statistics.mean(hits["after"])),
            }
            for name, hits in found.items()
        },
        "diameter": diameter,
        "strength": strength,
        "note": "blob: darker or brighter by a fixed share of full scale; paste: a disc of another good "
        "picture, the same one at both places. Pixels are the network's",
    }


def border(args: Args, record: Record, folder: Path) -> None:
    rows, good = [], []
    for name, path in models_of(args, folder).items():
        root = _root_of(args, path)
        if root is None:
            continue

        def measure(path: Path = path, root: Path = root) -> dict[str, Any]:
            found = common.task(
                *(__file__, "border"),
                model=path,
                root=root,
                places=args.places,
                diameter=args.diameter,
                strength=args.strength,
                threads=args.threads,
            ).json
            return {**found, **_told(path)}

        cell = record.attempt(f"border/{root.name}/{name}", measure)
        if cell is None:
            continue
        first = (root.name, name, cell["border"])
        for which, found in cell["defects"].items():
            kind, place = which.split("/")
            values = (f"{found[k]:.4f}" for k in ("mean_before", "mean_after", "mean_rise"))
            rows.append((*first, kind, place, found["count"], f"{found['above_threshold']:.1%}", *values))
        keys = ("mean_map_border", "mean_map_rest", "q995_map_border", "q995_map_rest")
        values = (f"{cell['good'][k]:.4f}" for k in keys)
        at = f"{cell['good']['maximum_at_border']:.1%}"
        good.append(
            (*first, cell["pictures"], *values, at, f"{cell['good']['share_of_pixels_at_border']:.1%}")
        )
    header = ("category", "model", "border", "defect", "place", "count", "above threshold", "before", "after")
    common.table("the same defects at the border and in the middle", rows, (*header, "rise"))
    means = ("mean at border", "mean of rest", "99.5 % at border", "99.5 % of rest")
    header = ("category", "model", "border", "pictures", *means, "maximum at border", "pixels at border")
    common.table(f"maps of good pictures within {RING} pixels of the border", good, header)


def _root_of(args: Args, model: Path) -> Path | None:
    from flawscope.artefact.model_file import read_manifest

    return common.mvtec(args, read_manifest(model).category)


def _told(model: Path) -> dict[str, Any]:
    """What a model says about itself."""
    from flawscope.artefact.model_file import read_manifest

    manifest = read_manifest(model)
    return {
        "file": model.name,
        "steps": manifest.facts["steps"],
        "penalty": manifest.facts["penalty"],
        "teacher": manifest.backbone,
    }


# ---------------------------------------------------------------------------------------------- calibration


def task_alarms(model: str, root: str, threads: int) -> dict[str, Any]:
    import numpy as np

    from flawscope.errors import InputError
    from flawscope.metrics import confidence_interval_rate

    predictor = common.open_model(model, "cpu", threads)
    results = [result for _, result in predictor.stream(unseen(predictor, root))]
    scores = np.array([r.score for r in results if not isinstance(r, InputError)])
    calibration = predictor.calibration
    rates = {}
    for rate in sorted({*RATES, calibration.rate}):
        own = calibration.with_rate(rate)
        alarms = int(own.is_anomalous(scores).sum())
        rates[f"{rate:g}"] = {
            "target": common.sig(own.effective_rate),
            "promised": own.pictures_missing == 0,
            "alarms": alarms,
            "measured": common.sig(alarms / len(scores), 4) if len(scores) else None,
            "interval": [common.sig(x, 4) for x in confidence_interval_rate(alarms, len(scores))],
            "threshold": common.sig(own.threshold),
        }
    return {
        "images": len(scores),
        "calibrated_on": calibration.count,
        "method": calibration.method,
        "rate": calibration.rate,
        "rates": rates,
        "scores": [common.sig(float(s)) for s in sorted(scores)],
    }


def calibration(args: Args, record: Record, folder: Path) -> None:
    rows = []
    for name, path in models_of(args, folder).items():
        root = _root_of(args, path)
        if root is None:
            continue

        def measure(path: Path = path, root: Path = root) -> dict[str, Any]:
            found = common.task(__file__, "alarms", model=path, root=root, threads=args.threads).json
            return {**found, **_told(path)}

        cell = record.attempt(f"calibration/{root.name}/{name}", measure)
        if cell is None:
            continue
        for rate, found in cell["rates"].items():
            if not found["promised"] and float(rate) != cell["rate"]:
                continue
            low, high = found["interval"]
            rows.append(
                (
                    *(root.name, name, cell["steps"], cell["calibrated_on"], rate, f"{found['target']:.1%}"),
                    *(f"{found['alarms']} of {cell['images']}", f"{low:.1%} to {high:.1%}"),
                    "yes" if low <= found["target"] <= high else "no",
                )
            )
    header = ("category", "model", "steps", "calibrated on", "asked", "target", "alarms", "95 %", "inside")
    common.table("false alarms on good test pictures", rows, header)


# ----------------------------------------------------------------------------------------------------- peer

PAIRS = {
    # name: its export, its engine, more for the peer, our runtimes and precisions
    "TorchInferencer": ("torch", "torch", (), ("torch fp32", "onnxruntime fp32", "openvino fp32")),
    "OpenVINOInferencer, f32": (
        *("openvino", "openvino", ("--precision", "f32")),
        ("onnxruntime fp32", "openvino fp32"),
    ),
    # left alone, OpenVINO computes in bf16 where the processor can
    "OpenVINOInferencer": ("openvino", "openvino", (), ("openvino bf16", "openvino int8")),
}
RANDOM = "all of anomalib's weights are random, its teacher being a download: accuracy is not compared"


def peer(args: Args, record: Record, folder: Path) -> None:
    python = common.peer_python(args)
    if python is None:
        return
    script = common.ROOT / "bench" / "peer.py"
    where, pictures = training_pictures(args, folder)
    listed = folder / "peer-training.json"
    listed.write_text(json.dumps(pictures))
    natural = str(common.settings(args).get("natural", "generated"))
    limits: list[Any] = ["--threads", str(args.threads), "--repeats", str(args.repeats)]
    label = f"{where}/{args.threads} threads"

    def steps() -> dict[str, Any]:
        command: list[Any] = [python, script, "efficientad-step", listed, *limits]
        command += ["--natural", natural] if Path(natural).is_dir() else []
        chosen = ("plain reference", "paper, rank 384", "default, rank 152")
        variants = {k: v for k, v in step_variants(args, folder).items() if k in chosen}
        turns: list[tuple[dict[str, Any], dict[str, Any]]] = []
        peaks: list[int] = []
        for _ in range(args.rounds):
            theirs = common.run(command)
            mine = common.task(
                *(__file__, "steps"),
                pictures=pictures,
                variants=variants,
                repeats=args.repeats,
                threads=args.threads,
                device="cpu",
            )
            turns.append((theirs.json, mine.json))
            peaks.append(theirs.peak)
        medians = {
            "anomalib": [statistics.median(t["seconds"]) for t, _ in turns],
            **{k: [m["seconds"][k]["median"] for _, m in turns] for k in variants},
        }
        return {
            "medians": {k: [common.sig(x) for x in v] for k, v in medians.items()},
            "anomalib_by": {k: common.paired(medians["anomalib"], v) for k, v in medians.items()},
            "anomalib_peak_mib": max(peaks) // common.MIB,
            "anomalib": {k: turns[0][0][k] for k in ("penalty", "parameters", "versions", "threads")},
            "flawscope": turns[0][1]["facts"],
            "note": RANDOM,
        }

    cell = record.attempt(f"peer/step/{label}", steps)
    if cell:
        rows = [
            (k, f"{1000 * statistics.median(v):.1f}", cell["anomalib_by"][k])
            for k, v in cell["medians"].items()
        ]
        header = ("step", "ms", "anomalib / this")
        common.table("a training step against anomalib's training_step, in turn", rows, header)

    def forward() -> dict[str, Any]:
        child = common.run([python, script, "efficientad-forward", listed, *limits])
        found = child.json
        return {
            "seconds": common.spread(found.pop("seconds")),
            **found,
            "peak_mib": child.peak // common.MIB,
            "note": RANDOM,
        }

    cell = record.attempt(f"peer/forward/{label}", forward)
    if cell:
        print(f"\nanomalib's torch model, forward of one picture: {1000 * cell['seconds']['median']:.1f} ms")
    against(args, record, folder, python, script)


def against(args: Args, record: Record, folder: Path, python: str, script: Path) -> None:
    """`predict(path)` of its inferencers and of ours, whole processes in turn."""
    subject = subject_of(args, folder)
    made: dict[str, Any] = {}
    rows = []
    for name, (which, engine, more, opponents) in PAIRS.items():
        for opponent in opponents:
            runtime, precision = opponent.split()
            if (runtime, precision) not in common.combinations(args):
                continue

            def measure(
                name: str = name,
                which: str = which,
                engine: str = engine,
                more: tuple[str, ...] = more,
                runtime: str = runtime,
                precision: str = precision,
            ) -> dict[str, Any]:
                if not made:
                    out = folder / "anomalib-efficientad"
                    made.update(common.run([python, script, "efficientad-export", out]).json)
                if which not in made["made"]:
                    raise SystemExit(f"anomalib cannot export it: {made['failed'].get(which)}")
                ours = subject.file(runtime, precision)
                if ours is None:
                    raise SystemExit(f"there is no {runtime} model of {precision}")
                listed = subject.folder / "peer-pictures.json"
                listed.write_text(json.dumps(subject.pictures))
                command = [python, script, "predict", made["made"][which], "--engine", engine, *more]
                command += ["--pictures", listed, "--threads", str(args.threads)]
                command += ["--repeats", str(args.repeats)]
                found = latencies.take_turns(subject.args, subject, ours, command)
                return {k: v for k, v in found.items() if v is not None} | {"note": RANDOM}

            cell_name = f"peer/predict/{subject.label}/{args.threads} threads/{name} against {opponent}"
            cell = record.attempt(cell_name, measure)
            if cell:
                row = (f"{1000 * cell[k]['median']:.1f}" for k in ("anomalib", "flawscope"))
                peaks = (cell["peak_mib"][k] for k in ("anomalib", "flawscope"))
                rows.append((name, cell["precision"], opponent, *row, cell["ratio"], *peaks))
    header = ("anomalib", "computes in", "flawscope", "theirs ms", "ours ms", "theirs / ours", "MiB", "ours")
    if rows:
        common.table(f"predict(path) of {subject.label}, in turn; random weights", rows, header)


# ----------------------------------------------------------------------------------------------------- main

SECTIONS: dict[str, Callable[[Args, Record, Path], None]] = {
    "accuracy": accuracy,
    "step": step,
    "latency": latency,
    "border": border,
    "calibration": calibration,
    "peer": peer,
}
TASKS: dict[str, Callable[..., Any]] = {
    "train": task_train,
    "steps": task_steps,
    "compiled": task_compiled,
    "engine": task_engine,
    "border": task_border,
    "alarms": task_alarms,
}


def main() -> int:
    parser = common.parser(__doc__, "efficientad")
    common.add_peer(parser)
    common.add_settings(parser)
    common.add_runtimes(parser)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by default all")
    parser.add_argument("--preset", default="default", help="of accuracy")
    parser.add_argument("--categories", default=",".join(common.CATEGORIES), help="of accuracy")
    parser.add_argument("--category", default="toothbrush", help="of step, latency and peer")
    parser.add_argument(
        "--steps",
        type=common.several_steps,
        default=[None],
        help="of accuracy, one training each: 500,1000,default",
    )
    parser.add_argument("--false-alarm-rate", type=float, help="of accuracy (default: flawscope's)")
    parser.add_argument("--device", default="cpu", help="of accuracy and step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=30, help="of steps and of single pictures")
    parser.add_argument("--fewest", type=int, default=10, help="of batches (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of whole processes against anomalib")
    parser.add_argument("--batches", type=common.numbers, default=[1, 8], help="default: 1,8")
    parser.add_argument("--pictures", type=int, default=16, help="of step, latency and peer, different ones")
    parser.add_argument("--model", type=Path, help="of latency, border, calibration and peer")
    parser.add_argument("--models", help="of border and calibration: NAME=FILE,NAME=FILE")
    parser.add_argument("--latency-steps", type=int, default=20, help="where no --model is given")
    parser.add_argument(
        "--random-teacher", type=int, metavar="RANK", help="of random weights instead of one: for times only"
    )
    parser.add_argument("--places", type=int, default=4, help="defects per kind, place and picture")
    parser.add_argument("--diameter", type=int, default=12, help="of a drawn defect, pixels at network size")
    parser.add_argument("--strength", type=float, default=0.25, help="of a blob, share of full scale")
    parser.add_argument("--work", type=Path, help="keep models, exports and checkpoints here")
    args = parser.parse_args()
    if args.task:
        return common.run_task(args.task, TASKS)
    unknown = set(args.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    record = Record(args, "EfficientAD from outside", {})
    common.headline("EfficientAD")
    with common.workspace(args.work) as folder:
        for name in args.only.split(","):
            SECTIONS[name](args, record, folder)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
