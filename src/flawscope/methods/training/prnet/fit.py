"""Fitting PRN: holding out, prototypes, training, calibration."""

from __future__ import annotations

from functools import partial

from flawscope.errors import pluralize
from flawscope.methods.task import Fitted, Task
from flawscope.methods.training.fit import TrainedFit
from flawscope.methods.training.prnet.model import Model
from flawscope.methods.training.prnet.prototypes import KMeansResult, k_means
from flawscope.methods.training.prnet.record import Config
from flawscope.methods.training.prnet.trainer import Trainer
from flawscope.methods.training.prnet.training_pictures import ScaleFeatureCache, TrainingPictures
from flawscope.progress import ProgressCallback

POST_TRAINING = ("top",)  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on good pictures and seen defects; calibrate it on good pictures held out."""
    config = model.config
    run = TrainedFit("prnet", model, task)
    seen = task.seen
    held = run.divide().numbers
    learnt = run.images.numbers
    pictures = TrainingPictures(config, run.images, learnt, seen, model.roi.cpu().numpy())
    for line in pictures.skipped:
        task.say(f"skipped a texture: {line}")
    task.say(
        f"{task.pluralize(len(learnt), 'good')} to learn from, {len(held)} held out for the threshold; "
        f"{pluralize(len(seen), 'seen defect')}; simulated ones of {pictures.textures}"
    )
    features = ScaleFeatureCache(model, run.images, learnt, run.max_bytes // 2)
    features.measure(task.step)
    clusters = find_prototypes(config, features, task.step)
    for prototypes, cluster in zip(model.scales, clusters, strict=True):
        prototypes.prototypes = cluster.prototypes.to(model.roi.device)
    trainer = Trainer(model, pictures, features, clusters, task)
    objectives = [cluster.objective for cluster in clusters]
    run.train(trainer, later=POST_TRAINING, textures=pictures.textures, prototypes=objectives)
    said = f"{pluralize(len(learnt), 'good picture')} and {pluralize(len(seen), 'seen defect')}"
    fitted = run.finish(trainer, said)
    fitted.facts |= {
        "seen_defects": len(seen),
        "textures": pictures.textures,
        "prototypes": [cluster.facts() for cluster in clusters],
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
