"""Makes the next model: extends PatchCore; calibrates other methods anew, or trains them anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flawscope.artefact.model_file import Artefact, Picture
from flawscope.calibration import min_calibration_size
from flawscope.datasets import group_numbers
from flawscope.errors import InputError, pluralize
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.fitting.preparation import Say
from flawscope.fitting.training_pictures import Pool
from flawscope.fitting.update_evaluation import CORRECTIONS, ReviewedPicture, Score, score_pictures
from flawscope.methods import registry
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback
from flawscope.runtime.torch import TorchSession

RADIUS_KEY = "covering_radius"  # among a model's facts
CAP_GROWTH = 1.25  # factor by which a full memory bank may exceed its cap, for corrected pictures
# Factors for corrected pictures. Their patches lie just beyond the covering radius, within which a fit takes
# a patch for known. So the radius is smaller for them, and a larger share of their patches is kept.
RADIUS_FACTOR, RATIO_FACTOR = 0.5, 3
RATIO_SETTINGS = ("ratio", "fine_ratio")  # settings with the share of the patches that is kept
FOLDS = 2  # of cross-fitting, where a method is trained anew
UPDATE_NOTE_PREFIXES = ("learnt from ", "extended by ")  # of notes that the next update replaces

Values = Mapping[str, tuple[float, float]]  # score and maximum of the map by the picture's hash
# A model, and what gives its scores of pictures as if it had never learnt from them
Candidate = tuple[Predictor, Callable[[Sequence[ReviewedPicture]], dict[int, Score]]]


@dataclass(frozen=True)
class Job:
    """Arguments of `update` that all ways to make the next model share.

    pictures: all that can be used. wanted: those of them to learn from.
    before: the active model's scores of the pictures, by number.
    """

    old: Artefact
    active: Predictor
    pictures: Sequence[ReviewedPicture]
    wanted: Sequence[ReviewedPicture]
    before: Mapping[int, Score]
    good: Sequence[str]
    device: str
    check: bool
    pool: Pool | None
    say: Say
    step: ProgressCallback


# ------------------------------------------------------------------------------------------------- extended


def extend_bank(job: Job) -> list[Candidate]:
    """Candidates with a larger memory bank and the earlier calibration: first with the drawn pictures in the
    calibration, then without."""
    old, facts, calibration = job.old, job.old.manifest.facts, job.old.manifest.calibration
    listed = map(str, facts.get("calibration_pictures", ()))
    pairs = zip(calibration.scores, calibration.map_maxima, strict=True)
    values = dict(zip(listed, pairs, strict=True))
    left_out = dict(facts.get(CORRECTIONS, {}).get("left_out", {}))
    inside = {picture.hash for picture in old.manifest.pictures if picture.role != "calibration"}
    chosen = list({one.digest: one for one in job.wanted if one.digest not in inside}.values())
    predictor = Predictor(old, TorchSession.open(old, job.device))
    if chosen:
        alarms = sum(job.before[one.number].anomalous for one in chosen if one.number in job.before)
        start = with_room(old) if 2 * alarms >= len(chosen) else _without_update_notes(old)
        how = {"check": job.check, "pool": job.pool, "device": job.device, "step": job.step}
        predictor = learn_pictures(start, chosen, **how)
        new, combined = predictor.manifest.facts["calibration_pictures"], predictor.calibration
        for place in range(calibration.count, combined.count):
            left_out[new[place]] = combined.scores[place], combined.map_maxima[place]
    drawn: dict[str, tuple[float, float]] = {}
    for one in job.pictures:
        if not (one.drawn and one.good) or one.digest in {*values, *drawn}:
            continue
        if one.digest in left_out:
            drawn[one.digest] = left_out[one.digest]
        elif one.digest not in inside:
            prediction = predictor.predict(one.source)
            drawn[one.digest] = prediction.score, float(prediction.map.max())
    models = [_set_calibration(predictor, old, {**values, **drawn}, left_out, len(drawn), len(chosen))]
    if drawn:
        models.append(_set_calibration(predictor, old, values, left_out, 0, len(chosen)))
    known: dict[str, float] = {}  # the candidates have one network
    if not chosen and job.active.artefact is old:  # it has not changed
        known = {one.digest: one.before for one in job.pictures if one.before is not None}
    return [(one, lambda several, one=one: score_pictures(one, several, known, job.step)) for one in models]  # type: ignore[misc]


def learn_pictures(old: Artefact, pictures: Sequence[ReviewedPicture], **how: Any) -> Predictor:
    """The model with these pictures in its bank, and in its calibration."""
    sources, names = [one.source for one in pictures], [one.name for one in pictures]
    group = part_groups(old, pictures)[0]
    return partial_fit(old, sources, group=group, names=names, **how)


def part_groups(old: Artefact, pictures: Sequence[ReviewedPicture]) -> tuple[str | None, list[int]]:
    """Pattern of the model for pictures that show one part, None where it does not fit all names; and a
    number for each picture, the same for all pictures of a part."""
    names, group = [one.name for one in pictures], old.manifest.facts.get("group")
    try:
        return group, group_numbers(names, group)
    except InputError:
        return None, group_numbers(names, None)


def _without_update_notes(old: Artefact) -> Artefact:
    notes = tuple(note for note in old.manifest.notes if not note.startswith(UPDATE_NOTE_PREFIXES))
    return replace(old, manifest=replace(old.manifest, notes=notes))


def with_room(old: Artefact) -> Artefact:
    """Returns the model with a cap that leaves room in a full bank, and a smaller covering radius, which lets
    nearer patches in."""
    manifest = _without_update_notes(old).manifest
    config, facts = dict(manifest.config), dict(manifest.facts)
    if (cap := _cap(old)) is not None:
        config["cap"] = math.ceil(CAP_GROWTH * cap)
    config |= {key: min(1.0, RATIO_FACTOR * config[key]) for key in RATIO_SETTINGS if config.get(key)}
    if RADIUS_KEY in facts:
        facts[RADIUS_KEY] = [RADIUS_FACTOR * radius for radius in facts[RADIUS_KEY]]
    return replace(old, manifest=replace(manifest, config=config, facts=facts))


def _cap(old: Artefact) -> int | None:
    """Cap of the memory bank as it was fitted."""
    cap = old.manifest.facts.get(CORRECTIONS, {}).get("cap", old.manifest.config.get("cap"))
    return None if cap is None else int(cap)


def _set_calibration(
    predictor: Predictor, old: Artefact, values: Values, left_out: Values, drawn: int, learnt: int
) -> Predictor:
    """The model with these calibration scores. drawn, learnt: how many pictures were."""
    manifest, before = predictor.manifest, old.manifest
    first = before.facts.get(CORRECTIONS, {}).get("of_the_fit")
    first = first or before.facts.get("calibration_pictures", ())
    of_line = len(values.keys() - {*first})
    method = before.calibration.method.partition(";")[0]
    scores, maxima = zip(*values.values(), strict=True)
    calibration = replace(
        predictor.calibration,
        scores=tuple(map(float, scores)),
        map_maxima=tuple(map(float, maxima)),
        method=f"{method}; {of_line} drawn from the line" if of_line else method,
    )
    corrections: dict[str, Any] = {
        "left_out": {digest: list(pair) for digest, pair in left_out.items()},
        "of_the_fit": sorted({*first}),
    }
    if (cap := _cap(old)) is not None:
        corrections["cap"] = cap
    facts = {**manifest.facts, "calibration_pictures": list(values), CORRECTIONS: corrections}
    if RADIUS_KEY in before.facts:  # of the whole bank
        pairs = zip(before.facts[RADIUS_KEY], manifest.facts[RADIUS_KEY], strict=True)
        facts[RADIUS_KEY] = [max(pair) for pair in pairs]
    ratios = {key: before.config[key] for key in RATIO_SETTINGS if key in before.config}
    known = {picture.hash for picture in manifest.pictures}
    fresh = [Picture(digest, "calibration", "of the line") for digest in values if digest not in known]
    manifest = replace(
        manifest, config={**manifest.config, **ratios}, facts=facts, pictures=(*manifest.pictures, *fresh)
    )
    threshold = (
        f"good pictures as they come, {drawn} of them drawn from the line now"
        if drawn
        else "the earlier calibration pictures alone"
    )
    note = (
        f"learnt from {pluralize(learnt, 'picture')}; the threshold comes from {threshold}: pictures that "
        "were chosen are no fair sample, and what is promised was not measured on those to come"
    )
    made = Predictor(replace(predictor.artefact, manifest=manifest), predictor.session)
    made = made.with_calibration(calibration, note)
    made.failures = predictor.failures
    return made


# ------------------------------------------------------------------------------------------- other methods


def recalibrate_model(job: Job) -> list[Candidate]:
    """Candidate with thresholds from the drawn pictures alone, which the network has not learnt from."""
    drawn = [one.source for one in job.pictures if one.drawn and one.good]
    rate = job.old.manifest.calibration.rate
    needed = min_calibration_size(rate)
    if len(drawn) < needed:
        raise InputError(
            f"{pluralize(len(drawn), 'good picture')} of the line can calibrate, {needed} are needed for "
            f"{rate:.1%}: inspect and review more"
        )
    model = job.active.calibrate(drawn, job.step)
    if model.calibration.count < needed:
        raise InputError(
            f"only {pluralize(model.calibration.count, 'drawn picture')} can calibrate, the others are "
            f"copies or were learnt from; {needed} are needed: inspect and review more"
        )
    return [(model, lambda several: score_pictures(model, several, {}, job.step))]


def retrain_model(job: Job) -> list[Candidate]:
    """Candidate that is trained anew; pictures learnt from are judged by trainings without them, in folds."""
    if not job.good:
        raise InputError(
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    manifest = job.old.manifest
    method = registry.method(manifest.method)
    defects = [one for one in job.pictures if not one.good and one.mask] if method.takes_seen_defects else []
    learnt = list({one.digest: one for one in (*job.wanted, *defects)}.values())
    numbered = zip(learnt, part_groups(job.old, learnt)[1], strict=True)
    folds = {one.digest: part % FOLDS for one, part in numbered}

    def train(name: str, leave: int | None = None) -> Predictor:
        seen = [(one.source, one.mask) for one in defects if one.mask and folds[one.digest] != leave]
        more = [one.source for one in job.wanted if folds[one.digest] != leave]
        job.say(f"training {name}")
        return fit(
            [*job.good, *more],
            method=method.name,
            category=manifest.category or None,
            false_alarm_rate=manifest.calibration.rate,
            seen=seen if seen else 0,
            device=job.device,
            check=False,
            say=job.say,
            step=lambda stage, done, total: job.step(f"{name}: {stage}", done, total),
            **{k: v for k, v in manifest.config.items() if v is not None},
        )

    model = train("the model")
    others = {
        fold: train(f"without part {fold + 1} of {FOLDS}", fold) for fold in sorted(set(folds.values()))
    }

    def scores(several: Sequence[ReviewedPicture]) -> dict[int, Score]:
        found = score_pictures(model, [one for one in several if one.digest not in folds], {}, job.step)
        for fold, other in others.items():
            own = [one for one in several if folds.get(one.digest) == fold]
            judged = score_pictures(other, own, {}, job.step)
            found |= {number: score._replace(learnt=True) for number, score in judged.items()}
        return found

    return [(model, scores)]
