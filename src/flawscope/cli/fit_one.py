"""Fits one model from the arguments of `flawscope fit`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope.cli import common
from flawscope.cli.output import on_files
from flawscope.cluster import connect
from flawscope.errors import InputError, pluralize, some
from flawscope.methods import registry

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Artefact
    from flawscope.datasets import Dataset
    from flawscope.fitting.training_pictures import Pool
    from flawscope.predictor import Predictor
    from flawscope.progress import Step


Say = Callable[[str], None]
# Settings that have a flag with every method
FLAGS = (
    *("method", "preset", "size", "tile", "overlap", "scale", "crop", "keep_aspect", "backbone", "stages"),
    *("weights", "seed", "seen", "steps"),
)


def learnt(args: argparse.Namespace, say: Say, step: Step) -> Predictor:
    """Fits one model, and writes it to `--out`."""
    from flawscope.artefact import model_file
    from flawscope.artefact.state_file import checkpoint_of, log_of
    from flawscope.datasets import open_dataset

    options, checkpoint = checked(args), None
    if args.update:
        old = model_file.read(args.update)
        _refuse_method(old.manifest.method)
        seed, group = common.seed_and_group(old.manifest)
        group = args.group or group
    else:
        name, preset, settings = _settings_of(options)
        method = registry.method(name)
        seed, group = registry.configure(method, preset, settings).seed, args.group
        checkpoint = checkpoint_of(args.out) if method.learns_in_steps else None
    dataset = open_dataset(args.data, args.category, seed=seed, group=group)
    say(f"{dataset.category}: {pluralize(len(dataset.train), 'good picture')} ({dataset.layout} layout)")
    for line in on_training(dataset, group):
        say(line)
    with kept_if_interrupted(checkpoint):
        if args.update:
            predictor = _extended(args, old, dataset, say, step)
        else:
            predictor = _fitted(args, options, dataset, say, step)
        predictor.save(args.out)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
        say(f"training log: {log_of(checkpoint)}")
    return predictor


def checked(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of the call. A wrong one is reported before torch is loaded."""
    options = _options(args)
    if args.update:
        _refuse_settings(args, options)
    elif args.fair or args.force:
        raise InputError("--fair and --force are for --update: leave them out")
    else:
        method, preset, settings = _settings_of(options)
        registry.configure(registry.method(method), preset, settings)
    return options


def method_of(args: argparse.Namespace) -> str:
    return _settings_of(_options(args))[0]


