"""Fitting PRN: what is held out, prototypes, training, calibration."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flawscope.artefact.state_file import found_checkpoint, pack, read, unpack
from flawscope.calibration.decision import Calibration, from_values
from flawscope.calibration.hold_out import hold_out
from flawscope.errors import InputError
from flawscope.methods.extract import embed_pictures
from flawscope.methods.picture_cache import GoodPictures
from flawscope.methods.prnet.config import Config
from flawscope.methods.prnet.feature_cache import Known
from flawscope.methods.prnet.model import Model
from flawscope.methods.prnet.prototypes import Clusters, cluster
from flawscope.methods.prnet.trainer import Trainer
from flawscope.methods.prnet.training_pictures import Pictures
from flawscope.methods.task import Defect, Fitted, Task
from flawscope.methods.training import arrays, tensors_of
from flawscope.progress import Step, duration

LATER = ("held_out", "memory", "precision", "top")  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on good pictures, of which some are held out, and on the seen defects; calibrate
    it on those held out."""
    begun, config = time.monotonic(), model.config
    found = found_checkpoint(task.budget.checkpoint, task.budget.resume)
    made = read_prototypes(config, model) if config.prototypes else None
    say, step = task.say, task.step
    images, learnt, held = divided(config, task)
    pictures = Pictures(config, images, learnt, task.seen, model.roi.cpu().numpy())
    for line in pictures.skipped:
        say(f"skipped a texture: {line}")
    say(_plan(learnt, held, task.seen, pictures.textures))

    known = Known(model, images, learnt, _room(config))
    digest = known.measure(step)
    if made is None:
        clusters = find_prototypes(config, known, step)
    else:
        clusters = made.fitting(digest)
    for prototypes, one in zip(model.scales, clusters, strict=True):
        prototypes.prototypes = one.prototypes.to(model.roi.device)
    trainer = Trainer(model, pictures, known, clusters, say, step)
    identity = {
        **{k: _plain(v) for k, v in asdict(config).items() if k not in (*Config.PATHS, *LATER)},
        "training set": digest,
        "seen defects": _digest_of_seen(task.seen),
        "textures": pictures.textures,
        "region of interest": hashlib.sha256(model.roi.cpu().numpy().tobytes()).hexdigest(),
        "prototypes": [one.objective for one in clusters],
        "precision while it learns": trainer.precision,
    }
    if found is not None:
        trainer.restore(*found, identity)
        say(f"goes on after step {trainer.done} of {trainer.steps}")
    if trainer.steps is None:
        minutes = task.budget.minutes
        after = (time.monotonic() - begun) * len(held) / max(len(learnt), 1) * 2
        left = None if minutes is None else begun + 60 * minutes - time.monotonic() - after
        trainer.fix_steps(left)
    identity["steps"] = trainer.steps
    say(trainer.budget())
    trainer.run(task.budget.checkpoint, task.budget.every, identity)
    model.config = replace(model.config, steps=trainer.steps)

    calibration = calibrate(model, images, held, task)
    return Fitted(
        calibration,
        pictures=held,
        used=learnt,
        facts={
            "steps": trainer.steps,
            "seen_defects": len(task.seen),
            "textures": pictures.textures,
            "prototypes": [one.facts() for one in clusters],
            "training_precision": trainer.precision,
            "curve": trainer.curve,
            "seconds": {"training": round(trainer.seconds, 1)},
        },
        notes=[] if task.seen else [UNSEEN],
        summary=[
            f"trained {trainer.steps} steps in {duration(trainer.seconds)} on {len(learnt)} good pictures "
            f"and {len(task.seen)} seen defects"
        ],
    )


UNSEEN = "no seen defects were given (--seen): it knows simulated ones only"


def divided(config: Config, task: Task) -> tuple[GoodPictures, list[int], list[int]]:
    """The good pictures, the numbers of those to learn from, and of those held out."""
    images = GoodPictures(task.load, task.count, _room(config))
    used = task.settle(images.read(task.step))
    parts = hold_out(
        used,
        [task.groups[i] for i in used],
        share=config.held_out,
        rate=task.rate,
        seed=config.seed,
        method="prnet",
        reserved=task.reserved,
    )
    held = sorted(i for part in parts for i in part)
    return images, [i for i in used if i not in {*held}], held


def _room(config: Config) -> int:
    """Bytes of pictures kept, and of features."""
    return int(config.memory * 2**30) // 2


# ---------------------------------------------------------------------------------------------- prototypes


