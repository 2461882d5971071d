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
    from flawscope.predictor import Predictor

OF_PICTURES = ("summary",)  # facts that no result needs


def add_budget(made: Any) -> None:
    """Flags of trainings."""
    made.add_argument("--steps", type=common.ints, default=[], help="one training each, such as 500,1000")
    made.add_argument("--seen", type=common.ints, default=[0], help="defects to learn from: 0,10")
    made.add_argument("--seeds", type=common.ints, default=[0], help="default: 0")
    made.add_argument("--device", default="cpu", help="default: %(default)s")
    made.add_argument("--group", help="regular expression of names that show one part, as of `fit`")


@dataclass(frozen=True)
class Job:
    """One fit: of what, with what, for how long."""

    category: str
    root: str
    method: str
    settings: Settings
    preset: str = "default"
    seen: int = 0
    seed: int = 0
    device: str = "cpu"
    group: str | None = None

    @property
    def described(self) -> str:
        """The method and its settings, without what was seen."""
        words = [self.method, common.label_of(self.settings, self.preset)]
        words += [] if self.group is None else ["grouped"]
        return ", ".join(words + ([] if self.device == "cpu" else [self.device]))

    @property
    def name(self) -> str:
        """Of its cell; what was drawn as seen decides nothing for a method that learns from good parts."""
        from flawscope.methods import registry

        drawn = f"{self.seen} seen, " if registry.method(self.method).takes_seen_defects else ""
        return f"{self.category}/{self.described}/{drawn}seed {self.seed}"


def jobs(args: Args, category: str, root: Path, method: str, **more: Any) -> Iterator[Job]:
    """One for each of --steps of a method that learns in steps, else for its default."""
    from flawscope.methods import registry

    values = common.settings(args, method)
    budgets = args.steps if registry.method(method).learns_in_steps else []
    for given in [{**values, "steps": steps} for steps in budgets] or [values]:
        yield Job(
            category, str(root), method, given, args.preset, device=args.device, group=args.group, **more
        )


def fit_job(job: dict[str, Any], model: str, threads: int) -> Cell:
    """The fit of a job, and its model written."""
    import torch

    torch.set_num_threads(threads)
    from flawscope import fit, open_dataset
    from flawscope.methods import registry

    of = Job(**job)
    asked, options = registry.method(of.method), dict[str, Any](of.settings)
    checkpoint = Path(model).with_suffix(".checkpoint.safetensors")
    if asked.learns_in_steps:
        options |= {"checkpoint": checkpoint, "resume": True}
    if asked.takes_seen_defects:
        options |= {"seen": of.seen}
    if of.group is not None:
        options |= {"group": of.group}
    resumed, start = checkpoint.is_file(), time.perf_counter()
    same: dict[str, Any] = {"method": of.method, "preset": of.preset, "device": of.device, "seed": of.seed}
    fitted = fit(open_dataset(of.root), **same, **options)
    fitted.save(model)
    took = time.perf_counter() - start
    checkpoint.unlink(missing_ok=True)
    manifest = fitted.manifest
    roles = [picture.role for picture in manifest.pictures]
    return {
        "seconds": common.round_to(took),
        "resumed": resumed,  # then the seconds are those since then
        "facts": {k: v for k, v in manifest.facts.items() if k not in OF_PICTURES},
        "config": manifest.config,
        "backbone": manifest.backbone,
        "pictures": {role: roles.count(role) for role in sorted({*roles})},
        "unusable": list(fitted.failures),
        "device_peak_mib": common.device_peak(manifest.facts["device"]),
        "file_mib": common.size_mib(model),
    }


def fitted(args: Args, record: Record, folder: Path, job: Job) -> tuple[Path, Cell] | None:
    """The model of a job and its cell: kept from before, or fitted now. None where that failed."""
    name = f"fit/{job.name}"
    model = folder / f"{common.slug(name)}.safetensors"

    def measure() -> Cell:
        child = common.run_function(fit_job, job=dataclasses.asdict(job), model=model, threads=args.threads)
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
        common.run_function(fit_job, job=dataclasses.asdict(job), model=model, threads=args.threads)
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
    common.say(f"  {runtime} {precision}: {certificate.describe()}")
    return out


def open_model(path: Path | str, device: str = "cpu", threads: int | None = None) -> Predictor:
    """A model, in OpenVINO where its name says so (`common.RUNTIMES`)."""
    import flawscope

    engine = "openvino" if str(path).endswith(common.RUNTIMES["openvino"]) else None
    return flawscope.load(path, engine=engine, device=device, threads=threads)


if __name__ == "__main__":
    sys.exit(common.run_script())
