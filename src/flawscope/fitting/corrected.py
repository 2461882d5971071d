"""The next model from a model and from what people said of pictures since, and its scores of pictures as if it
had never learnt from them."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flawscope.artefact.model_file import Artefact, Picture
from flawscope.calibration.decision import Calibration
from flawscope.datasets import group_numbers, open_dataset
from flawscope.errors import InputError
from flawscope.fitting.fitting import extend, fit
from flawscope.fitting.preparation import Say, quiet
from flawscope.methods import registry
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import Predictor
from flawscope.progress import Step, counted, silent
from flawscope.runtime.torch import TorchSession

KEY = "corrections"  # among a model's facts
ROOM = 1.25  # a full memory bank may grow so many times beyond its cap, for what was corrected
FOLDS = 2  # of corrections, where a method is trained anew
EXTENDED, RECALIBRATED, RETRAINED = "extended", "recalibrated", "retrained"
MILD = 0.1  # share of the known defects that are the mildest
OURS = ("learnt from ", "extended by ")  # notes that only the last of several says


@dataclass(frozen=True)
class Reviewed:
    """A picture, and what a person said of it.

    number: of the inspection. source: the picture's file. name: as its sender calls it, for groups.
    learn: a false alarm, from which the model is to learn. sure: it was looked at twice.
    drawn: one of the line's good pictures, drawn by chance, whatever the model said of them.
    judged: somebody said what it is; else it is only drawn.
    mask: a file that marks the defect; for methods that learn from defects.
    before: score and threshold of the active model, where it has said so; None: it is asked.
    """

    number: int
    source: str
    good: bool
    name: str = ""
    learn: bool = False
    sure: bool = False
    drawn: bool = False
    judged: bool = True
    mask: str | None = None
    before: tuple[float, float] | None = None


@dataclass(frozen=True)
class Score:
    """Of a picture as if the model had never learnt from it, beside the threshold that the other pictures
    give. p_value: the least false-alarm rate at which it is called anomalous. learnt: it was left out."""

    score: float
    threshold: float
    p_value: float
    severity: float
    learnt: bool = False

    @property
    def anomalous(self) -> bool:
        return not self.score <= self.threshold


@dataclass
class Corrected:
    """The next model, and what was found on the way; numbers are those of the inspections.

    before, after: what the active model and the next one say of the pictures that were judged.
    learnt: what the model learnt from. unsure: "good" ones that look like known defects, not learnt from.
    contradictory: others have the same pixels and another verdict. unreadable: their pictures cannot be used.
    inside: defects that the model has learnt from as good ones, which only a new fit takes out.
    drawn: how many good pictures of the line the threshold comes from, beside the earlier ones.
    kept: the threshold stayed as it was, for with the drawn ones more known defects would be lost.
    """

    predictor: Predictor
    how: str
    before: dict[int, Score] = field(default_factory=dict)
    after: dict[int, Score] = field(default_factory=dict)
    learnt: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)
    drawn: int = 0
    kept: bool = False


def corrected(
    old: Artefact,
    active: Predictor,
    pictures: Sequence[Reviewed],
    *,
    how: str = "",
    good: Sequence[str] = (),
    device: str = "auto",
    say: Say = quiet,
    step: Step = silent,
) -> Corrected:
    """Make the next model of a trained one and judge it.

    PatchCore is extended by the false alarms. They do not decide the threshold because they were false
    alarms, which would be no fair sample: it comes from the earlier calibration pictures and from those that
    were drawn by chance among the line's good ones, corrected or not, each as if the model had never seen it.
    Where that would lose known defects, the threshold stays as it was if that loses fewer. Other methods are calibrated anew on the drawn pictures, or trained anew.

    Args:
        old: the trained model that learns.
        active: the one that judges now, of the same or of another engine; what the next one is compared with.
        how: extended, recalibrated or retrained; empty: as the method can.
        good: files of the pictures that the model was fitted on, for a training.

    Raises:
        InputError: there is nothing to learn from, or it cannot be done; the message says the remedy.
    """
    method = registry.method(old.manifest.method)
    how = how or (EXTENDED if method.extends else RECALIBRATED)
    if how == EXTENDED and not method.extends:
        raise InputError(f"{method.name} cannot be extended: recalibrate it, or train it anew")
    hashes, unreadable = _hashes(pictures)
    there = [one for one in pictures if one.number in hashes]
    contradictory = _contradictory(there, hashes)
    there = [one for one in there if one.number not in contradictory]
    before = {one.number: found for one in there if (found := _before(active, one, hashes[one.number]))}
    inside = {picture.hash for picture in old.manifest.pictures if picture.role == "train"}
    unsure = _unsure(old, there, before)
    wanted = [one for one in there if one.learn and one.number not in unsure]
    rest = [one for one in there if one.number not in unsure]
    make = {EXTENDED: _extended, RECALIBRATED: _recalibrated, RETRAINED: _retrained}[how]
    several = make(old, active, wanted, rest, hashes, good=good, device=device, say=say, step=step)
    judge = list({hashes[one.number]: one for one in reversed(there) if one.number in before}.values())
    judge.reverse()  # copies count once
    best: tuple[int, dict[int, Score], Predictor] | None = None
    for predictor, known in several:
        after = {}
        for done, one in enumerate(judge):
            step("judging", done, len(judge))
            if (score := known(one)) is not None:
                after[one.number] = score
        lost = _lost(judge, before, after)
        if best is None or lost < best[0]:
            best = lost, after, predictor
        if not best[0]:
            break
    assert best is not None
    _, after, predictor = best
    kept = predictor is not several[0][0]
    step("judging", len(judge), len(judge))
    fresh = {picture.hash for picture in predictor.manifest.pictures}
    return Corrected(
        predictor,
        how,
        before,
        after,
        learnt=[one.number for one in wanted if hashes[one.number] in fresh],
        unsure=sorted(unsure),
        contradictory=sorted(contradictory),
        unreadable=unreadable,
        inside=[one.number for one in there if not one.good and hashes[one.number] in inside],
        drawn=0 if kept else sum(one.drawn for one in rest),
        kept=kept,
    )


def judged(predictor: Predictor, source: str, digest: str, known: dict[str, float] | None = None) -> Score | None:
    """What a model says of a picture as if it had never learnt from it; None where it cannot say so.

    A picture of the calibration is compared with the threshold that the others give.

    Args:
        known: scores by hash that the network gave before; new ones are added.
    """
    manifest, calibration = predictor.manifest, predictor.calibration
    places = {hash_: i for i, hash_ in enumerate(manifest.facts.get("calibration_pictures", ()))}
    if (at := places.get(digest)) is not None and at < calibration.count:
        return _score(_without(calibration, at), calibration.scores[at], learnt=True)
    kept = manifest.facts.get(KEY, {}).get("left_out", {})
    if digest in kept:
        return _score(calibration, kept[digest][0], learnt=True)
    if digest in _inside(predictor.artefact):
        return None
    known = {} if known is None else known
    if digest not in known:
        known[digest] = predictor.predict(source).score
    return _score(calibration, known[digest])


def _inside(artefact: Artefact) -> set[str]:
    """Hashes of the pictures that a model has learnt from, or that it keeps for other things than its
    calibration."""
    return {picture.hash for picture in artefact.manifest.pictures if picture.role != "calibration"}


def _lost(judge: Sequence[Reviewed], before: Mapping[int, Score], after: Mapping[int, Score]) -> int:
    """How many known defects are not found any more."""
    return sum(
        not one.good and before[one.number].anomalous and not after[one.number].anomalous
        for one in judge
        if one.number in after
    )


# ------------------------------------------------------------------------------------------- what it is made of

Known = Callable[[Reviewed], Score | None]
Made = list[tuple[Predictor, Known]]  # the first choice first


def _extended(
    old: Artefact,
    active: Predictor,
    wanted: Sequence[Reviewed],
    rest: Sequence[Reviewed],
    hashes: Mapping[int, str],
    *,
    device: str,
    say: Say,
    step: Step,
    **_: Any,
) -> Made:
    roles = {picture.hash: picture.role for picture in old.manifest.pictures}
    chosen = {
        hashes[one.number]: one for one in wanted if roles.get(hashes[one.number], "calibration") == "calibration"
    }
    if not chosen and not any(one.drawn and hashes[one.number] not in roles for one in rest):
        raise InputError(
            "there is nothing new to learn from: no false alarm that is not known, and no new good picture"
        )
    before = old.manifest.calibration
    listed = [str(one) for one in old.manifest.facts.get("calibration_pictures", ())]
    values = {
        digest: (score, maximum)
        for digest, score, maximum in zip(listed, before.scores, before.map_maxima, strict=True)
    }
    kept = dict(old.manifest.facts.get(KEY, {}).get("left_out", {}))
    if not chosen:
        predictor = Predictor(old, TorchSession.open(old, device))
    else:
        with _grouped(old, list(chosen.values())) as (sources, group):
            predictor = extend(
                _with_room(old), sources, group=group, device=device, check=False, say=say, step=step
            )
        new, whole = predictor.manifest.facts["calibration_pictures"], predictor.calibration
        for place in range(before.count, whole.count):
            kept[new[place]] = (whole.scores[place], whole.map_maxima[place])
    drawn: dict[str, tuple[float, float]] = {}
    for one in rest:
        digest = hashes[one.number]
        if not one.drawn or not one.good or digest in values or digest in drawn:
            continue
        if digest in kept:
            drawn[digest] = kept[digest]
        elif roles.get(digest, "calibration") == "calibration":
            said = predictor.predict(one.source)
            drawn[digest] = said.score, float(said.map.max())
    scores: dict[str, float] = {}

    def made(chosen_values: dict[str, tuple[float, float]], count: int) -> tuple[Predictor, Known]:
        model = _calibrated(predictor, old, chosen_values, kept, count, len(chosen))
        return model, lambda one: judged(model, one.source, hashes[one.number], scores)

    found = [made({**values, **drawn}, len(drawn))]
    return [*found, made(values, 0)] if drawn else found


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
        f"learnt from {counted(learnt, 'corrected picture')}; {threshold}: pictures that were corrected are no "
        "fair sample, and what is promised was not measured on those to come"
    ]
    known = {picture.hash for picture in manifest.pictures}
    fresh = [Picture(one, "calibration", "of the line") for one in values if one not in known]
    corrections: dict[str, Any] = {"left_out": {k: list(v) for k, v in kept.items()}, "of_the_fit": sorted(_of_the_fit(old))}
    if (cap := _cap(old)) is not None:
        corrections["cap"] = cap
    facts = {**manifest.facts, "calibration_pictures": list(values), KEY: corrections}
    artefact = predictor.artefact
    artefact = replace(
        artefact, manifest=replace(manifest, facts=facts, pictures=(*manifest.pictures, *fresh))
    )
    return Predictor(artefact, predictor.session).with_calibration(calibration, *notes)


def _of_the_fit(old: Artefact) -> set[str]:
    """The calibration pictures that come from no line."""
    facts = old.manifest.facts
    return set(facts.get(KEY, {}).get("of_the_fit") or facts.get("calibration_pictures", ()))


def _recalibrated(
    old: Artefact,
    active: Predictor,
    wanted: Sequence[Reviewed],
    rest: Sequence[Reviewed],
    hashes: Mapping[int, str],
    *,
    step: Step,
    **_: Any,
) -> Made:
    """Thresholds from the drawn pictures alone: the network says of them what it would say of any."""
    drawn = [one.source for one in rest if one.drawn and one.good]
    needed = math.ceil(1 / old.manifest.calibration.rate - 1e-9) - 1
    if len(drawn) < needed:
        raise InputError(
            f"{counted(len(drawn), 'good picture')} of the line can calibrate, {needed} are needed for "
            f"{old.manifest.calibration.rate:.1%}: inspect and review more"
        )
    model = active.calibrate(drawn, step)
    if model.calibration.count < needed:
        raise InputError(
            f"only {counted(model.calibration.count, 'drawn picture')} can calibrate, the others are copies or "
            f"were learnt from; {needed} are needed: inspect and review more"
        )
    return [(model, lambda one: judged(model, one.source, hashes[one.number]))]


def _retrained(
    old: Artefact,
    active: Predictor,
    wanted: Sequence[Reviewed],
    rest: Sequence[Reviewed],
    hashes: Mapping[int, str],
    *,
    good: Sequence[str],
    device: str,
    say: Say,
    step: Step,
) -> Made:
    """A new training; what it learnt from is judged by trainings that did not see it, one for each fold."""
    if not good:
        raise InputError(
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    method = registry.method(old.manifest.method)
    defects = [one for one in rest if not one.good and one.mask] if method.takes_seen_defects else []
    taught = list({hashes[one.number]: one for one in (*wanted, *defects)}.values())
    parts = zip(taught, _parts(old, taught), strict=True)
    folds = {hashes[one.number]: part % FOLDS for one, part in parts}

    def trained(leave: int | None, name: str) -> Predictor:
        seen = [(d.source, d.mask) for d in defects if folds[hashes[d.number]] != leave]
        more = [one.source for one in wanted if folds[hashes[one.number]] != leave]
        say(f"training {name}")
        return fit(
            [*good, *more],
            method=method.name,
            category=old.manifest.category or None,
            false_alarm_rate=old.manifest.calibration.rate,
            seen=seen if seen else 0,
            device=device,
            check=False,
            say=say,
            step=lambda stage, done, total: step(f"{name}: {stage}", done, total),
            **{k: v for k, v in old.manifest.config.items() if v is not None},
        )

    model = trained(None, "the model")
    others = {
        fold: trained(fold, f"without part {fold + 1} of {FOLDS}") for fold in sorted(set(folds.values()))
    }

    def known(one: Reviewed) -> Score | None:
        digest = hashes[one.number]
        if digest not in folds:
            return judged(model, one.source, digest)
        score = judged(others[folds[digest]], one.source, digest)
        return None if score is None else replace(score, learnt=True)

    return [(model, known)]


# --------------------------------------------------------------------------------------------------- pictures


def _hashes(pictures: Sequence[Reviewed]) -> tuple[dict[int, str], list[int]]:
    """Of decoded pixels, by number; and the numbers of pictures that cannot be read."""
    found, unreadable = {}, []
    for one in pictures:
        try:
            found[one.number] = pixel_hash(decode(one.source))
        except (InputError, MemoryError):
            unreadable.append(one.number)
    return found, unreadable


def _contradictory(pictures: Sequence[Reviewed], hashes: Mapping[int, str]) -> set[int]:
    """Those whose pixels somebody called good and somebody a defect."""
    words: dict[str, set[bool]] = {}
    for one in pictures:
        if one.judged:
            words.setdefault(hashes[one.number], set()).add(one.good)
    return {one.number for one in pictures if len(words.get(hashes[one.number], ())) > 1}


def _before(active: Predictor, one: Reviewed, digest: str) -> Score | None:
    """What the active model said of a picture when it came, else what it says of it as if it had never learnt
    from it."""
    if not one.judged:
        return None
    if one.before is None or digest in _inside(active.artefact):
        return judged(active, one.source, digest)
    score, threshold = one.before
    calibration = active.calibration
    found = _score(calibration, score)
    return replace(found, threshold=threshold)


def looks_defective(old: Artefact, active: Predictor, pictures: Sequence[Reviewed]) -> list[int]:
    """The false alarms that `corrected` would leave out until they are looked at twice."""
    hashes, _ = _hashes(pictures)
    there = [one for one in pictures if one.number in hashes]
    before = {one.number: found for one in there if (found := _before(active, one, hashes[one.number]))}
    return sorted(_unsure(old, there, before))


def _unsure(old: Artefact, pictures: Sequence[Reviewed], before: Mapping[int, Score]) -> set[int]:
    """False alarms that look like defects, and that nobody has looked at twice: those as far out as
    `suspicious_above` says of training pictures, and those that stand out more than the mildest known
    defects."""
    fence = old.manifest.facts.get("suspicious_above")
    found = [
        before[one.number].severity
        for one in pictures
        if not one.good and one.number in before and before[one.number].anomalous
    ]
    mild = float(np.quantile(found, MILD)) if found else math.inf
    unsure = set()
    for one in pictures:
        if not one.learn or one.sure or (score := before.get(one.number)) is None:
            continue
        if (fence is not None and score.score > fence) or score.severity >= mild:
            unsure.add(one.number)
    return unsure


def _cap(old: Artefact) -> int | None:
    """Of the memory bank as it was fitted."""
    cap = old.manifest.facts.get(KEY, {}).get("cap", old.manifest.config.get("cap"))
    return None if cap is None else int(cap)


def _with_room(old: Artefact) -> Artefact:
    """With a cap that leaves room in a bank that is full. What is new enough to enter is decided by the
    covering radius, as ever."""
    manifest = replace(old.manifest, notes=tuple(n for n in old.manifest.notes if not n.startswith(OURS)))
    cap = _cap(old)
    if cap is not None:
        manifest = replace(manifest, config={**manifest.config, "cap": math.ceil(ROOM * cap)})
    return replace(old, manifest=manifest)


@contextmanager
def _grouped(old: Artefact, pictures: Sequence[Reviewed]) -> Iterator[tuple[list[str], str | None]]:
    """Files of the pictures, and the pattern by which those that show one part are left out together: a store
    calls its files by their content, so that they get their senders' names here."""
    group = old.manifest.facts.get("group")
    sources = [one.source for one in pictures]
    if group is None or not _fits(group, pictures):
        yield sources, None
        return
    with tempfile.TemporaryDirectory(prefix="flawscope-") as folder:
        named = []
        for one in pictures:
            path = Path(folder, str(one.number), Path(one.name).name or "picture")
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(one.source, path)
            named.append(str(path))
        yield named, group