def _settings_of(options: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    rest = {k: v for k, v in options.items() if k not in ("method", "preset", "seen")}
    return options.get("method", "patchcore"), options.get("preset", "default"), rest


def _refuse_settings(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """InputError for settings with `--update`: an extended model keeps its own."""
    asked = (*options, "roi", "min_defect")
    given = [k for k in asked if (options.get(k) or getattr(args, k, None)) is not None]
    flags = ("no-samples", "minutes", "resume", "tensorboard")
    given += [flag for flag in flags if getattr(args, flag.replace("-", "_"))]
    given += ["false-alarm-rate"] * bool(args.false_alarm_rate)
    if given:
        raise InputError(f"--update keeps the model's own settings: leave out {', '.join(given)}")


def _refuse_method(name: str) -> None:
    """InputError where the method's models cannot be extended."""
    if not registry.method(name).extends:
        able = ", ".join(method.name for method in registry.loadable() if method.extends)
        raise InputError(
            f"--update is for {able}: put the new pictures to the good ones and fit {name} anew, or give it "
            "new thresholds with `flawscope calibrate`"
        )


def _fitted(
    args: argparse.Namespace, options: dict[str, Any], dataset: Dataset, say: Say, step: Step
) -> Predictor:
    from flawscope.artefact.state_file import checkpoint_of
    from flawscope.calibration.threshold import DEFAULT_RATE
    from flawscope.fitting import fitting  # torch
    from flawscope.methods.threads import use_threads

    method, preset, settings = _settings_of(options)
    call: dict[str, Any] = {
        "method": method,
        "preset": preset,
        "false_alarm_rate": args.false_alarm_rate or DEFAULT_RATE,
        "roi": args.roi,
        "group": args.group,
        "min_defect": args.min_defect,
        "drop_suspects": args.drop_suspects,
        "seen": options.get("seen", 0),
        "minutes": args.minutes,
        "resume": args.resume,
        "tensorboard": args.tensorboard,
        "samples": 0 if args.no_samples else 3,
        "check": not args.no_check,
        "say": say,
        "step": step,
        **settings,
    }
    if args.cluster is not None and registry.method(method).learns_in_steps:
        return _trained_together(args, dataset, call)
    with _pool(args, dataset) as pool:
        use_threads(None if pool else args.threads)
        checkpoint = checkpoint_of(args.out)  # of methods that learn in steps
        return fitting.fit(dataset, checkpoint=checkpoint, device=_device(args), pool=pool, **call)


def _trained_together(args: argparse.Namespace, dataset: Dataset, call: dict[str, Any]) -> Predictor:
    """Trains with a worker on each GPU of the cluster, or on each node."""
    from flawscope.cluster import training
    from flawscope.predictor import load

    with connect.connected(args.cluster):
        _require_shared(dataset)
        gpu = {"auto": None, "cpu": False}.get(args.device, True)
        made = training.fit(dataset, out=args.out, threads=args.threads, gpu=gpu, **call)
    predictor = load(made.model, device="cpu")
    predictor.failures, predictor.suspects = made.failures, made.suspects
    return predictor


@contextmanager
def _pool(args: argparse.Namespace, dataset: Dataset) -> Iterator[Pool | None]:
    """Pool on the cluster's nodes, if one was asked for; `--threads` is then the number of each worker."""
    if args.cluster is None:
        yield None
        return
    from flawscope.cluster.tasks import PartWorkers

    with connect.connected(args.cluster):
        _require_shared(dataset)
        yield PartWorkers(args.threads)


def _device(args: argparse.Namespace) -> str:
    """Device of the fit: the CPU on a cluster, whose nodes compute parts on processors."""
    if args.cluster is None:
        return str(args.device)
    if args.device not in ("auto", "cpu"):
        raise InputError(f"--device {args.device}: on a cluster processors fit this method; leave it out")
    return "cpu"


def _require_shared(dataset: Dataset) -> None:
    remedy = "put the pictures where every node sees them under this path"
    connect.require_shared(dataset.train[0].path, remedy)


def _extended(args: argparse.Namespace, old: Artefact, dataset: Dataset, say: Say, step: Step) -> Predictor:
    from flawscope.fitting import extending  # torch
    from flawscope.methods.threads import use_threads

    with _pool(args, dataset) as pool:
        use_threads(None if pool else args.threads)
        return extending.extend(
            old,
            dataset,
            group=args.group,
            fair=args.fair,
            force=args.force,
            drop_suspects=args.drop_suspects,
            device=_device(args),
            check=not args.no_check,
            pool=pool,
            say=say,
            step=step,
        )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    own = sorted({option.setting for method in registry.loadable() for option in method.options})
    category = (args.category or only_category(args.data)) if args.config else None
    return common.settings(args, (*FLAGS, *own), category)


@contextmanager
def kept_if_interrupted(checkpoint: Path | None) -> Iterator[None]:
    """Tells at Ctrl-C how much of a model's training is kept."""
    from flawscope.artefact.state_file import steps_in

    try:
        yield
    except KeyboardInterrupt:
        steps = None if checkpoint is None else steps_in(checkpoint)
        if steps is None:
            raise
        done, total = steps
        text = f"interrupted: step {done:,} of {total:,} kept; go on with --resume"
        raise KeyboardInterrupt(text) from None


def only_category(root: str) -> str | None:
    from flawscope.datasets import find_categories

    found = find_categories(root)
    return found[0] if len(found) == 1 else None


def on_training(dataset: Dataset, group: str | None) -> Iterator[str]:
    """Remarks on the training pictures, before anything is read. InputError: `group` matches no name."""
    from flawscope.datasets.dataset import remark
    from flawscope.pictures.decoding import frames
    from flawscope.pictures.listing import SIDE_SUFFIXES, not_pictures_in

    paths = [item.path for item in (*dataset.train, *dataset.validation)]
    if not paths:
        return
    if found := remark(paths, group):
        yield found
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    others = not_pictures_in(folder)
    unread = [
        path.relative_to(folder).as_posix() for path in others if path.suffix.lower() not in SIDE_SUFFIXES
    ]
    beside = [path.relative_to(folder).as_posix() for path in others if path.suffix.lower() in SIDE_SUFFIXES]
    if unread:
        files = pluralize(len(unread), "file")
        yield f"not learnt from: {files} of formats that are not read: {some(unread)}"
    several = [(path.relative_to(folder).as_posix(), count) for path in paths if (count := frames(path)) > 1]
    yield from on_files([f"{name} ({count})" for name, count in several], beside)
