"""From a folder of good pictures to a model: what every method shares around its own `fit`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawscope import config as settings
from flawscope.artefact import model_file
from flawscope.artefact.certificate import STRIDE
from flawscope.artefact.model_file import Artefact, Manifest, Picture
from flawscope.artefact.versions import versions
from flawscope.calibration.decision import DEFAULT_RATE, Calibration
from flawscope.datasets import Dataset, group_numbers, open_dataset
from flawscope.errors import InputError
from flawscope.fitting.training_pictures import (
    Reader,
    decoded_or_none,
    pairs_of,
    read_defects,
    sources_of,
    survey,
)
from flawscope.methods import registry
from flawscope.methods.detector import Detector, device_for
from flawscope.methods.task import Budget, Defect, Task
from flawscope.pictures.decoding import Source
from flawscope.pictures.preprocess import Preprocess, roi_from
from flawscope.predictor import Predictor
from flawscope.progress import Step, silent
from flawscope.runtime.torch import TorchSession

Say = Callable[[str], None]


def _quiet(line: str) -> None:
    """A library says nothing."""


def fit(
    images: Dataset | str | os.PathLike[str] | Sequence[Source],
    *,
    method: str = "patchcore",
    preset: str = "default",
    category: str | None = None,
    false_alarm_rate: float = DEFAULT_RATE,
    roi: str | os.PathLike[str] | np.ndarray | None = None,
    group: str | None = None,
    drop_suspects: bool = False,
    seen: int | str | os.PathLike[str] | Sequence[tuple[Source, Source]] = 0,
    minutes: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    samples: int = 3,
    say: Say = _quiet,
    step: Step = silent,
    **options: Any,
) -> Predictor:
    """Learn what good parts look like.

    Args:
        images: a data set, a folder (any layout that `open_dataset` reads), or good pictures: paths, bytes,
            PIL images or numpy `[H, W, 3]` uint8.
        method: patchcore, efficientad or prnet.
        preset: named settings of the method.
        category: which one, if the folder holds several.
        false_alarm_rate: share of good pictures that may be called anomalous, 0..1.
        roi: region of interest, a mask file (white counts) or "x0,y0,x1,y1" in fractions of the picture.
        group: regular expression on file names; pictures for which it matches the same text show one part.
        drop_suspects: leave out training pictures that do not look good.
        seen: defects to learn from too, for prnet: how many to draw from the data set's test pictures, evenly
            over their kinds; a folder of defective pictures with masks; a text file that lists such; or pairs
            of picture and mask. The model remembers them, and evaluation leaves them out.
        minutes: how long a method that learns in steps may take; their number follows from the first ones'
            time, wins over `steps`, and stands in the model's settings.
        checkpoint: file that holds such a method's state while it learns, .safetensors. It stays: remove it
            when the model is saved.
        resume: go on where the checkpoint stops.
        device: auto, cpu, cuda or mps.
        samples: pictures stored in the model for its self-test.
        say, step: get lines for a person and progress.
        options: settings of the method, such as `size=384` or `ratio=0.05`.

    Returns:
        A `Predictor`. `failures` lists pictures that could not be read, `suspects` those that do not look
        good, most suspicious first.

    Raises:
        InputError: wrong settings, no usable pictures, no weights.
    """
    if not hasattr(registry.config_class(method), "steps") and (minutes is not None or resume):
        raise InputError(f"{method} does not learn in steps: leave out --minutes and --resume")
    if minutes is not None:
        options["steps"] = None
    opened = _open(images, method, preset, category, roi, seen, device, say, step, options)
    return _run(
        method,
        opened,
        group=group,
        samples=samples,
        task=Task(
            rate=false_alarm_rate,
            drop_suspects=drop_suspects,
            reserved=opened.reserved,
            seen=opened.defects,
            decoded=opened.decoded,
            budget=Budget(minutes, None if checkpoint is None else Path(checkpoint), resume),
            say=say,
            step=step,
        ),
    )


def prototypes(
    images: Dataset | str | os.PathLike[str] | Sequence[Source],
    out: str | os.PathLike[str],
    *,
    preset: str = "default",
    category: str | None = None,
    false_alarm_rate: float = DEFAULT_RATE,
    group: str | None = None,
    device: str = "auto",
    say: Say = _quiet,
    step: Step = silent,
    **options: Any,
) -> list[str]:
    """Find PRN's prototypes as `fit` with the same settings would, and write them to a file that it takes
    (`prototypes=out`).

    Returns:
        What is wrong with pictures that could not be used, a line each.
    """
    opened = _open(images, "prnet", preset, category, None, 0, device, say, step, options)
    reader = opened.reader()
    task = Task(false_alarm_rate, settle=reader.without_copies, reserved=opened.reserved, say=say, step=step)
    groups = group_numbers(reader.names, group)
    module = registry.fit_module("prnet")
    module.write_prototypes(opened.model, reader.load, len(reader.sources), groups, task, Path(out))
    return list(reader.failures.values())


def extend(
    model: str | os.PathLike[str] | Artefact,
    images: Dataset | str | os.PathLike[str] | Sequence[Source],
    *,
    category: str | None = None,
    group: str | None = None,
    drop_suspects: bool = False,
    device: str = "auto",
    say: Say = _quiet,
    step: Step = silent,
) -> Predictor:
    """Add good pictures to a fitted model, without the old pictures. Settings are the old model's.

    The bank only grows, and only by what is farther from it than its covering radius. The old pictures'
    calibration scores are kept: their patch distances can only have shrunk. The manifest says so.
    """
    old = model if isinstance(model, Artefact) else model_file.read(model)
    manifest = old.manifest
    config = settings.build(registry.config_class(manifest.method), manifest.config)
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=config.seed)
    sources, _, _ = sources_of(images, category)
    session = TorchSession.open(old, device)
    opened = _Opened(session.model, manifest.backbone, manifest.preprocess, sources, manifest.category)
    return _run(
        manifest.method,
        opened,
        group=group,
        samples=0,
        task=Task(
            rate=manifest.calibration.rate,
            drop_suspects=drop_suspects,
            old=old,
            decoded=survey(sources)[1],
            say=say,
            step=step,
        ),
    )


@dataclass
class _Opened:
    """A model that is still to be fitted, and the pictures for it."""

    model: Any  # a Detector with its `config`
    origin: dict[str, str]  # of its backbone
    preprocess: Preprocess
    sources: list[Source]
    category: str
    reserved: Sequence[int] = ()  # of the sources, those that the data set keeps apart
    decoded: int = 0  # bytes of the largest picture
    defects: Sequence[Defect] = ()
    hashes: Sequence[str] = ()  # of the defects
    unusable: Sequence[str] = ()  # what is wrong with the others

    def reader(self, known: Collection[str] = ()) -> Reader:
        """`known`: hashes of pictures that are in the model already."""
        names = (defect.name for defect in self.defects)
        return Reader(self.sources, self.preprocess, set(known), dict(zip(self.hashes, names, strict=True)))


def _open(
    images: Any,
    method: str,
    preset: str,
    category: str | None,
    roi: Any,
    seen: Any,
    device: str,
    say: Say,
    step: Step,
    options: dict[str, Any],
) -> _Opened:
    config = settings.build(registry.config_class(method), {**_preset(method, preset), **options})
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=config.seed)
    pairs = pairs_of(seen, method, config, images if isinstance(images, Dataset) else None)
    sources, validation, category = sources_of(images, category)
    if not hasattr(config, "held_out"):
        validation = []  # this method calibrates on what it learns from
    sources += validation
    where = device_for(device)
    white_level, decoded = survey(sources)
    if getattr(config, "size", None) == "auto":
        size = registry.size_module(method).choose(
            config,
            lambda i: decoded_or_none(sources[i]),
            len(sources),
            device=where,
            roi=roi,
            white_level=white_level,
            say=say,
            step=step,
        )
        config = replace(config, size=size)
    preprocess = Preprocess(config.sizes[-1], config.keep_aspect, config.crop, white_level)
    region = None if roi is None else torch.from_numpy(roi_from(roi, preprocess))
    model, origin = registry.model_module(method).create(config, region)
    return _Opened(
        model.to(where),
        origin,
        preprocess,
        sources,
        category,
        range(len(sources) - len(validation), len(sources)),
        decoded,
        *read_defects(pairs, preprocess),
    )


def _run(method: str, opened: _Opened, *, group: str | None, samples: int, task: Task) -> Predictor:
    began, old = time.perf_counter(), task.old
    Calibration((0.0,), (0.0,), 0.0, task.rate)  # a senseless rate is told now, not after the work
    model = opened.model
    known = [p.hash for p in old.manifest.pictures if p.role != "calibration"] if old else []
    reader = opened.reader(known)
    free = _free_group(old)
    groups = [free + number for number in group_numbers(reader.names, group)]
    fitted = registry.fit_module(method).fit(
        model.config,
        model,
        reader.load,
        len(reader.sources),
        groups,
        replace(task, settle=reader.without_copies),
    )
    calibration = fitted.calibration
    notes = list(fitted.notes)
    if fitted.dropped:
        notes.append(
            f"{len(fitted.dropped)} suspicious pictures were left out before calibrating on the rest: the "
            "false-alarm rate holds for pictures like those that stayed"
        )
    if reader.copies:
        notes.append(f"{len(reader.copies)} pictures are copies of others and were counted once")
    for note in notes:
        task.say(note)
    roles = {
        **dict.fromkeys(fitted.pictures, "calibration"),
        **{index: role for role, held in fitted.held.items() for index in held},
        **dict.fromkeys(fitted.used, "train"),
        **dict.fromkeys(fitted.dropped, "dropped"),
        **dict.fromkeys(reader.copies, "duplicate"),
    }
    pictures = [Picture(reader.hashes[i], role, reader.names[i]) for i, role in sorted(roles.items())]
    pictures += [Picture(digest, "seen", name) for digest, name in reader.defects.items()]
    tensors = {k: v.detach().cpu().numpy() for k, v in {**model.state_dict(), **fitted.extra}.items()}
    kept: tuple[dict[str, Any], ...] = ()
    earlier: list[str] = []  # whose scores come first
    known_groups: dict[str, int] = {}  # of pictures, by hash
    if old is not None:
        earlier = old.manifest.facts["calibration_pictures"]
        known_groups = dict(old.manifest.facts.get("calibration_groups", {}))
        pictures = [*old.manifest.pictures, *pictures]
        notes = [*old.manifest.notes, *notes]
        if "samples" in old.tensors:
            tensors["samples"] = old.tensors["samples"]
            names = [s["name"] for s in old.manifest.samples]
            kept = _expected(model, tensors, names)
    elif samples:
        chosen = fitted.used[:: max(1, len(fitted.used) // samples)][:samples]
        images = np.stack([reader.load(i).numpy() for i in chosen])  # type: ignore[union-attr]
        eight = np.rint(images * 255.0)
        exact = np.array_equal(eight.astype(np.float32) / np.float32(255.0), images)
        tensors["samples"] = eight.astype(np.uint8) if exact else images
        kept = _expected(model, tensors, [reader.names[i] for i in chosen])
    manifest = Manifest(
        method=method,
        config=_without_paths(model.config),
        preprocess=opened.preprocess,
        calibration=calibration,
        backbone=opened.origin,
        category=opened.category,
        pictures=tuple(pictures),
        facts={
            **fitted.facts,
            "summary": fitted.summary,
            "calibration_pictures": earlier + [reader.hashes[i] for i in fitted.pictures],
            "calibration_groups": known_groups | {reader.hashes[i]: groups[i] for i in fitted.pictures},
            "seconds_total": round(time.perf_counter() - began, 3),
            "device": next(model.buffers()).device.type,
            "threads": torch.get_num_threads(),
        },
        notes=tuple(notes),
        samples=kept,
        versions=versions(),
    )
    predictor = Predictor(Artefact(manifest, tensors), TorchSession(model, str(next(model.buffers()).device)))
    predictor.failures = [*opened.unusable, *reader.failures.values()]
    predictor.suspects = [(reader.names[i], score) for i, score in fitted.suspects.items()]
    return predictor


# ------------------------------------------------------------------------------------------------- helpers


def _preset(method: str, name: str) -> dict[str, Any]:
    known = registry.presets(method)
    if name not in known:
        raise InputError(f"{method} has no preset {name}: choose one of {', '.join(known)}")
    return known[name]


def _without_paths(config: Any) -> dict[str, Any]:
    """Settings as the artefact holds them: where files lay on this machine is nobody's business."""
    values = asdict(config)
    return {k: Path(v).name if k in config.PATHS and v else v for k, v in values.items()}


def _free_group(old: Artefact | None) -> int:
    """The first group number that no picture of an extended model has."""
    if old is None:
        return 0
    held = [int(tensor.max()) for name, tensor in old.tensors.items() if "groups" in name and tensor.size]
    return 1 + max([*held, *old.manifest.facts.get("calibration_groups", {}).values()], default=-1)


def _expected(
    model: Detector, tensors: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """What `Predictor.self_test` compares with: the samples' scores, and their maps among the tensors."""
    device = next(model.buffers()).device
    found, maps = [], []
    with torch.inference_mode():
        for image, name in zip(tensors["samples"], names, strict=True):
            batch = torch.from_numpy(image.astype(np.float32) / (255.0 if image.dtype == np.uint8 else 1.0))
            features = model.embed(batch[None].to(device))
            score, drawn = model.score(features)
            tie = bool(model.ties(features)[0])
            of_map = float(drawn.max())
            found.append({"name": name, "score": float(score[0]), "map_maximum": of_map, "tie": tie})
            maps.append(drawn[0, ::STRIDE, ::STRIDE].float().cpu().numpy())
    tensors["sample_maps"] = np.stack(maps)
    return tuple(found)