def _fits(group: str, pictures: Sequence[Reviewed]) -> bool:
    try:
        group_numbers([one.name for one in pictures], group)
    except InputError:
        return False
    return True


def _parts(old: Artefact, pictures: Sequence[Reviewed]) -> list[int]:
    """A number for each picture; those of one part share it."""
    group = old.manifest.facts.get("group")
    known = group if group is not None and _fits(group, pictures) else None
    return group_numbers([one.name for one in pictures], known)


def _without(calibration: Calibration, place: int) -> Calibration:
    """The calibration of the other pictures; itself where there is no other."""
    if calibration.count == 1:
        return calibration
    scores, maxima = (
        values[:place] + values[place + 1 :] for values in (calibration.scores, calibration.map_maxima)
    )
    return replace(calibration, scores=scores, map_maxima=maxima)


def _score(calibration: Calibration, score: float, learnt: bool = False) -> Score:
    return Score(
        float(score),
        calibration.score_threshold,
        float(calibration.p_values(score)),
        float(calibration.severity(score)),
        learnt,
    )


def files_in(folder: str | os.PathLike[str], category: str | None = None) -> list[str]:
    """The good training pictures of a data set in any layout, or all pictures of a plain folder. InputError."""
    return [os.fspath(item.path) for item in open_dataset(os.fspath(folder), category or None).train]