def find_prototypes(config: Config, known: Known, step: Step) -> list[Clusters]:
    """Per scale (3.2)."""
    found = []
    for scale in range(3):

        def load(numbers: Tensor, scale: int = scale) -> Tensor:
            return known.maps(numbers, scale)

        found.append(cluster(load, len(known.learnt), seed=config.seed))
        step("prototypes", scale + 1, 3)
    return found


def write_prototypes(model: Model, task: Task, out: Path) -> None:
    """Those that `fit` would find, in a file that it takes."""
    config: Config = model.config
    images, learnt, held = divided(config, task)
    known = Known(model, images, learnt, _room(config))
    digest = known.measure(task.step)
    clusters = find_prototypes(config, known, task.step)
    tensors = {}
    for k, one in enumerate(clusters):
        tensors[f"prototypes.{k}"] = one.prototypes
        tensors[f"assignment.{k}"] = one.assignment
        tensors[f"pictures.{k}"] = one.pictures
        scale = "x".join(map(str, one.prototypes.shape[1:]))
        task.say(
            f"{scale}: {len(one.prototypes)} prototypes of {len(learnt)} pictures, objective "
            f"{one.objective:.6g} after {one.iterations} iterations"
        )
    facts = {
        "backbone": _digest_of(model),
        "training set": digest,
        "scales": [{"objective": c.objective, "history": list(c.history)} for c in clusters],
        "held_out": len(held),
    }
    pack(out, arrays(tensors), PROTOTYPES, facts)


PROTOTYPES = "set of prototypes"


@dataclass(frozen=True)
class Made:
    """What `write_prototypes` wrote."""

    path: Path
    clusters: list[Clusters]
    digest: str  # of the pictures

    def fitting(self, digest: str) -> list[Clusters]:
        """The clusters, if they are of these pictures."""
        if digest != self.digest:
            raise InputError(
                f"{self.path} was made of other pictures than are learnt from here: make it anew with "
                "the same pictures, --size, --seed, --group and --false-alarm-rate"
            )
        return self.clusters


def read_prototypes(config: Config, model: Model) -> Made:
    assert config.prototypes is not None
    path = Path(config.prototypes)
    found, facts = unpack(path, read(path, PROTOTYPES), PROTOTYPES, "make it anew")
    tensors = tensors_of(found)
    other = InputError(f"{path} is of another backbone, size or version: make it anew with the same settings")
    if facts.get("backbone") != _digest_of(model):
        raise other
    try:
        clusters = [
            Clusters(
                tensors[f"prototypes.{k}"],
                float(known["objective"]),
                tensors[f"assignment.{k}"],
                tensors[f"pictures.{k}"],
                tuple(known["history"]),
            )
            for k, known in enumerate(facts["scales"])
        ]
        shapes = [tuple(c.prototypes.shape[1:]) for c in clusters]
        digest = str(facts["training set"])
    except (KeyError, TypeError, ValueError):
        raise other from None
    if shapes != [tuple(shape) for shape in model.shapes[:-1]]:
        raise other
    return Made(path, clusters, digest)


def _digest_of(model: Model) -> str:
    digest = hashlib.sha256()
    for values in model.backbone.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- calibration


def calibrate(model: Model, images: GoodPictures, held: Sequence[int], task: Task) -> Calibration:
    """By pictures that were held out."""
    scored: dict[int, tuple[float, float, float]] = {}

    def store(index: int, logits: Tensor, inside: Tensor | None) -> None:
        scores, maps = model.score(logits[None])
        scored[index] = float(scores[0]), float(maps.max()), float(maps[0][model.roi].median())

    embed_pictures(model, lambda i: images[i], held, store, task.step, "calibration")
    values = [scored[i] for i in held]
    if not bool(torch.tensor(values).isfinite().all()):
        raise InputError(
            f"the network's answers overflow in {model.config.precision}: choose another --set precision"
        )
    return from_values(
        *zip(*values, strict=True), rate=task.rate, method="held out", precision=model.config.precision
    )


# ------------------------------------------------------------------------------------------------- the run


def _plan(learnt: Sequence[int], held: Sequence[int], seen: Sequence[Defect], textures: str) -> str:
    return (
        f"{len(learnt)} good pictures to learn from, {len(held)} held out for the threshold; "
        f"{len(seen)} seen defects; simulated ones of {textures}"
    )


def _digest_of_seen(seen: Sequence[Defect]) -> str:
    digest = hashlib.sha256()
    for defect in seen:
        digest.update(defect.image.numpy().tobytes() + defect.mask.tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value
