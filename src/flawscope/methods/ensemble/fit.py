"""Fitting an ensemble: its members by their own methods, and one calibration of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.ensemble import format_member
from flawscope.methods.ensemble.model import Member, Model
from flawscope.methods.good_pictures import GoodPictures, HeldOut, pack_image
from flawscope.methods.method import Method
from flawscope.methods.task import Budget, Fitted, SeenDefect, Task

MEMBER_PICTURES = 20  # pictures that a member is calibrated on by itself: what it says alone is not promised
# Least spread in shares of the mean: of a map's values, so that distances count in units of the usual one;
# of scores, since of one picture held out there is none
MIN_SPREAD = (1.0, 1e-2)


def fit(model: Model, task: Task) -> Fitted:
    """Fit every member; bring their maps to one scale and calibrate what they say together, by pictures that
    none of them has learnt from."""
    each, room = model.config.each(), int(model.config.memory * 2**30)
    able = [method.name for method, _ in each if method.takes_seen_defects]
    if task.seen and not able:
        raise InputError("no member learns from seen defects: leave out --seen, or add prnet to the members")
    images, held = task.divide("ensemble", model, share=model.config.held_out, room=room)
    task.say(
        f"{task.pluralize(len(images.numbers), 'good')} to learn from, {len(held.numbers)} held out for all "
        "members and the threshold"
    )
    parts, members = [], list[str]()
    for k, (method, _) in enumerate(each):
        member = model.members[k]
        own = _member_task(model, member, method, task, images, held, f"{k + 1}. {method.name}")
        parts.append(method.run_fit(member.detector, own))
        members.append(format_member(method, member.detector.config))
    model.config = replace(model.config, members=tuple(members))
    model.normal.copy_(_measure_normal(model, held))
    fitted = Fitted(held.calibration(model), held.numbers, images.numbers)
    for k, ((method, _), part) in enumerate(zip(each, parts, strict=True)):
        fitted.summary += [f"{k + 1}. {method.name}: {line}" for line in part.summary]
    fitted.facts = {"members": [part.facts for part in parts], "seen_defects": len(task.seen)}
    return fitted


def _member_task(
    model: Model, member: Member, method: Method, task: Task, images: GoodPictures, held: HeldOut, name: str
) -> Task:
    """The task of a member: the same pictures at its size. One that holds pictures out gets those that the
    ensemble holds out; any other gets none of them."""
    learnt, device = {*images.numbers}, model.roi.device
    usable = {*learnt, *held.numbers}

    def sized(image: Tensor) -> Tensor:
        given = image[None].to(device)
        found: Tensor = model.images(given, member)[0]
        return found.cpu()

    own = replace(
        task,
        settle=lambda numbers: [i for i in numbers if i in usable],
        reserved=held.numbers,
        seen=[_resize_defect(one, member, sized) for one in task.seen] if method.takes_seen_defects else (),
        calibration_pictures=MEMBER_PICTURES,
        budget=Budget(),
        say=lambda line: task.say(f"{name}: {line}"),
        step=lambda stage, done, total: task.step(f"{name}: {stage}", done, total),
    )
    if method.holds_out:
        return own.with_pictures(sized)
    return replace(own, load=lambda i: sized(images[i]) if i in learnt else None, reserved=())


def _resize_defect(defect: SeenDefect, member: Member, sized: Callable[[Tensor], Tensor]) -> SeenDefect:
    mask = member.resize_mask(torch.from_numpy(defect.mask)[None].to(member.down_rows.device))[0]
    return SeenDefect(pack_image(sized(defect.image)), mask.cpu().numpy(), defect.name)


def _measure_normal(model: Model, held: HeldOut) -> Tensor:
    """Means and spreads of what each member says of the pictures held out, as `Model.normal` has them."""
    found: dict[int, Tensor] = {}

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        region, rows = model.region(inside), []
        for scores, maps in model.score_members(features[None], None if inside is None else inside[None]):
            values, score = maps[0][region].cpu().double(), scores[0].cpu().double()
            rows.append(torch.stack([values.mean(), values.square().mean(), score, score.square()]))
        found[index] = torch.stack(rows)

    held.embed(model, held.numbers, store)
    moments = torch.stack([found[i] for i in held.numbers]).mean(0)  # whichever thread was first
    mean, square = moments[:, ::2], moments[:, 1::2]
    spread = (square - mean.square()).clamp(min=0).sqrt()  # rounding may bring it below 0
    spread = spread.maximum(mean.new_tensor(MIN_SPREAD) * mean.abs() + 1e-12)
    return torch.stack([mean, spread], dim=2).flatten(1).float()
