"""Fitted models for the measurements: one training a process, and its exports."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from common import Args, Cell, Record, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from flawscope.predictor import Predictor

OF_PICTURES = ("calibration_pictures", "calibration_groups", "summary")  # facts that no result needs


def _minutes(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def add_budget(made: Any) -> None:
    """Flags of trainings."""
    made.add_argument("--steps", type=common.numbers, default=[], help="one training each, such as 500,1000")
    made.add_argument("--minutes", type=_minutes, default=[], help="the same")
    made.add_argument("--seen", type=common.numbers, default=[0], help="defects to learn from: 0,10")
    made.add_argument("--seeds", type=common.numbers, default=[0], help="default: 0")
    made.add_argument("--good", type=int, help="the first good pictures only")
    made.add_argument("--false-alarm-rate", type=float, help="default: flawscope's")
    made.add_argument("--device", default="cpu", help="default: %(default)s")


@dataclass(frozen=True)
class Job:
    """One fit: of what, with what, for how long."""

    category: str
    root: str
    method: str
    settings: Settings
    preset: str = "default"
    minutes: float | None = None
    seen: int = 0
    seed: int = 0
    good: int | None = None  # the first good pictures only; None: all
    device: str = "cpu"
    false_alarm_rate: float | None = None

    @property
    def described(self) -> str:
        """The method and its settings, without what was seen."""
        words = [self.method, common.label(self.settings, self.preset)]
        words += [f"{self.minutes:g} minutes"] if self.minutes else []
        words += [f"{self.good} good"] if self.good else []
        words += [f"false alarms {self.false_alarm_rate:g}"] if self.false_alarm_rate else []
        return ", ".join(words + ([] if self.device == "cpu" else [self.device]))

    @property
    def name(self) -> str:
        """Of its cell; what was drawn as seen decides nothing for a method that learns from good parts."""
        from flawscope.methods import registry

        drawn = f"{self.seen} seen, " if registry.method(self.method).takes_seen_defects else ""
        return f"{self.category}/{self.described}/{drawn}seed {self.seed}"


def jobs(args: Args, category: str, root: Path, method: str, **more: Any) -> Iterator[Job]:
    """One for every budget: --steps and --minutes of a method that learns in steps, else its default."""
    from flawscope.methods import registry

    values = common.settings(args, method)
    budgets: list[tuple[Settings, float | None]] = [(values, None)]
    if registry.method(method).learns_in_steps and (args.steps or args.minutes):
        rest = {k: v for k, v in values.items() if k != "steps"}
        budgets = [({**rest, "steps": n}, None) for n in args.steps]
        budgets += [(rest, minutes) for minutes in args.minutes]
    same = {"device": args.device, "good": args.good, "false_alarm_rate": args.false_alarm_rate}
    for given, minutes in budgets:
        yield Job(category, str(root), method, given, args.preset, minutes, **{**same, **more})


def fit_job(job: dict[str, Any], model: str, threads: int) -> Cell:
    """The fit of a job, and its model written."""
    import torch

    torch.set_num_threads(threads)
    from flawscope import fit, open_dataset
    from flawscope.methods import registry

    of = Job(**job)
    asked, dataset = registry.method(of.method), open_dataset(of.root)
    dataset = dataclasses.replace(dataset, train=dataset.train[: of.good])
    options: dict[str, Any] = {"seed": of.seed, **of.settings}
    checkpoint = Path(model).with_suffix(".checkpoint.safetensors")
    if asked.learns_in_steps:
        options |= {"minutes": of.minutes, "checkpoint": checkpoint, "resume": True}
    if asked.takes_seen_defects:
        options |= {"seen": of.seen}
    if of.false_alarm_rate is not None:
        options |= {"false_alarm_rate": of.false_alarm_rate}
    resumed, start = checkpoint.is_file(), time.perf_counter()
    fitted = fit(dataset, method=of.method, preset=of.preset, device=of.device, **options)
    fitted.save(model)
    took = time.perf_counter() - start
    checkpoint.unlink(missing_ok=True)
    manifest = fitted.manifest
    roles = [picture.role for picture in manifest.pictures]
    return {
        "seconds": common.sig(took),
        "resumed": resumed,  # then the seconds are those since then
        "facts": {k: v for k, v in manifest.facts.items() if k not in OF_PICTURES},
        "config": manifest.config,
        "backbone": manifest.backbone,
        "pictures": {role: roles.count(role) for role in sorted({*roles})},
        "unusable": list(fitted.failures),
        "device_peak_mib": common.device_peak(manifest.facts["device"]),
        "file_mib": common.sig(file_size(Path(model)) / common.MIB, 4),
    }


def fitted(args: Args, record: Record, folder: Path, job: Job) -> tuple[Path, Cell] | None:
    """The model of a job and its cell: kept from before, or fitted now. None where that failed."""
    name = f"fit/{job.name}"
    model = folder / f"{common.slug(name)}.safetensors"

    def measure() -> Cell:
        child = common.task(fit_job, job=dataclasses.asdict(job), model=model, threads=args.threads)
        return {**child.json, **child.facts}

    if not model.is_file():  # what the results say of a model that is gone would be another's
        record.cells.pop(name, None)
    cell = record.attempt(name, measure)
    return None if cell is None else (model, cell)


def after_fit(
    args: Args, record: Record, folder: Path, job: Job, name: str, work: Callable[[Path, Cell], Cell]
) -> Cell | None:
    """The cell that `work` makes of a job's model and its cell, fitted first where it is not there."""
    if record.has(name):
        return record.cell(name, dict)
    found = fitted(args, record, folder, job)
    return record.attempt(name, lambda: work(*found)) if found else None


