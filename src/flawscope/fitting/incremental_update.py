"""The next model from a model and from what people said of pictures since, judged beside the model before.

`extending` (the command and Python) and the station come here. A picture that somebody chose goes into the
memory bank, not into the calibration: it is no fair sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.decision import Calibration
from flawscope.datasets import open_dataset
from flawscope.errors import InputError
from flawscope.fitting.label_noise import odd_ones, unsupported
from flawscope.fitting.preparation import Say, quiet
from flawscope.fitting.remote_workers import Pool
from flawscope.fitting.reviewed import Judge, Reviewed, Score, hashes_of, score_of
from flawscope.fitting.simulated_defects import BeforeAndAfter
from flawscope.fitting.update_evaluation import (
    SIMULATED,
    THRESHOLD,
    Power,
    PowerLostError,
    Update,
    is_unlike,
)
from flawscope.fitting.updated_models import Made, extended, learnt_from, recalibrated, retrained, with_room
from flawscope.methods import registry
from flawscope.pictures.decoding import Source
from flawscope.predictor import Predictor
from flawscope.progress import Step, counted, silent
from flawscope.runtime.torch import TorchSession

EXTENDED, RECALIBRATED, RETRAINED = "extended", "recalibrated", "retrained"
MOST_TRIED = 12  # corrections that are tried alone, and lost defects that each is tried on
HALF = 0.5  # of what a defect's score has lost: a correction that alone takes so much is responsible


def update(
    old: Artefact,
    active: Predictor,
    pictures: Sequence[Reviewed],
    *,
    how: str = "",
    strict: bool = False,
    fair: bool = False,
    refuse_unsure: bool = False,
    good: Sequence[str] = (),
    device: str = "auto",
    check: bool = True,
    pool: Pool | None = None,
    say: Say = quiet,
    step: Step = silent,
) -> Update:
    """Make the next model of a trained one and judge it.

    PatchCore is extended by the false alarms. They do not decide the threshold because they were false
    alarms, which would be no fair sample: it comes from the earlier calibration pictures and from those that
    were drawn by chance among the line's good ones, corrected or not, each as if the model had never seen it.
    Where that would lose defects, the threshold stays as it was if that loses fewer. Other methods are
    calibrated anew on the drawn pictures, or trained anew.

    Args:
        old: the trained model that learns.
        active: the one that judges now, of the same or of another engine; what the next one is compared with.
        how: extended, recalibrated or retrained; empty: as the method can.
        strict: learn from a false alarm only where two of three speak for it: it does not look like a defect,
            others like it were corrected, it was looked at twice. For versions that nobody looks at: a single
            wrong word is then not enough. Else it must not look like a defect, or be looked at twice.
        fair: somebody says that the drawn pictures are a fair sample, which is tested; they decide the
            threshold whatever is lost.
        refuse_unsure: a picture that looks like a defect is an error.
        good: files of the pictures that the model was fitted on, for a training.
        check: compare what is found of simulated defects.

    Raises:
        PowerLostError: with `refuse_unsure`.
        InputError: there is nothing to learn from, or it cannot be done; the message says the remedy.
    """
    method = registry.method(old.manifest.method)
    how = how or (EXTENDED if method.extends else RECALIBRATED)
    if how == EXTENDED and not method.extends:
        raise InputError(f"{method.name} cannot be extended: recalibrate it, or train it anew")
    there, hashes, before, contradictory, unreadable = _usable(active, pictures)
    inside = {picture.hash for picture in old.manifest.pictures if picture.role == "train"}
    unsure = _unsure(old, there, before, hashes, strict and how == EXTENDED, device)
    if unsure and refuse_unsure:
        named = {one.number: one.name for one in there}
        raise PowerLostError(
            f"refused: {counted(len(unsure), 'picture')} called good, but as far out as defects",
            [named[number] for number in sorted(unsure, key=lambda number: -before[number].severity)],
            "look again and take out what is not good, or --drop-suspects, or go on with --force",
        )
    wanted = [one for one in there if one.learn and one.number not in unsure]
    rest = [one for one in there if one.number not in unsure]
    of_old = {picture.hash for picture in old.manifest.pictures}
    fresh = [one for one in rest if one.drawn and hashes[one.number] not in of_old]
    new = [one for one in wanted if hashes[one.number] not in inside]
    if how == EXTENDED and not new and not fresh and not unsure:
        raise InputError(
            "there is nothing new to learn from: no picture that the model does not know; give others"
        )
    makes: dict[str, Callable[..., Made]]
    makes = {EXTENDED: extended, RECALIBRATED: recalibrated, RETRAINED: retrained}
    several = makes[how](
        old,
        active,
        wanted,
        rest,
        hashes,
        before=before,
        check=check,
        pool=pool,
        good=good,
        device=device,
        say=say,
        step=step,
    )
    compared = None
    if how == EXTENDED and check:
        start = active.artefact if isinstance(active.session, TorchSession) else old
        compared = BeforeAndAfter(start, several[0][0], device, step)
    judge = list({hashes[one.number]: one for one in reversed(there) if one.number in before}.values())
    judge.reverse()  # copies count once
    after, predictor, power = _best(active, several, judge, before, compared, fair, step)
    kept = predictor is not several[0][0]
    inner = {picture.hash for picture in predictor.manifest.pictures}
    made = Update(
        predictor,
        how,
        power,
        before,
        after,
        learnt=[one.number for one in wanted if hashes[one.number] in inner],
        unsure=sorted(unsure),
        contradictory=sorted(contradictory),
        unreadable=sorted(unreadable),
        inside=[one.number for one in there if not one.good and hashes[one.number] in inside],
        drawn=0 if kept else sum(one.drawn for one in rest),
        kept=kept,
        clear=_clear(old),
    )
    if power.lost:
        made.responsible = _responsible(made, old, active.calibration, judge, compared, device)
    return made


def doubtful(
    old: Artefact,
    active: Predictor,
    pictures: Sequence[Reviewed],
    *,
    strict: bool = False,
    device: str = "auto",
) -> list[int]:
    """The false alarms that `update` would not learn from until they were looked at twice."""
    there, hashes, before, *_ = _usable(active, pictures)
    return sorted(_unsure(old, there, before, hashes, strict, device))


def _usable(
    active: Predictor, pictures: Sequence[Reviewed]
) -> tuple[list[Reviewed], dict[int, str], dict[int, Score], set[int], Collection[int]]:
    """Those that can be used, hashes, and what the active model says of them; numbers of contradictory and of
    unreadable ones."""
    hashes, unreadable = hashes_of(pictures)
    there = [one for one in pictures if one.number in hashes]
    contradictory = _contradictory(there, hashes)
    there = [one for one in there if one.number not in contradictory]
    judge = Judge(active)
    before = {one.number: found for one in there if (found := _before(judge, one, hashes[one.number]))}
    return there, hashes, before, contradictory, unreadable


def _unsure(
    old: Artefact,
    there: Sequence[Reviewed],
    before: Mapping[int, Score],
    hashes: Mapping[int, str],
    strict: bool,
    device: str,
) -> set[int]:
    odd = odd_ones(old, there, before)
    unsure = {one.number for one in there if one.number in odd and not one.sure}
    wanted = [one for one in there if one.learn and one.number not in unsure]
    if strict and wanted:
        several = list({hashes[one.number]: one for one in wanted}.values())
        model = learnt_from(with_room(old), several, device=device, check=False)
        known = old.manifest.calibration.count
        new = model.manifest.facts["calibration_pictures"][known:]
        severities = old.manifest.calibration.severity(np.array(model.calibration.scores[known:]))
        left_out = dict(zip(new, map(float, severities), strict=True))
        numbers = {one.number: left_out.get(hashes[one.number], 0.0) for one in wanted}
        unsure |= unsupported(wanted, before, odd, numbers)
    return unsure


def _clear(old: Artefact) -> float | None:
    fence = old.manifest.suspicious_above
    severity = None if fence is None else float(old.manifest.calibration.severity(fence))
    return None if severity is None or severity <= 0 else severity  # the threshold has risen above the fence


def _lost(
    judge: Sequence[Reviewed], before: Mapping[int, Score], after: Mapping[int, Score]
) -> list[Reviewed]:
    """Known defects that are not found any more."""
    return [
        one
        for one in judge
        if not one.good
        and one.number in after
        and before[one.number].anomalous
        and not after[one.number].anomalous
    ]


def _best(
    active: Predictor,
    several: Made,
    judge: Sequence[Reviewed],
    before: Mapping[int, Score],
    compared: BeforeAndAfter | None,
    fair: bool,
    step: Step,
) -> tuple[dict[int, Score], Predictor, Power]:
    """The first of several models that loses nothing, else the one that loses least: what it says of the
    pictures, and what it finds. What is said to be a fair sample has no alternative."""
    found = []
    for model, known in several[: 1 if fair else None]:
        after = {}
        for done, one in enumerate(judge):
            step("judging", done, len(judge))
            if (score := known(one)) is not None:
                after[one.number] = score
        drawn = [after[one.number].score for one in judge if one.drawn and one.number in after]
        was, becomes = active.calibration, model.calibration
        power = Power(
            known=_found(judge, before, after),
            simulated=None if compared is None else compared.found(was, becomes),
            thresholds=(was.score_threshold, becomes.score_threshold),
            unlike=fair and is_unlike(was, drawn),
        )
        lost = len(_lost(judge, before, after))
        if compared is not None and SIMULATED in power.lost:
            lost += len(compared.lost(was, becomes))
        found.append((lost, after, model, power))
        if not lost:
            break
    step("judging", len(judge), len(judge))
    return min(found, key=lambda one: one[0])[1:]


def _found(
    judge: Sequence[Reviewed], before: Mapping[int, Score], after: Mapping[int, Score]
) -> tuple[int, int, int]:
    """Known defects that are found before and after, and how many there are."""
    defects = [one.number for one in judge if not one.good and one.number in after]
    was, becomes = (sum(scores[number].anomalous for number in defects) for scores in (before, after))
    return was, becomes, len(defects)


def _responsible(
    made: Update,
    old: Artefact,
    was: Calibration,
    judge: Sequence[Reviewed],
    compared: BeforeAndAfter | None,
    device: str,
) -> list[int]:
    """Corrections that alone take half of what a lost defect's score has lost, farthest out first, and fair
    ones that raise the threshold; all of them where none is it."""
    learnt = [one for one in judge if one.number in made.learnt]
    learnt.sort(key=lambda one: -made.before[one.number].severity)
    becomes = made.predictor.calibration
    raised = becomes.score_threshold > was.score_threshold or THRESHOLD in made.power.lost
    above = [one for one in learnt if one.drawn and was.is_anomalous(made.after[one.number].score)]
    found = {one.number for one in above} if raised else set[int]()
    known = [
        (partial(_score, one.source), made.before[one.number].score, made.after[one.number].score)
        for one in _lost(judge, made.before, made.after)[:MOST_TRIED]
    ]
    simulated = [
        (partial(compared.score, number=number), *compared.scores[number])
        for number in ([] if compared is None else compared.lost(was, becomes)[:MOST_TRIED])
        if compared is not None
    ]
    tried = learnt[:MOST_TRIED] if made.how == EXTENDED and len(learnt) > 1 else []
    for one in tried:
        alone = learnt_from(with_room(old), [one], device=device, check=False)
        if any(
            after < before and before - score(alone) >= HALF * (before - after)
            for score, before, after in (*known, *simulated)
        ):
            found.add(one.number)
    return [one.number for one in learnt if one.number in found] or [one.number for one in learnt]


def _score(source: Source, model: Predictor) -> float:
    return model.predict(source).score


def _contradictory(pictures: Sequence[Reviewed], hashes: Mapping[int, str]) -> set[int]:
    """Those whose pixels somebody called good and somebody a defect."""
    words: dict[str, set[bool]] = {}
    for one in pictures:
        if one.judged:
            words.setdefault(hashes[one.number], set()).add(one.good)
    return {one.number for one in pictures if len(words.get(hashes[one.number], ())) > 1}


def _before(judge: Judge, one: Reviewed, digest: str) -> Score | None:
    """What the active model said of a picture when it came, else what it says of it as if it had never learnt
    from it."""
    if not one.judged:
        return None
    if one.before is None or digest in judge.inside:
        return judge(one.source, digest)
    score, threshold = one.before
    return replace(score_of(judge.predictor.calibration, score), threshold=threshold)


def files_in(folder: str | os.PathLike[str], category: str | None = None) -> list[str]:
    """The good training pictures of a data set in any layout, or of a plain folder. InputError."""
    return [os.fspath(item.path) for item in open_dataset(os.fspath(folder), category or None).train]
