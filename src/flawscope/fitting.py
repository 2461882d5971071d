"""From a folder of good pictures to a model: what every method shares around its own `fit`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from flawscope import artefact as artefacts
from flawscope import config as settings
from flawscope import registry
from flawscope._version import __version__
from flawscope.artefact import Artefact, Manifest, Picture
from flawscope.calibration import DEFAULT_RATE, Calibration
from flawscope.certificate import STRIDE
from flawscope.datasets import Dataset, group_numbers, open_dataset
from flawscope.detector import Detector, device_for
from flawscope.errors import InputError
from flawscope.fitted import Budget, Task
from flawscope.imaging import Preprocess, Source, decode, pixel_hash, roi_from, white_level_for
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
        method: patchcore or efficientad.
        preset: named settings of the method.
        category: which one, if the folder holds several.
        false_alarm_rate: share of good pictures that may be called anomalous, 0..1.
        roi: region of interest, a mask file (white counts) or "x0,y0,x1,y1" in fractions of the picture.
        group: regular expression on file names; pictures for which it matches the same text show one part.
        drop_suspects: leave out training pictures that do not look good.
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
    values = {**_preset(method, preset), **options}
    config = settings.build(registry.config_class(method), values)
    if not hasattr(config, "steps") and (minutes is not None or resume):
        raise InputError(f"{method} does not learn in steps: leave out --minutes and --resume")
    if minutes is not None:
        config = replace(config, steps=None)
    sources, validation, category = _sources(images, category, config.seed)
    if not hasattr(config, "held_out"):
        validation = []  # this method calibrates on what it learns from
    sources += validation
    where = device_for(device)
    white_level, decoded = _survey(sources)
    if getattr(config, "size", None) == "auto":
        size = registry.size_module(method).choose(
            config,
            lambda i: _decoded(sources[i]),
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
    return _run(
        method,
        model.to(where),
        preprocess,
        sources,
        category=category,
        origin=origin,
        group=group,
        samples=samples,
        task=Task(
            rate=false_alarm_rate,
            drop_suspects=drop_suspects,
            reserved=range(len(sources) - len(validation), len(sources)),
            decoded=decoded,
            budget=Budget(minutes, None if checkpoint is None else Path(checkpoint), resume),
            say=say,
            step=step,
        ),
    )


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
    old = model if isinstance(model, Artefact) else artefacts.read(model)
    manifest = old.manifest
    config = settings.build(registry.config_class(manifest.method), manifest.config)
    sources, _, _ = _sources(images, category, config.seed)
    session = TorchSession.open(old, device)
    return _run(
        manifest.method,
        session.model,
        manifest.preprocess,
        sources,
        category=manifest.category,
        origin=manifest.backbone,
        group=group,
        samples=0,
        task=Task(
            rate=manifest.calibration.rate,
            drop_suspects=drop_suspects,
            old=old,
            decoded=_survey(sources)[1],
            say=say,
            step=step,
        ),
    )


def _run(
    method: str,
    model: Detector,
    preprocess: Preprocess,
    sources: list[Source],
    *,
    category: str,
    origin: dict[str, str],
    group: str | None,
    samples: int,
    task: Task,
) -> Predictor:
    began, old = time.perf_counter(), task.old
    Calibration((0.0,), (0.0,), 0.0, task.rate)  # a senseless rate is told now, not after the work
    reader = Reader(
        sources,
        preprocess,
        {p.hash for p in old.manifest.pictures if p.role != "calibration"} if old else set(),
    )
    free = _free_group(old)
    groups = [free + number for number in group_numbers(reader.names, group)]
    fitted = registry.fit_module(method).fit(
        model.config, model, reader.load, len(sources), groups, replace(task, settle=reader.without_copies)
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
        preprocess=preprocess,
        calibration=calibration,
        backbone=origin,
        category=category,
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
    predictor.failures = list(reader.failures.values())
    predictor.suspects = [(reader.names[i], score) for i, score in fitted.suspects.items()]
    return predictor


# ------------------------------------------------------------------------------------------------ pictures


@dataclass
class Reader:
    """Loads training pictures, remembers their hashes, and knows copies and failures. Used by threads."""

    sources: list[Source]
    preprocess: Preprocess
    known: set[str]  # hashes of pictures that are already in the model
    names: list[str] = field(init=False)
    hashes: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    copies: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = Lock()
        common = _common_folder(self.sources)
        self.names = [_name(source, i, common) for i, source in enumerate(self.sources)]

    def load(self, index: int) -> torch.Tensor | None:
        """Picture `index` as [3, H, W] float32 in 0..1, or None where it cannot be read."""
        try:
            picture = decode(self.sources[index], name=self.names[index])
            digest = pixel_hash(picture)
            image = self.preprocess.from_array(picture, self.names[index])[0][0]
        except (InputError, MemoryError) as error:
            reason = f"{self.names[index]}: not enough memory to decode it; make it smaller"
            with self._lock:
                self.failures[index] = str(error) if isinstance(error, InputError) else reason
            return None
        with self._lock:
            self.hashes[index] = digest
        return torch.from_numpy(image)

    def without_copies(self, indices: list[int]) -> list[int]:
        """Those of `indices` whose pixels neither the model nor an earlier picture has."""
        kept = []
        for index in indices:
            if self.hashes[index] in self.known:
                self.copies.append(index)
            else:
                self.known.add(self.hashes[index])
                kept.append(index)
        return kept


def _sources(images: Any, category: str | None, seed: int) -> tuple[list[Source], list[Source], str]:
    """Good pictures to learn from, good ones that the data set keeps apart, and the category."""
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=seed)
    if isinstance(images, Dataset):
        sources: list[Source] = [item.path for item in images.train]
        if not sources:
            raise InputError(f"there are no good pictures to learn from in {images.root}")
        return sources, [item.path for item in images.validation], images.category
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple) or not images:
        raise InputError("give a folder, a data set, or a list with at least one good picture")
    return list(images), [], category or ""


def _survey(sources: Sequence[Source]) -> tuple[float | None, int]:
    """One white level for all deep pictures, None where all have 8 bits; bytes of the largest picture.

    Of 8-bit files only the headers are read.
    """
    highest, kind, largest = -1.0, np.dtype(np.uint16), 0
    for source in sources:
        try:
            if isinstance(source, np.ndarray):
                deep, largest = source.dtype != np.uint8, max(largest, source.nbytes)
            elif isinstance(source, bytes):
                deep = True
            else:
                with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as header:
                    deep = header.mode.startswith(("I", "F"))
                    largest = max(largest, 3 * header.width * header.height)
            picture = decode(source) if deep else None
        except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # told when it is loaded
        if picture is not None:
            largest = max(largest, picture.nbytes)
            if picture.dtype != np.uint8:
                highest, kind = max(highest, float(picture.max())), picture.dtype
    return (white_level_for(highest, kind) if highest >= 0 else None), largest


def _common_folder(sources: Sequence[Source]) -> Path | None:
    paths = [Path(s) for s in sources if isinstance(s, str | os.PathLike)]
    return Path(os.path.commonpath([p.absolute().parent for p in paths])) if paths else None


def _name(source: Source, index: int, common: Path | None) -> str:
    if isinstance(source, str | os.PathLike) and common is not None:
        return Path(source).absolute().relative_to(common).as_posix()
    return f"picture {index}"


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


def _decoded(source: Source) -> np.ndarray | None:
    try:
        return decode(source)
    except (InputError, MemoryError):
        return None  # told when it is loaded for fitting


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


def versions() -> dict[str, str]:
    """Of everything that decides a score."""
    found = {"flawscope": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("timm", "numpy", "pillow"):
        found[name] = metadata.version(name)
    return found
