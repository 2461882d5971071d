"""Pictures of which people said what they are, and what a model says of them as if it had never learnt from
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.decision import Calibration
from flawscope.datasets import group_numbers
from flawscope.errors import InputError
from flawscope.pictures.decoding import Source, decode, pixel_hash, reason
from flawscope.predictor import Predictor

KEY = "corrections"  # among a model's facts


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
    source: Source
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


class Judge:
    """What a model says of pictures as if it had never learnt from them.

    A picture of the calibration is compared with the threshold that the others give.

    Args:
        known: scores by hash that the network gave before; new ones are added.

    Attributes:
        inside: hashes of the pictures that the model has learnt from, or that it keeps for other things than
            its calibration.
    """

    def __init__(self, predictor: Predictor, known: dict[str, float] | None = None):
        self.predictor, self.known = predictor, {} if known is None else known
        manifest = predictor.manifest
        listed = manifest.facts.get("calibration_pictures", ())
        self._places = {digest: place for place, digest in enumerate(listed)}
        self._kept = manifest.facts.get(KEY, {}).get("left_out", {})
        self.inside = {picture.hash for picture in manifest.pictures if picture.role != "calibration"}

    def __call__(self, source: Source, digest: str) -> Score | None:
        """None where it cannot say so."""
        calibration = self.predictor.calibration
        if (at := self._places.get(digest)) is not None and at < calibration.count:
            return score_of(_without(calibration, at), calibration.scores[at], learnt=True)
        if digest in self._kept:
            return score_of(calibration, self._kept[digest][0], learnt=True)
        if digest in self.inside:
            return None
        if digest not in self.known:
            self.known[digest] = self.predictor.predict(source).score
        return score_of(calibration, self.known[digest])


def score_of(calibration: Calibration, score: float, learnt: bool = False) -> Score:
    return Score(
        float(score),
        calibration.score_threshold,
        float(calibration.p_values(score)),
        float(calibration.severity(score)),
        learnt,
    )


def _without(calibration: Calibration, place: int) -> Calibration:
    """The calibration of the other pictures; itself where there is no other."""
    if calibration.count == 1:
        return calibration
    scores, maxima = (
        values[:place] + values[place + 1 :] for values in (calibration.scores, calibration.map_maxima)
    )
    return replace(calibration, scores=scores, map_maxima=maxima)


def hashes_of(pictures: Sequence[Reviewed]) -> tuple[dict[int, str], dict[int, str]]:
    """Of decoded pixels, by number; and why the others cannot be read."""
    found, unreadable = {}, {}
    for one in pictures:
        try:
            found[one.number] = pixel_hash(decode(one.source, name=one.name or None))
        except (InputError, MemoryError) as error:
            unreadable[one.number] = reason(error, one.name)
    return found, unreadable


def group_of(old: Artefact, pictures: Sequence[Reviewed]) -> str | None:
    """The model's pattern for pictures that show one part, where it fits the names of all of these."""
    group = old.manifest.facts.get("group")
    try:
        group_numbers([one.name for one in pictures], group)
    except InputError:
        return None
    return None if group is None else str(group)


def parts(old: Artefact, pictures: Sequence[Reviewed]) -> list[int]:
    """A number for each picture; those of one part share it."""
    return group_numbers([one.name for one in pictures], group_of(old, pictures))
