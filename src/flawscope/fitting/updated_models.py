"""Makes the next model: extends PatchCore; calibrates other methods anew, or trains them anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flawscope.artefact.model_file import Artefact, Picture
from flawscope.calibration import needed_for
from flawscope.errors import InputError, pluralize
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.fitting.preparation import Say
from flawscope.fitting.training_pictures import Pool
from flawscope.fitting.update_evaluation import KEY, Judge, Reviewed, Score, parts
from flawscope.methods import registry
from flawscope.predictor import Predictor
from flawscope.progress import Step
from flawscope.runtime.torch import TorchSession

RADIUS = "covering_radius"  # among a model's facts
ROOM = 1.25  # a full memory bank may grow so many times beyond its cap, for corrected pictures
# Factors for corrected pictures. Their patches lie just beyond the covering radius, within which a fit takes
# a patch for known. So the radius is smaller for them, and a larger share of their patches is kept.
CLOSER, MORE = 0.5, 3
RATIOS = ("ratio", "fine_ratio")  # settings with the share of the patches that is kept
FOLDS = 2  # of corrections, where a method is trained anew
OURS = ("learnt from ", "extended by ")  # notes of which a model has the last one only

# Models, the first choice first, each with its score of a picture as if it had never learnt from the picture
Candidates = Sequence[tuple[Predictor, Callable[[Reviewed], Score | None]]]


@dataclass(frozen=True)
class Wanted:
    """Arguments of an update that all ways to make the next model share.

    wanted: pictures to learn from, which are among the `rest`: all that can be used.
    before: the active model's scores of the pictures, by number. The others are `update`'s arguments.
    """

    old: Artefact
    active: Predictor
    wanted: Sequence[Reviewed]
    rest: Sequence[Reviewed]
    before: Mapping[int, Score]
    good: Sequence[str]
    device: str
    check: bool
    pool: Pool | None
    say: Say
    step: Step


def extended(job: Wanted) -> Candidates:
    """Candidates with a larger memory bank and the earlier calibration: first with the drawn pictures in the
    calibration, then without."""
    old, facts, calibration = job.old, job.old.manifest.facts, job.old.manifest.calibration
    listed = map(str, facts.get("calibration_pictures", ()))
    pairs = list(zip(calibration.scores, calibration.map_maxima, strict=True))
    values = dict(zip(listed, pairs, strict=True))
    kept = dict(facts.get(KEY, {}).get("left_out", {}))
    elsewhere = {picture.hash for picture in old.manifest.pictures if picture.role != "calibration"}
    chosen = {one.digest: one for one in job.wanted if one.digest not in elsewhere}
    if not chosen:
        predictor = Predictor(old, TorchSession.open(old, job.device))
    else:
        known = [job.before[one.number] for one in chosen.values() if one.number in job.before]
        closely = 2 * sum(score.anomalous for score in known) >= len(chosen)  # else they are typical
        how = {"check": job.check, "pool": job.pool, "device": job.device, "step": job.step}
        predictor = learnt_from(with_room(old, closely), list(chosen.values()), **how)
        new, whole = predictor.manifest.facts["calibration_pictures"], predictor.calibration
        for place in range(calibration.count, whole.count):
            kept[new[place]] = (whole.scores[place], whole.map_maxima[place])
    drawn: dict[str, tuple[float, float]] = {}
    for one in job.rest:
        digest = one.digest
        if not one.drawn or not one.good or digest in values or digest in drawn:
            continue
        if digest in kept:
            drawn[digest] = kept[digest]
        elif digest not in elsewhere:
            said = predictor.predict(one.source)
            drawn[digest] = said.score, float(said.map.max())
    scores: dict[str, float] = {}
    if not chosen and job.active.artefact is old:  # the network has not changed
        scores = {one.digest: one.before[0] for one in job.rest if one.before is not None}
    choices = [({**values, **drawn}, len(drawn)), (values, 0)][: 2 if drawn else 1]
    models = [_calibrated(predictor, old, some, kept, count, len(chosen)) for some, count in choices]
    return [(model, Judge(model, scores)) for model in models]


def learnt_from(old: Artefact, pictures: Sequence[Reviewed], **how: Any) -> Predictor:
    """The model with these pictures in its bank, and in its calibration."""
    sources, names = [one.source for one in pictures], [one.name for one in pictures]
    return partial_fit(old, sources, group=parts(old, pictures)[0], names=names, **how)


def _calibrated(
    predictor: Predictor,
    old: Artefact,
    values: Mapping[str, tuple[float, float]],
    kept: Mapping[str, tuple[float, float]],
    drawn: int,
    learnt: int,
) -> Predictor:
    """The model with these calibration scores and maxima, by the pictures' hashes."""
    before, manifest = old.manifest.calibration, predictor.manifest
    scores, maxima = zip(*values.values(), strict=True)
    of_line = len(set(values) - _of_the_fit(old))
    method = before.method.partition(";")[0]
    calibration = replace(
        predictor.calibration,
        scores=tuple(map(float, scores)),
        map_maxima=tuple(map(float, maxima)),
        method=f"{method}; {of_line} drawn from the line" if of_line else method,
    )
    threshold = (
        f"the threshold comes from good pictures as they come, {drawn} of them drawn from the line now"
        if drawn
        else "the threshold comes from the earlier calibration pictures alone"
    )
    notes = [
        f"learnt from {pluralize(learnt, 'picture')}; {threshold}: pictures that were chosen are no fair "
        "sample, and what is promised was not measured on those to come"
    ]
    known = {picture.hash for picture in manifest.pictures}
    fresh = [Picture(one, "calibration", "of the line") for one in values if one not in known]
    corrections: dict[str, Any] = {
        "left_out": {k: list(v) for k, v in kept.items()},
        "of_the_fit": sorted(_of_the_fit(old)),
    }
    if (cap := _cap(old)) is not None:
        corrections["cap"] = cap
    facts = {**manifest.facts, "calibration_pictures": list(values), KEY: corrections}
    if RADIUS in old.manifest.facts:  # of the whole bank
        pairs = zip(old.manifest.facts[RADIUS], manifest.facts[RADIUS], strict=True)
        facts[RADIUS] = [max(pair) for pair in pairs]
    ratios = {key: old.manifest.config[key] for key in RATIOS if key in old.manifest.config}
    manifest = replace(manifest, config={**manifest.config, **ratios})
    artefact = predictor.artefact
    artefact = replace(
        artefact, manifest=replace(manifest, facts=facts, pictures=(*manifest.pictures, *fresh))
    )
    return Predictor(artefact, predictor.session).with_calibration(calibration, *notes)


