"""Fitting PRN: what is held out, prototypes, training, calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flawscope.artefact.state_file import pack, read, unpack
from flawscope.errors import InputError
from flawscope.methods.in_steps import Run, Values
from flawscope.methods.prnet.config import Config
from flawscope.methods.prnet.feature_cache import FeatureCache
from flawscope.methods.prnet.model import Model
from flawscope.methods.prnet.prototypes import Clusters, cluster
from flawscope.methods.prnet.trainer import Trainer
from flawscope.methods.prnet.training_pictures import TrainingPictures
from flawscope.methods.task import Defect, Fitted, Task
from flawscope.methods.training import arrays, digest_of, tensors_of
from flawscope.progress import Step, counted

LATER = ("top",)  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on good pictures, of which some are held out, and on the seen defects; calibrate it on
    those held out."""
    config, run, seen = model.config, Run("prnet", model, task), task.seen
    made = read_prototypes(config, model) if config.prototypes else None
    learnt, held = divide(run)
    pictures = TrainingPictures(config, run.images, learnt, seen, model.roi.cpu().numpy())
    for line in pictures.skipped:
        task.say(f"skipped a texture: {line}")
    task.say(
        f"{task.counted(len(learnt), 'good')} to learn from, {len(held)} held out for the threshold; "
        f"{counted(len(seen), 'seen defect')}; simulated ones of {pictures.textures}"
    )
    features = FeatureCache(model, run.images, learnt, run.room // 2)
    digest = features.measure(task.step)
    if made is not None:
        clusters = made.fitting(digest)
    else:
        clusters = task.budget.together.first(lambda: find_prototypes(config, features, task.step))
    for prototypes, one in zip(model.scales, clusters, strict=True):
        prototypes.prototypes = one.prototypes.to(model.roi.device)
    trainer = Trainer(model, pictures, features, clusters, task)
    decisive = {
        "training set": digest,
        "seen defects": _digest_of_seen(seen),
        "textures": pictures.textures,
        "prototypes": [one.objective for one in clusters],
    }
    run.train(trainer, held, lambda some: calibrate(run, some), LATER, **decisive)
    return Fitted(
        run.calibrated(calibrate(run, held)),
        pictures=held,
        used=learnt,
        facts={
            **run.facts(trainer),
            "seen_defects": len(seen),
            "textures": pictures.textures,
            "prototypes": [one.facts() for one in clusters],
        },
        notes=[*([] if seen else [UNSEEN]), *run.warnings(trainer)],
        summary=[
            run.summary(
                trainer, f"{counted(len(learnt), 'good picture')} and {counted(len(seen), 'seen defect')}"
            )
        ],
    )


UNSEEN = "no seen defects were given (--seen): it knows simulated ones only"


def divide(run: Run) -> tuple[list[int], list[int]]:
    """The numbers of the good pictures to learn from, and of those held out."""
    held = sorted(i for part in run.divide() for i in part)
    return run.without(held), held


def calibrate(run: Run, held: Sequence[int]) -> list[Values]:
    """The values of the pictures that were held out."""
    found: dict[int, Values] = {}

    def store(index: int, logits: Tensor, inside: Tensor | None) -> None:
        found[index] = run.values(logits, inside)

    run.embed(held, store)
    return [found[i] for i in held]


def _digest_of_seen(seen: Sequence[Defect]) -> str:
    digest = hashlib.sha256()
    for defect in seen:
        digest.update(defect.image.numpy().tobytes() + defect.mask.tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- prototypes


def find_prototypes(config: Config, features: FeatureCache, step: Step) -> list[Clusters]:
    """Per scale (3.2)."""
    found = []
    for scale in range(3):

        def load(numbers: Tensor, scale: int = scale) -> Tensor:
            return features.maps(numbers, scale)

        found.append(cluster(load, len(features.learnt), seed=config.seed))
        step("prototypes", scale + 1, 3)
    return found


def write_prototypes(model: Model, task: Task, out: Path) -> None:
    """Those that `fit` would find, in a file that it takes."""
    run = Run("prnet", model, task)
    learnt, held = divide(run)
    features = FeatureCache(model, run.images, learnt, run.room // 2)
    digest = features.measure(task.step)
    clusters = find_prototypes(model.config, features, task.step)
    tensors = {}
    for k, one in enumerate(clusters):
        tensors[f"prototypes.{k}"] = one.prototypes
        tensors[f"assignment.{k}"] = one.assignment
        tensors[f"pictures.{k}"] = one.pictures
        scale = "x".join(map(str, one.prototypes.shape[1:]))
        task.say(
            f"{scale}: {counted(len(one.prototypes), 'prototype')} of {counted(len(learnt), 'picture')}, "
            f"objective {one.objective:.6g} after {counted(one.iterations, 'iteration')}"
        )
    facts = {
        "backbone": digest_of(model.backbone),
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
                "the same pictures, --size, --roi, --seed, --group and --false-alarm-rate"
            )
        return self.clusters


def read_prototypes(config: Config, model: Model) -> Made:
    assert config.prototypes is not None
    path = Path(config.prototypes)
    found, facts = unpack(path, read(path, PROTOTYPES), PROTOTYPES, "make it anew")
    tensors = tensors_of(found)
    other = InputError(f"{path} is of another backbone, size or version: make it anew with the same settings")
    if facts.get("backbone") != digest_of(model.backbone):
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
