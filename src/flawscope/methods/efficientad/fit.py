"""Fitting EfficientAD: what is held out, training, quantiles, calibration."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.state_file import found_checkpoint
from flawscope.calibration.decision import from_values
from flawscope.calibration.hold_out import ENOUGH, hold_out, needed_for
from flawscope.errors import InputError
from flawscope.methods.efficientad.config import GENERATED, Config
from flawscope.methods.efficientad.model import Model
from flawscope.methods.efficientad.quantiles import quantiles
from flawscope.methods.efficientad.trainer import Trainer
from flawscope.methods.efficientad.training_pictures import Taught, other_pictures
from flawscope.methods.extract import embed_pictures
from flawscope.methods.picture_cache import GoodPictures
from flawscope.methods.task import Fitted, Task
from flawscope.methods.threads import workers
from flawscope.progress import duration

FOR_QUANTILES = 5  # pictures at least, if they are not the threshold's
LATER = ("held_out", "memory", "precision", "quantiles", "sigma")  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on good pictures, of which some are held out, and calibrate it on those."""
    begun, config = time.monotonic(), model.config
    found = found_checkpoint(task.budget.checkpoint, task.budget.resume)
    say, step = task.say, task.step
    room = int(config.memory * 2**30)
    images = GoodPictures(task.load, task.count, room // 2)
    used = task.settle(images.read(step))
    held = held_pictures(used, [task.groups[i] for i in used], config, task.rate, task.reserved)
    learnt = [i for i in used if i not in {*held.quantiles, *held.threshold}]
    other = other_pictures(config.natural)
    say(_plan(model, learnt, held, other.name if other else "none"))

    taught = Taught(model, images, learnt, room - min(room // 2, _bytes(images)))
    digest = taught.measure(step)
    trainer = Trainer(model, images, taught, other, say, step)
    identity = {
        **{k: _plain(v) for k, v in asdict(config).items() if k not in (*Config.PATHS, *LATER)},
        "training set": digest,
        "teacher": _digest_of(model),
        "penalty": other.name if other else "none",
        "precision while it learns": trainer.precision,
    }
    if found is not None:
        trainer.restore(*found, identity)
        say(f"goes on after step {trainer.done} of {trainer.steps}")
    if trainer.steps is None:
        minutes = task.budget.minutes
        # what comes after takes a picture's time for each that is held out
        after = (time.monotonic() - begun) * len(held) / max(len(learnt), 1) * 2
        left = None if minutes is None else begun + 60 * minutes - time.monotonic() - after
        trainer.fix_steps(left)
    identity["steps"] = trainer.steps
    say(trainer.budget())
    checkpoint = task.budget.checkpoint
    trainer.run(checkpoint, task.budget.every, identity)
    model.config = replace(model.config, steps=trainer.steps)

    calibration, notes = calibrate(model, images, held, task)
    return Fitted(
        calibration,
        pictures=held.threshold,
        used=learnt,
        held={"quantile": [i for i in held.quantiles if i not in held.threshold]},
        facts={
            "steps": trainer.steps,
            "penalty": other.name if other else "none",
            "training_precision": trainer.precision,
            "curve": trainer.curve,
            "seconds": {"training": round(trainer.seconds, 1)},
        },
        notes=notes + ([] if other is None or config.natural != GENERATED else [STAND_IN]),
        summary=[
            f"trained {trainer.steps} steps in {duration(trainer.seconds)} on {len(learnt)} pictures; "
            f"penalty on {other.name if other else 'nothing'}"
        ],
    )


STAND_IN = "no photographs were given for the penalty (--set natural=FOLDER): generated textures stood in"


# ---------------------------------------------------------------------------------------------- holding out


class Held:
    """Pictures held out: for the quantiles and for the threshold. The same ones where they are few."""

    def __init__(self, for_quantiles: Iterable[int], for_threshold: Iterable[int]):
        self.quantiles, self.threshold = sorted(for_quantiles), sorted(for_threshold)

    def __len__(self) -> int:
        return len({*self.quantiles, *self.threshold})

    @property
    def shared(self) -> bool:
        return self.quantiles == self.threshold


def held_pictures(
    used: Sequence[int],
    groups: Sequence[int],
    config: Config,
    rate: float,
    reserved: Collection[int] = (),
) -> Held:
    """What `hold_out` gives: a fifth for the quantiles, five at least, the rest for the threshold; all for
    both where there are too few."""
    parts = hold_out(
        used,
        groups,
        share=config.held_out,
        rate=rate,
        seed=config.seed,
        method="efficientad",
        reserved=reserved,
        more=FOR_QUANTILES,
    )
    count = sum(map(len, parts))
    few = max(FOR_QUANTILES, count // 5)
    apart = parts[0][0] in reserved
    enough = count - few >= needed_for(rate) if apart else len(used) >= ENOUGH
    if not enough or len(parts) < 2:
        everything = [i for part in parts for i in part]
        return Held(everything, everything)
    quantiles: list[int] = []
    while len(parts) > 1 and len(quantiles) < few:
        quantiles += parts.pop()
    return Held(quantiles, (i for part in parts for i in part))


# --------------------------------------------------------------------------------- quantiles and calibration


def calibrate(model: Model, images: GoodPictures, held: Held, task: Task) -> tuple[Any, list[str]]:
    """Set the model's quantiles (3.4), and find the threshold's scores."""
    found: dict[int, Tensor] = {}
    indices = sorted({*held.quantiles, *held.threshold})

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        found[index] = features

    embed_pictures(model, lambda i: images[i], indices, store, task.step, "calibration")
    if not all(bool(features.isfinite().all()) for features in found.values()):
        raise InputError(
            f"the networks' answers overflow in {model.config.precision}: choose another --set precision, or "
            "another --teacher"
        )
    roi = model.roi.cpu().numpy()
    for which in range(2):

        def values(which: int = which) -> Iterable[NDArray[np.float32]]:
            for index in held.quantiles:
                yield model.enlarged(found[index][which]).cpu().numpy()[roi]

        low, high = quantiles(values, model.config.quantiles)
        # two equal ones would divide by zero: a map that never changes says nothing
        high = max(high, low + 1e-6 * max(abs(low), 1e-6))
        model.quantiles[which] = torch.tensor([low, high])

    def score(index: int) -> tuple[float, float, float]:
        scores, maps = model.score(found[index][None])
        return float(scores[0]), float(maps.max()), float(maps[0][model.roi].median())

    with workers(model.roi.device) as each:
        scored = each(score, held.threshold)
    calibration = from_values(
        *zip(*scored, strict=True), rate=task.rate, method="held out", precision=model.config.precision
    )
    notes = []
    if held.shared:
        notes.append(
            f"the maps' quantiles and the threshold come from the same {len(held)} held-out pictures: expect "
            "a little more false alarms than promised"
        )
    return calibration, notes


# ------------------------------------------------------------------------------------------------- the run


def _plan(model: Model, learnt: Sequence[int], held: Held, penalty: str) -> str:
    shared = (
        "for quantiles and threshold"
        if held.shared
        else (f"{len(held.quantiles)} for the quantiles, {len(held.threshold)} for the threshold")
    )
    return f"{len(learnt)} pictures to learn from, {len(held)} held out ({shared}); penalty: {penalty}"


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _bytes(images: GoodPictures) -> int:
    return sum(image.nbytes for image in images.kept.values())


def _digest_of(model: Model) -> str:
    digest = hashlib.sha256()
    for values in model.teacher.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