def _of_the_fit(old: Artefact) -> set[str]:
    """Hashes of the calibration pictures that come from no line."""
    facts = old.manifest.facts
    return set(facts.get(KEY, {}).get("of_the_fit") or facts.get("calibration_pictures", ()))


def _cap(old: Artefact) -> int | None:
    """Cap of the memory bank as it was fitted."""
    cap = old.manifest.facts.get(KEY, {}).get("cap", old.manifest.config.get("cap"))
    return None if cap is None else int(cap)


def with_room(old: Artefact, closely: bool = True) -> Artefact:
    """Returns the model with a cap that leaves room in a full bank, and, if `closely`, with a smaller
    covering radius, which lets nearer patches in."""
    manifest = replace(old.manifest, notes=tuple(n for n in old.manifest.notes if not n.startswith(OURS)))
    cap = _cap(old)
    if closely and cap is not None:
        manifest = replace(manifest, config={**manifest.config, "cap": math.ceil(ROOM * cap)})
    more = {key: min(1.0, MORE * manifest.config[key]) for key in RATIOS if manifest.config.get(key)}
    manifest = replace(manifest, config={**manifest.config, **(more if closely else {})})
    if closely and RADIUS in manifest.facts:
        radii = [CLOSER * radius for radius in manifest.facts[RADIUS]]
        manifest = replace(manifest, facts={**manifest.facts, RADIUS: radii})
    return replace(old, manifest=manifest)


def recalibrated(job: Wanted) -> Candidates:
    """Candidate with thresholds from the drawn pictures alone, which the network has not learnt from."""
    drawn = [one.source for one in job.rest if one.drawn and one.good]
    rate = job.old.manifest.calibration.rate
    needed = needed_for(rate)
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
    return [(model, Judge(model))]


def retrained(job: Wanted) -> Candidates:
    """Candidate that is trained anew; pictures learnt from are judged by trainings without them, in folds."""
    if not job.good:
        raise InputError(
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    manifest = job.old.manifest
    method = registry.method(manifest.method)
    defects = [one for one in job.rest if not one.good and one.mask] if method.takes_seen_defects else []
    taught = list({one.digest: one for one in (*job.wanted, *defects)}.values())
    numbered = zip(taught, parts(job.old, taught)[1], strict=True)
    folds = {one.digest: part % FOLDS for one, part in numbered}

    def trained(leave: int | None, name: str) -> Judge:
        seen = [(d.source, d.mask) for d in defects if d.mask and folds[d.digest] != leave]
        more = [one.source for one in job.wanted if folds[one.digest] != leave]
        job.say(f"training {name}")
        predictor = fit(
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
        return Judge(predictor)

    model = trained(None, "the model")
    others = {
        fold: trained(fold, f"without part {fold + 1} of {FOLDS}") for fold in sorted(set(folds.values()))
    }

    def known(one: Reviewed) -> Score | None:
        if one.digest not in folds:
            return model(one)
        score = others[folds[one.digest]](one)
        return None if score is None else replace(score, learnt=True)

    return [(model.predictor, known)]
