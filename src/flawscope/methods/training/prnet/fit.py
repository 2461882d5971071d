"""A fit of PRN: holding out, prototypes, training, calibration."""

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
    seen_defects = task.seen
    held_out_numbers = run.divide().numbers
    learnt_numbers = run.images.numbers
    region = model.roi.cpu().numpy()
    pictures = TrainingPictures(config, run.images, learnt_numbers, seen_defects, within=region)
    for line in pictures.skipped:
        task.say(f"skipped a texture: {line}")
    task.say(
        f"{task.pluralize(len(learnt_numbers), 'good')} to learn from, {len(held_out_numbers)} held out for "
        f"the threshold; {pluralize(len(seen_defects), 'seen defect')}; "
        f"simulated ones of {pictures.textures}"
    )
    features = ScaleFeatureCache(model, run.images, learnt_numbers, room=run.max_bytes // 2)
    features.measure(task.step)
    k_means_results = find_prototypes(config, features, task.step)
    for prototypes, result in zip(model.scales, k_means_results, strict=True):
        prototypes.prototypes = result.prototypes.to(model.roi.device)
    trainer = Trainer(model, pictures, features, k_means_results, task)
    objectives = [result.objective for result in k_means_results]
    run.train(trainer, later=POST_TRAINING, textures=pictures.textures, prototypes=objectives)
    description = (
        f"{pluralize(len(learnt_numbers), 'good picture')} and {pluralize(len(seen_defects), 'seen defect')}"
    )
    fitted = run.finish(trainer, learnt=description)
    fitted.facts |= {
        "seen_defects": len(seen_defects),
        "textures": pictures.textures,
        "prototypes": [result.facts() for result in k_means_results],
    }
    if not seen_defects:
        fitted.notes.insert(0, UNSEEN_NOTE)
    return fitted


UNSEEN_NOTE = "no seen defects were given (--seen): it knows simulated ones only"


# ---------------------------------------------------------------------------------------------- prototypes


def find_prototypes(
    config: Config, features: ScaleFeatureCache, step: ProgressCallback
) -> list[KMeansResult]:
    """Find the prototypes of each scale (section 3.2) among the features of the good pictures."""
    results = []
    for scale in range(3):
        load = partial(features.maps, scale=scale)
        results.append(k_means(load, len(features.learnt), seed=config.seed))
        step("prototypes", scale + 1, 3)
    return results
