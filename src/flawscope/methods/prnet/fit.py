"""Fitting PRN: holding out, prototypes, training, calibration."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flawscope.artefact.state_file import parse_state, read_state_bytes, write_state
from flawscope.errors import InputError, pluralize
from flawscope.methods.prnet import Config
from flawscope.methods.prnet.model import Model
from flawscope.methods.prnet.prototypes import KMeansResult, k_means
from flawscope.methods.prnet.trainer import Trainer
from flawscope.methods.prnet.training_pictures import ScaleFeatureCache, TrainingPictures
from flawscope.methods.task import Fitted, Task
from flawscope.methods.trained_fit import TrainedFit
from flawscope.methods.training_state import network_digest, to_arrays, to_tensors
from flawscope.progress import ProgressCallback

POST_TRAINING = ("top",)  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on good pictures and the seen defects; calibrate it on good ones held out."""
    config, run, seen = model.config, TrainedFit("prnet", model, task), task.seen
    made = read_prototypes(Path(config.prototypes), model) if config.prototypes else None
    held, learnt = run.divide().numbers, run.images.numbers
    pictures = TrainingPictures(config, run.images, learnt, seen, model.roi.cpu().numpy())
    for line in pictures.skipped:
        task.say(f"skipped a texture: {line}")
    task.say(
        f"{task.pluralize(len(learnt), 'good')} to learn from, {len(held)} held out for the threshold; "
        f"{pluralize(len(seen), 'seen defect')}; simulated ones of {pictures.textures}"
    )
    features = ScaleFeatureCache(model, run.images, learnt, run.max_bytes // 2)
    features.measure(task.step)
    if made is not None:
        clusters, digest = made
        if digest != run.digest:
            raise InputError(
                f"{config.prototypes} was made of other pictures than are learnt from here: make it anew "
                "with the same pictures, --size, --roi, --seed, --group and --false-alarm-rate"
            )
    else:
        clusters = task.budget.process_group.on_first_process(
            lambda: find_prototypes(config, features, task.step)
        )
    for prototypes, one in zip(model.scales, clusters, strict=True):
        prototypes.prototypes = one.prototypes.to(model.roi.device)
    trainer = Trainer(model, pictures, features, clusters, task)
    objectives = [one.objective for one in clusters]
    run.train(trainer, later=POST_TRAINING, textures=pictures.textures, prototypes=objectives)
    said = f"{pluralize(len(learnt), 'good picture')} and {pluralize(len(seen), 'seen defect')}"
    fitted = run.finish(trainer, said)
    fitted.facts |= {
        "seen_defects": len(seen),
        "textures": pictures.textures,
        "prototypes": [one.facts() for one in clusters],
    }
    fitted.notes[:0] = [] if seen else [UNSEEN_NOTE]
    return fitted


UNSEEN_NOTE = "no seen defects were given (--seen): it knows simulated ones only"


# ---------------------------------------------------------------------------------------------- prototypes


def find_prototypes(
    config: Config, features: ScaleFeatureCache, step: ProgressCallback
) -> list[KMeansResult]:
    """Find the prototypes of each scale (3.2)."""
    found = []
    for scale in range(3):
        load = partial(features.maps, scale=scale)
        found.append(k_means(load, len(features.learnt), seed=config.seed))
        step("prototypes", scale + 1, 3)
    return found


def write_prototypes(model: Model, task: Task, out: Path) -> None:
    """Write the prototypes that `fit` would find to a file that it takes."""
    run = TrainedFit("prnet", model, task)
    held, learnt = run.divide().numbers, run.images.numbers
    features = ScaleFeatureCache(model, run.images, learnt, run.max_bytes // 2)
    features.measure(task.step)
    clusters = find_prototypes(model.config, features, task.step)
    tensors = {}
    for k, one in enumerate(clusters):
        tensors[f"prototypes.{k}"] = one.prototypes
        tensors[f"assignment.{k}"] = one.assignment
        tensors[f"pictures.{k}"] = one.pictures
        scale = "x".join(map(str, one.prototypes.shape[1:]))
        task.say(
            f"{scale}: {pluralize(len(one.prototypes), 'prototype')} of {pluralize(len(learnt), 'picture')}, "
            f"objective {one.objective:.6g} after {pluralize(one.iterations, 'iteration')}"
        )
    facts = {
        "backbone": network_digest(model.backbone),
        "digest": run.digest,
        "scales": [{"objective": c.objective, "history": list(c.history)} for c in clusters],
        "held_out": len(held),
    }
    write_state(out, to_arrays(tensors), FILE_KIND, facts)


FILE_KIND = "set of prototypes"


def read_prototypes(path: Path, model: Model) -> tuple[list[KMeansResult], str]:
    """Read a file of `write_prototypes`: the prototypes, and the digest of their pictures and region of
    interest. InputError where the file is not for this model."""
    found, facts = parse_state(path, read_state_bytes(path, FILE_KIND), FILE_KIND, "make it anew")
    tensors = to_tensors(found)
    other = InputError(f"{path} is of another backbone, size or version: make it anew with the same settings")
    if facts.get("backbone") != network_digest(model.backbone):
        raise other
    try:
        clusters = [
            KMeansResult(
                tensors[f"prototypes.{k}"],
                float(known["objective"]),
                tensors[f"assignment.{k}"],
                tensors[f"pictures.{k}"],
                tuple(known["history"]),
            )
            for k, known in enumerate(facts["scales"])
        ]
        shapes = [tuple(c.prototypes.shape[1:]) for c in clusters]
        digest = str(facts["digest"])
    except (KeyError, TypeError, ValueError):
        raise other from None
    if shapes != [tuple(shape) for shape in model.shapes[:-1]]:
        raise other
    return clusters, digest