def plain_model(args: Args, folder: Path, category: str, root: Path, method: str, **more: Any) -> Path:
    """A model of a method with the settings of --set, made once and not measured."""
    values = {**common.settings(args, method), **more}
    job = Job(category, str(root), method, values, args.preset)
    model = folder / f"{common.slug(job.name)}.safetensors"
    if not model.is_file():
        common.say(f"fitting {job.name} ...")
        common.task(fit_job, job=dataclasses.asdict(job), model=model, threads=args.threads)
    return model


# ------------------------------------------------------------------------------------- models and runtimes


def model_for(
    args: Args, folder: Path, of: tuple[str, Path, str], engine: tuple[str, str], **more: Any
) -> Path:
    """A model of a category and a method for a runtime and a precision: of torch fitted in that precision, of
    others exported and calibrated on the good training pictures. SystemExit: there is no such thing."""
    category, root, method = of
    runtime, precision = engine
    own = {"precision": precision} if runtime == "torch" and precision != "fp32" else {}
    model = plain_model(args, folder, category, root, method, **own, **more)
    return model if runtime == "torch" else exported(model, runtime, precision, root)


def exported(model: Path, runtime: str, precision: str, root: Path) -> Path:
    """`model` for another runtime, beside it; made once."""
    from flawscope.errors import FlawscopeError

    out = model.with_name(f"{model.stem}-{precision}{common.RUNTIMES[runtime]}")
    if out.is_file():
        return out
    try:
        from flawscope.export.export import export

        good = common.pictures_below(root / "train" / "good") if precision != "fp32" else []
        certificate = export(model, out, precision=precision, pictures=good)
    except (FlawscopeError, ImportError) as error:
        raise SystemExit(f"there is no {runtime} model of {precision}: {error}") from error
    common.say(f"  {runtime} {precision}: {certificate.line()}")
    return out


def open_model(path: Path | str, device: str = "cpu", threads: int | None = None) -> Predictor:
    """A model, in OpenVINO where its name says so (`common.RUNTIMES`)."""
    import flawscope

    engine = "openvino" if str(path).endswith(common.RUNTIMES["openvino"]) else None
    return flawscope.load(path, engine=engine, device=device, threads=threads)


def file_size(model: Path) -> int:
    """Bytes."""
    return model.stat().st_size


def patchcore_features(paths: list[Path], settings: Settings) -> tuple[Any, list[Tensor]]:
    """PatchCore's settings, and per size the features [N, P, D] of pictures by flawscope's extraction."""
    import torch

    from flawscope.fitting.preparation import prepare
    from flawscope.methods import registry
    from flawscope.methods.extract import embed_pictures
    from flawscope.methods.patchcore.memory_bank import by_view
    from flawscope.methods.patchcore.model import Model

    prepared = prepare(paths, registry.method("patchcore"), device="cpu", **settings)
    model = prepared.model
    assert isinstance(model, Model)
    features = [torch.empty(len(paths), v.inside.numel(), v.embedding.width) for v in model.views]

    def store(index: int, one: Tensor, inside: Tensor | None) -> None:
        for own, part in zip(features, by_view(one, model.views), strict=True):
            own[index] = part

    embed_pictures(model, prepared.task.load, range(len(paths)), store)
    return model.config, features


if __name__ == "__main__":
    sys.exit(common.start())
