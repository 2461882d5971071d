"""Fitting EfficientAD: what is held out, training, quantiles, calibration."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration import from_values
from flawscope.efficientad.config import GENERATED, Config
from flawscope.efficientad.model import Model
from flawscope.efficientad.pictures import Taught, other_pictures
from flawscope.efficientad.quantiles import quantiles
from flawscope.efficientad.trainer import Trainer
from flawscope.errors import InputError
from flawscope.features.extract import Load, embed_pictures
from flawscope.features.pictures import GoodPictures
from flawscope.fitted import Fitted, Task
from flawscope.packed import found_checkpoint
from flawscope.progress import duration
from flawscope.workers import workers

HELD_OUT = 10  # pictures at least, where a quarter of all are as many
ENOUGH = 120  # pictures from which on the threshold gets as many as its rate needs, and quantiles others
FOR_QUANTILES = 5  # pictures at least, if they are not the threshold's
LATER = ("held_out", "memory", "precision", "quantiles", "sigma")  # settings that training does not depend on
SPLIT = 20  # what a random number is for; the trainer has its own


def fit(config: Config, model: Model, load: Load, count: int, groups: Sequence[int], task: Task) -> Fitted:
    """Train `model` on `count` good pictures, of which some are held out, and calibrate it on those.

    Args:
        load: picture i as [3, H, W] float32, or None where it must be left out (unreadable, a copy).
        groups: [count], pictures of one and the same part share a number; they are held out together.
    """
    begun = time.monotonic()
    _refuse(task)
    found = found_checkpoint(task.budget.checkpoint, task.budget.resume)
    say, step = task.say, task.step
    room = int(config.memory * 2**30)
    images = GoodPictures(load, count, room // 2)
    used = task.settle(images.read(step))
    held = hold_out(used, [groups[i] for i in used], config, task.rate, set(task.reserved))
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
    say(_budget(trainer))
    checkpoint = task.budget.checkpoint
    trainer.run(checkpoint, task.budget.every, identity)
    model.config = replace(model.config, steps=trainer.steps)

    calibration, notes = calibrate(model, images, held, task)
    return Fitted(
        model,
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


def _refuse(task: Task) -> None:
    if task.old is not None:
        raise InputError("efficientad cannot be extended: fit anew with all pictures")
    if task.drop_suspects:
        raise InputError(
            "efficientad cannot tell which of the pictures it has learnt look suspicious: find them with "
            "--method patchcore --drop-suspects"
        )


# ---------------------------------------------------------------------------------------------- holding out


class Held:
    """Pictures held out: for the quantiles and for the threshold. The same ones where they are few."""

    def __init__(self, for_quantiles: list[int], for_threshold: list[int]):
        self.quantiles, self.threshold = for_quantiles, for_threshold

    def __len__(self) -> int:
        return len({*self.quantiles, *self.threshold})

    @property
    def shared(self) -> bool:
        return self.quantiles == self.threshold


def hold_out(
    used: Sequence[int],
    groups: Sequence[int],
    config: Config,
    rate: float,
    reserved: Collection[int] = (),
) -> Held:
    """Which pictures are not learnt from: those that the data set keeps apart (4.6); where it keeps none, a
    share, 10 at least where a quarter of all are as many, and from 120 pictures on as many as the false-alarm
    rate needs and 5 more. Whole groups, drawn by the seed.

    Args:
        used: numbers of the pictures.
        groups: of each of them.
        reserved: numbers of those that are kept apart.
    """
    needed = math.ceil(1 / rate - 1e-9) - 1
    own = sorted(set(reserved) & set(used))
    if own and len(own) < len(used):
        drawn = np.random.default_rng([config.seed, SPLIT]).permutation(own).tolist()
        first = max(FOR_QUANTILES, len(own) // 5)
        if len(own) - first < needed:
            return Held(own, own)
        return Held(sorted(drawn[:first]), sorted(drawn[first:]))
    total = len(used)
    if total < 2:
        raise InputError(
            f"{total} usable pictures are too few for efficientad: it learns from some and holds out others"
        )
    wanted = max(round(config.held_out * total), min(HELD_OUT, total // 4), 1)
    apart = total >= ENOUGH
    if apart:
        wanted = max(wanted, min(needed + FOR_QUANTILES, total // 5))
    order = np.random.default_rng([config.seed, SPLIT]).permutation(sorted(set(groups)))
    members: dict[int, list[int]] = {}
    for index, group in zip(used, groups, strict=True):
        members.setdefault(group, []).append(index)
    taken: list[list[int]] = []
    for group in order.tolist():
        held = sum(map(len, taken))
        if held >= wanted or len(taken) == len(members) - 1:
            break
        if held + len(members[group]) <= max(2 * wanted, total // 3):  # no large part for a few pictures
            taken.append(members[group])
    if not taken and len(members) > 1:
        taken = [min(members.values(), key=len)]
    if not taken:
        raise InputError(
            "all pictures show one part (--group), and efficientad holds out whole parts: give others too"
        )
    if not apart or len(taken) < 2:
        same = sorted(i for part in taken for i in part)
        return Held(same, same)
    for_quantiles: list[list[int]] = []
    while len(taken) > 1 and sum(map(len, for_quantiles)) < max(FOR_QUANTILES, wanted // 5):
        for_quantiles.append(taken.pop())
    return Held(*(sorted(i for part in parts for i in part) for parts in (for_quantiles, taken)))


# --------------------------------------------------------------------------------- quantiles and calibration


def calibrate(model: Model, images: GoodPictures, held: Held, task: Task) -> tuple[Any, list[str]]:
    """Set the model's quantiles (3.4), and find the threshold's scores."""
    found: dict[int, Tensor] = {}
    indices = sorted({*held.quantiles, *held.threshold})

    def store(index: int, features: Tensor) -> None:
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


def _budget(trainer: Trainer) -> str:
    where = {"cpu": "this processor", "cuda": "the graphics card"}.get(trainer.device.type, "this device")
    return (
        f"{trainer.steps} steps of {trainer.config.batch} on {where}, {trainer.precision}; --steps and "
        "--minutes change that"
    )


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
