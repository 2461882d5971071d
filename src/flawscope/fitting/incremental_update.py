"""Makes the next model from a model and people's judgements of pictures, and compares both models.

`extending` (the command and Python) and the station come here. A picture that somebody chose goes into the
memory bank, not into the calibration: it is no fair sample.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.threshold import Calibration
from flawscope.datasets import open_dataset
from flawscope.errors import InputError, pluralize
from flawscope.fitting.preparation import Say, quiet
from flawscope.fitting.simulated_defects import BeforeAndAfter
from flawscope.fitting.training_pictures import Pool
from flawscope.fitting.update_evaluation import (
    SIMULATED,
    THRESHOLD,
    Judge,
    Power,
    PowerLostError,
    Reviewed,
    Score,
    Update,
    is_unlike,
)
from flawscope.fitting.updated_models import (
    Candidates,
    Wanted,
    extended,
    learnt_from,
    recalibrated,
    retrained,
    with_room,
)
from flawscope.methods import registry
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import Predictor
from flawscope.progress import Step, silent
from flawscope.runtime.torch import TorchSession

EXTENDED, RECALIBRATED, RETRAINED = "extended", "recalibrated", "retrained"
MAKES: Mapping[str, Callable[[Wanted], Candidates]]
MAKES = {EXTENDED: extended, RECALIBRATED: recalibrated, RETRAINED: retrained}
MOST_TRIED = 12  # corrections that are tried alone, and lost defects that each is tried on
HALF = 0.5  # share of a defect's loss of score: a correction that alone takes as much is responsible
MILD = 0.1  # share of the known defects that are the mildest
ALIKE = 0.75  # of a false alarm's severity: others like it were corrected where it has no more without itself


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
    """Makes the next model from a trained one, and compares both.

    PatchCore is extended by the false alarms. They do not decide the threshold because they were false
    alarms, which would be no fair sample: it comes from the earlier calibration pictures and from those that
    were drawn by chance among the line's good ones, corrected or not, each as if the model had never seen it.
    Where that would lose defects, the threshold stays as it was if that loses fewer. Other methods are
    calibrated anew on the drawn pictures, or trained anew.

    Args:
        old: the trained model that learns.
        active: the model that judges now, in the same or another engine; the next one is compared with it.
        how: extended, recalibrated or retrained; empty: as the method can.
        strict: learn from a false alarm only where two of three speak for it: it does not look like a defect,
            others like it were corrected, it was looked at twice. For versions that nobody looks at: a single
            wrong word is then not enough. Else it must not look like a defect, or be looked at twice.
        fair: somebody says that the drawn pictures are a fair sample, which is tested; they decide the
            threshold whatever is lost.
        refuse_unsure: a picture that looks like a defect is an error.
        good: files of the pictures that the model was fitted on, for a training.
        check: compare the shares of simulated defects that are found.

    Raises:
        PowerLostError: with `refuse_unsure`.
        InputError: there is nothing to learn from, or it cannot be done; the message says the remedy.
    """
    method = registry.method(old.manifest.method)
    how = how or (EXTENDED if method.extends else RECALIBRATED)
    if how == EXTENDED and not method.extends:
        raise InputError(f"{method.name} cannot be extended: recalibrate it, or train it anew")
    there, contradictory, unreadable = _usable(pictures)
    asked = Judge(active)
    before = {one.number: found for one in there if (found := asked.when_it_came(one))}
    unsure = _unsure(old, there, before, strict and how == EXTENDED, device)
    if unsure and refuse_unsure:
        named = {one.number: one.name for one in there}
        raise PowerLostError(
            f"refused: {pluralize(len(unsure), 'picture')} called good, but as far out as defects",
            [named[number] for number in sorted(unsure, key=lambda number: -before[number].severity)],
            "look again and take out what is not good, or --drop-suspects, or go on with --force",
        )
    rest = [one for one in there if one.number not in unsure]
    wanted = [one for one in rest if one.learn]
    known = {picture.hash for picture in old.manifest.pictures}
    inside = {picture.hash for picture in old.manifest.pictures if picture.role == "train"}
    new = [one for one in wanted if one.digest not in inside]
    new += [one for one in rest if one.drawn and one.digest not in known]
    if how == EXTENDED and not new and not unsure:
        raise InputError(
            "there is nothing new to learn from: no picture that the model does not know; give others"
        )
    candidates = MAKES[how](Wanted(old, active, wanted, rest, before, good, device, check, pool, say, step))
    compared = None
    if how == EXTENDED and check:
        start = active.artefact if isinstance(active.session, TorchSession) else old
        compared = BeforeAndAfter(start, candidates[0][0], device, step)
    once: dict[str, Reviewed] = {}  # copies count once
    for one in there:
        if one.number in before:
            once.setdefault(one.digest, one)
    judged = [*once.values()]
    after, predictor, power = _best(active, candidates, judged, before, compared, fair, step)
    kept = predictor is not candidates[0][0]
    inner = {picture.hash for picture in predictor.manifest.pictures}
    made = Update(
        predictor,
        how,
        power,
        before,
        after,
        learnt=[one.number for one in wanted if one.digest in inner],
        unsure=sorted(unsure),
        contradictory=contradictory,
        unreadable=unreadable,
        inside=[one.number for one in there if not one.good and one.digest in inside],
        drawn=0 if kept else sum(one.drawn for one in rest),
        kept=kept,
        clear=_clear(old),
    )
    if power.lost:
        made.responsible = _responsible(made, old, active.calibration, judged, compared, device)
    return made


def _usable(pictures: Sequence[Reviewed]) -> tuple[list[Reviewed], list[int], list[int]]:
    """Returns the usable pictures with their hashes, and the numbers of the contradictory ones (judged both
    good and defective) and of the unreadable ones."""
    there, unreadable = [], []
    words: dict[str, set[bool]] = {}
    for one in pictures:
        try:
            there.append(replace(one, digest=pixel_hash(decode(one.source, name=one.name or None))))
        except (InputError, MemoryError):
            unreadable.append(one.number)
            continue
        if one.judged:
            words.setdefault(there[-1].digest, set()).add(one.good)
    contradictory = {one.number for one in there if len(words.get(one.digest, ())) > 1}
    there = [one for one in there if one.number not in contradictory]
    return there, sorted(contradictory), sorted(unreadable)


# -------------------------------------------------------------------------------------------- wrong labels


def odd_ones(old: Artefact, pictures: Sequence[Reviewed], before: Mapping[int, Score]) -> set[int]:
    """False alarms that look like defects: those as far out as `suspicious_above` says of training pictures,
    and those that stand out more than the mildest known defects."""
    fence = old.manifest.suspicious_above
    known = [before[one.number] for one in pictures if not one.good and one.number in before]
    found = [score.severity for score in known if score.anomalous]
    mild = float(np.quantile(found, MILD)) if found else math.inf
    return {
        one.number
        for one in pictures
        if one.learn
        and (score := before.get(one.number)) is not None
        and ((fence is not None and score.score > fence) or score.severity >= mild)
    }


def _unsure(
    old: Artefact, there: Sequence[Reviewed], before: Mapping[int, Score], strict: bool, device: str
) -> set[int]:
    """Numbers of the false alarms that the model must not learn from.

    strict: also those for which fewer than two of three reasons speak: the picture is not odd, it was looked
        at twice, others like it were corrected. The last is so where the picture stands out less with the
        others in the bank and itself left out.
    """
    odd = odd_ones(old, there, before)
    unsure = {one.number for one in there if one.number in odd and not one.sure}
    wanted = [one for one in there if one.learn and one.number not in unsure]
    if not strict or not wanted:
        return unsure
    several = list({one.digest: one for one in wanted}.values())
    model, known = learnt_from(with_room(old), several, device=device, check=False), old.manifest.calibration
    new = model.manifest.facts["calibration_pictures"][known.count :]
    severities = known.severity(np.array(model.calibration.scores[known.count :]))
    left_out = dict(zip(new, map(float, severities), strict=True))
    for one in wanted:
        score = before.get(one.number)
        alike = score is not None and left_out.get(one.digest, 0.0) <= ALIKE * score.severity
        if (one.number not in odd) + one.sure + alike < 2:
            unsure.add(one.number)
    return unsure


# --------------------------------------------------------------------------------------------- which is best


def _clear(old: Artefact) -> float | None:
    fence = old.manifest.suspicious_above
    severity = None if fence is None else float(old.manifest.calibration.severity(fence))
    return None if severity is None or severity <= 0 else severity  # the threshold has risen above the fence


def _lost(
    judged: Sequence[Reviewed], before: Mapping[int, Score], after: Mapping[int, Score]
) -> list[Reviewed]:
    """Known defects that the new model no longer finds."""
    defects = [one for one in judged if not one.good and one.number in after]
    return [one for one in defects if before[one.number].anomalous and not after[one.number].anomalous]


def _best(
    active: Predictor,
    candidates: Candidates,
    judged: Sequence[Reviewed],
    before: Mapping[int, Score],
    compared: BeforeAndAfter | None,
    fair: bool,
    step: Step,
) -> tuple[dict[int, Score], Predictor, Power]:
    """Chooses the first candidate that loses nothing, else the one that loses least, and returns its scores
    of the pictures, the model, and the defects that it finds. fair: the first candidate is chosen whatever it
    loses."""
    found = []
    for model, known in candidates[: 1 if fair else None]:
        after = {}
        for done, one in enumerate(judged):
            step("judging", done, len(judged))
            if (score := known(one)) is not None:
                after[one.number] = score
        drawn = [after[one.number].score for one in judged if one.drawn and one.number in after]
        defects = [one.number for one in judged if not one.good and one.number in after]
        of_known = (sum(scores[number].anomalous for number in defects) for scores in (before, after))
        was, becomes = active.calibration, model.calibration
        power = Power(
            known=(*of_known, len(defects)),  # type: ignore[arg-type]
            simulated=None if compared is None else compared.found(was, becomes),
            thresholds=(was.score_threshold, becomes.score_threshold),
            unlike=fair and is_unlike(was, drawn),
        )
        lost = len(_lost(judged, before, after))
        if compared is not None and SIMULATED in power.lost:
            lost += len(compared.lost(was, becomes))
        found.append((lost, after, model, power))
        if not lost:
            break
    step("judging", len(judged), len(judged))
    return min(found, key=lambda one: one[0])[1:]


def _responsible(
    made: Update,
    old: Artefact,
    was: Calibration,
    judged: Sequence[Reviewed],
    compared: BeforeAndAfter | None,
    device: str,
) -> list[int]:
    """Numbers of the corrections that cause a loss: those that alone take half of what a lost defect's score
    has lost, farthest out first, and fair pictures that raise the threshold; if there are none, all
    corrections."""
    learnt = [one for one in judged if one.number in made.learnt]
    learnt.sort(key=lambda one: -made.before[one.number].severity)
    becomes = made.predictor.calibration
    raised = becomes.score_threshold > was.score_threshold or THRESHOLD in made.power.lost
    above = [one for one in learnt if one.drawn and was.is_anomalous(made.after[one.number].score)]
    found = {one.number for one in above} if raised else set[int]()

    def scored(one: Reviewed, model: Predictor) -> float:
        return model.predict(one.source).score

    lost: list[tuple[Callable[[Predictor], float], float, float]] = [
        (partial(scored, one), made.before[one.number].score, made.after[one.number].score)
        for one in _lost(judged, made.before, made.after)[:MOST_TRIED]
    ]
    if compared is not None:
        for number in compared.lost(was, becomes)[:MOST_TRIED]:
            lost.append((partial(compared.score, number=number), *compared.scores[number]))
    for one in learnt[:MOST_TRIED] if made.how == EXTENDED and len(learnt) > 1 else []:
        alone = learnt_from(with_room(old), [one], device=device, check=False)
        if any(b > a and b - score(alone) >= HALF * (b - a) for score, b, a in lost):
            found.add(one.number)
    return [one.number for one in learnt if one.number in found] or [one.number for one in learnt]


def files_in(folder: str | os.PathLike[str], category: str | None = None) -> list[str]:
    """Good training pictures of a data set in any layout, or of a plain folder. InputError if there are
    none."""
    return [os.fspath(item.path) for item in open_dataset(os.fspath(folder), category or None).train]
