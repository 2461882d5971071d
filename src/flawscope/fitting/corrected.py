"""The next model from a model and from what people said of pictures since, judged on these pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flawscope.artefact.model_file import Artefact
from flawscope.datasets import open_dataset
from flawscope.errors import InputError
from flawscope.fitting.corrections import Made, extended, recalibrated, retrained
from flawscope.fitting.doubts import alone, odd_ones
from flawscope.fitting.preparation import Say, quiet
from flawscope.fitting.reviewed import Judge, Reviewed, Score, hashes_of, score_of
from flawscope.methods import registry
from flawscope.predictor import Predictor
from flawscope.progress import Step, silent

EXTENDED, RECALIBRATED, RETRAINED = "extended", "recalibrated", "retrained"


@dataclass
class Corrected:
    """The next model, and what was found on the way; numbers are those of the inspections.

    before, after: what the active model and the next one say of the pictures that were judged.
    learnt: what the model learnt from. unsure: "good" ones that look like known defects, not learnt from.
    contradictory: others have the same pixels and another verdict. unreadable: their pictures cannot be used.
    inside: defects that the model has learnt from as good ones, which only a new fit takes out.
    drawn: how many good pictures of the line the threshold comes from, beside the earlier ones.
    kept: the threshold stayed as it was, for with the drawn ones more known defects would be lost.
    clear: the severity above which a picture is farther out than good ones are (the fence of `fit`, as the
    model before was calibrated); None: not known.
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
    clear: float | None = None


def corrected(
    old: Artefact,
    active: Predictor,
    pictures: Sequence[Reviewed],
    *,
    how: str = "",
    strict: bool = False,
    good: Sequence[str] = (),
    device: str = "auto",
    say: Say = quiet,
    step: Step = silent,
) -> Corrected:
    """Make the next model of a trained one and judge it.

    PatchCore is extended by the false alarms. They do not decide the threshold because they were false
    alarms, which would be no fair sample: it comes from the earlier calibration pictures and from those that
    were drawn by chance among the line's good ones, corrected or not, each as if the model had never seen it.
    Where that would lose known defects, the threshold stays as it was if that loses fewer. Other methods are
    calibrated anew on the drawn pictures, or trained anew.

    Args:
        old: the trained model that learns.
        active: the one that judges now, of the same or of another engine; what the next one is compared with.
        how: extended, recalibrated or retrained; empty: as the method can.
        strict: learn from a false alarm only where two of three speak for it: it does not look like a defect,
            others like it were corrected, it was looked at twice. For versions that nobody looks at: a single
            wrong word is then not enough. Else it must not look like a defect, or be looked at twice.
        good: files of the pictures that the model was fitted on, for a training.

    Raises:
        InputError: there is nothing to learn from, or it cannot be done; the message says the remedy.
    """
    method = registry.method(old.manifest.method)
    how = how or (EXTENDED if method.extends else RECALIBRATED)
    if how == EXTENDED and not method.extends:
        raise InputError(f"{method.name} cannot be extended: recalibrate it, or train it anew")
    there, hashes, before, contradictory, unreadable = _usable(active, pictures)
    inside = {picture.hash for picture in old.manifest.pictures if picture.role == "train"}
    unsure = _unsure(old, there, before, hashes, strict and how == EXTENDED, device)
    wanted = [one for one in there if one.learn and one.number not in unsure]
    rest = [one for one in there if one.number not in unsure]
    of_old = {picture.hash for picture in old.manifest.pictures}
    fresh = [one for one in rest if one.drawn and hashes[one.number] not in of_old]
    if how == EXTENDED and not wanted and not fresh and not unsure:
        raise InputError(
            "there is nothing new to learn from: no false alarm that is not known, and no new good picture"
        )
    makes: dict[str, Callable[..., Made]]
    makes = {EXTENDED: extended, RECALIBRATED: recalibrated, RETRAINED: retrained}
    several = makes[how](old, active, wanted, rest, hashes, good=good, device=device, say=say, step=step)
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
    inner = {picture.hash for picture in predictor.manifest.pictures}
    return Corrected(
        predictor,
        how,
        before,
        after,
        learnt=[one.number for one in wanted if hashes[one.number] in inner],
        unsure=sorted(unsure),
        contradictory=sorted(contradictory),
        unreadable=unreadable,
        inside=[one.number for one in there if not one.good and hashes[one.number] in inside],
        drawn=0 if kept else sum(one.drawn for one in rest),
        kept=kept,
        clear=_clear(old),
    )


def doubtful(
    old: Artefact,
    active: Predictor,
    pictures: Sequence[Reviewed],
    *,
    strict: bool = False,
    device: str = "auto",
) -> list[int]:
    """The false alarms that `corrected` would not learn from until they were looked at twice."""
    there, hashes, before, *_ = _usable(active, pictures)
    return sorted(_unsure(old, there, before, hashes, strict, device))


def _usable(
    active: Predictor, pictures: Sequence[Reviewed]
) -> tuple[list[Reviewed], dict[int, str], dict[int, Score], set[int], list[int]]:
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
    if strict:
        wanted = [one for one in there if one.learn and one.number not in unsure]
        unsure |= alone(old, wanted, before, odd, hashes, device)
    return unsure


def _clear(old: Artefact) -> float | None:
    fence = old.manifest.suspicious_above
    severity = None if fence is None else float(old.manifest.calibration.severity(fence))
    return None if severity is None or severity <= 0 else severity  # the threshold has risen above the fence


def _lost(judge: Sequence[Reviewed], before: Mapping[int, Score], after: Mapping[int, Score]) -> int:
    """How many known defects are not found any more."""
    return sum(
        not one.good and before[one.number].anomalous and not after[one.number].anomalous
        for one in judge
        if one.number in after
    )


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
