"""Makes the next model of one product, or of one view of a part, and compares it with the one in use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.calibration.defect_like import Strength, defect_like
from flawscope.calibration.outliers import find_unusual_looks, refuse
from flawscope.calibration.promise import judge_pictures
from flawscope.datasets import Dataset
from flawscope.errors import InputError, data_checks, join_names, pluralize
from flawscope.fitting.simulated_defects import SimulatedDefects, defects_on_samples, score_with_models
from flawscope.fitting.update_evaluation import (
    SIGNIFICANCE,
    Comparison,
    ReviewedPicture,
    Score,
    Update,
    score_pictures,
)
from flawscope.fitting.update_options import UpdateOptions
from flawscope.fitting.update_pictures import UpdatePictures
from flawscope.fitting.updated_models import (
    Candidate,
    Job,
    extend_bank,
    learn_pictures,
    make_room_in_bank,
    recalibrate_model,
    retrain_model,
)
from flawscope.methods import registry
from flawscope.predictor import Predictor, open_fitted
from flawscope.predictor.decoded_pictures import predict_decoded
from flawscope.progress import ProgressCallback

EXTENDED = "extended"
RECALIBRATED = "recalibrated"
RETRAINED = "retrained"
BUILDERS: Mapping[str, Callable[[Job], list[Candidate]]]
BUILDERS = {EXTENDED: extend_bank, RECALIBRATED: recalibrate_model, RETRAINED: retrain_model}
MAX_TRIED_CORRECTIONS = 12  # corrections that are tried alone, and lost defects that each is tried on
BLAME_SHARE = 0.5  # of a defect's loss of score: a correction that alone causes as much is responsible


class PowerLostError(InputError):
    """A model seems to be about to learn from defects.

    Attributes:
        pictures: names of the pictures that are responsible, the farthest out first.
    """

    def __init__(self, why: str, pictures: Sequence[str], remedy: str):
        super().__init__(f"refused: {why}: {join_names(pictures)}; {remedy}")
        self.pictures = list(pictures)


def update_one(
    old: Artefact,
    active: Predictor,
    pictures: Sequence[ReviewedPicture],
    options: UpdateOptions,
    *,
    good: Dataset | None,
    whole: Callable[[Manifest], ModelFacts],
) -> Update:
    """Make the next model of one product, or of one view of a part.

    A model that has nothing new to learn from stays as it is.

    Args:
        old: The trained model that learns.
        active: The model that judges now; the next one is compared with it.
        pictures: Pictures of this product, or view.
        options: Options of the update.
        good: Data set that the model was fitted on, for a training.
        whole: Returns facts of a model with a manifest, and of all views that decide with it.

    Raises:
        PowerLostError: With `refuse_unsure`, where a picture looks like a defect.
        InputError: There is nothing to learn from, or it cannot be done.
    """
    how = choose_way(options.how, old)
    device = options.device
    step = options.step
    new = UpdatePictures.read(pictures, old, step)
    usable, contradictory, unreadable = _find_usable(pictures, new)
    known = {picture.digest: picture.before for picture in usable if picture.before is not None}
    judged_before = [picture for picture in usable if picture.judged]
    now = whole(active.manifest)
    before = score_pictures(active, judged_before, new.places, new.table.pictures, known, now, step)
    new = new.with_units(
        [picture.digest for picture in usable if _needs_unit(picture, how)], old, options.say
    )
    defect_like_numbers = find_defect_like(old, usable, before)
    unsure = {
        picture.number for picture in usable if picture.number in defect_like_numbers and not picture.sure
    }
    if unsure and options.refuse_unsure:
        raise _power_lost([picture for picture in usable if picture.number in unsure], before)
    if not options.force:
        usable_good = [picture for picture in usable if picture.good and (picture.learn or picture.drawn)]
        looks = [new.row(picture).look for picture in usable_good]
        refuse(find_unusual_looks(looks, [picture.name for picture in usable_good]), options.force)
    rest = [picture for picture in usable if picture.number not in unsure]
    wanted = [picture for picture in rest if picture.learn]
    train_hashes = {picture.hash for picture in old.manifest.pictures if picture.role == "train"}
    has_nothing_new = how == EXTENDED and not unsure and not _has_new(rest, old, train_hashes)
    rests = has_nothing_new or bool(unreadable and not usable)
    job = Job(old, active, rest, wanted, new, before, good, whole, options)
    candidates = [_unchanged(job)] if rests else BUILDERS[how](job)
    hidden = _HiddenDefects()
    if how == EXTENDED and options.check and not rests:
        hidden = _score_simulated(active, old, candidates, device, step)
    judged = [picture for picture in usable if picture.number in before]
    judged = [*{picture.digest: picture for picture in reversed(judged)}.values()][
        ::-1
    ]  # the first of copies
    best = _choose_candidate(candidates, active, whole, judged, before, options.fair, hidden)
    learnt_hashes = {picture.hash for picture in best.predictor.manifest.pictures}
    learnt = [picture.number for picture in wanted if picture.digest in learnt_hashes]
    kept = best.predictor is not candidates[0][0]
    return Update(
        best,
        how,
        learnt,
        sorted(unsure),
        contradictory,
        unreadable,
        rests=rests,
        inside=[picture.number for picture in usable if not picture.good and picture.digest in train_hashes],
        drawn=0 if kept else _count_drawn(best.predictor, rest),
        kept=kept,
        clear=_fence_severity(old),
        responsible=_find_responsible(best, how, learnt, old, new, hidden.defects, device, step)
        if best.refused
        else [],
    )


def _unchanged(job: Job) -> Candidate:
    """Return the model as it is, where there is nothing new to learn from."""
    model = open_fitted(job.old, job.options.device)
    return model, lambda several: {picture.number: job.before[picture.number] for picture in several}


def _power_lost(unsure: Sequence[ReviewedPicture], before: Mapping[int, Score]) -> PowerLostError:
    """Return the error for pictures called good that look like defects."""
    return PowerLostError(
        f"{pluralize(len(unsure), 'picture')} called good, but as far out as defects",
        [picture.name for picture in sorted(unsure, key=lambda picture: -before[picture.number].severity)],
        data_checks.CALLED_GOOD.coded(
            "look again and take out what is not good, or --drop-suspects, or go on with --force"
        ),
    )


def _has_new(pictures: Sequence[ReviewedPicture], old: Artefact, train_hashes: Collection[str]) -> bool:
    """Whether a model has yet to learn from some of the pictures, or to know some that were drawn."""
    known = {picture.hash for picture in old.manifest.pictures}
    for offered in pictures:
        if offered.learn and offered.digest not in train_hashes:
            return True
        if offered.drawn and offered.digest not in known:
            return True
    return False


@dataclass(frozen=True)
class _HiddenDefects:
    """Simulated defects on a model's samples; without them nothing is compared.

    Attributes:
        defects: The simulated defects; None: there are none.
        scores: Scores of the model and of its successor, by the defect's number.
        carriers: Name of the sample that carries each defect, by the defect's number.
    """

    defects: SimulatedDefects | None = None
    scores: dict[int, tuple[float, ...]] = field(default_factory=dict)
    carriers: dict[int, str] = field(default_factory=dict)


def _score_simulated(
    active: Predictor, old: Artefact, candidates: Sequence[Candidate], device: str, step: ProgressCallback
) -> _HiddenDefects:
    """Score simulated defects by the active model and the first candidate."""
    carrying = active.artefact if active.session.runtime == "torch" else old
    defects = defects_on_samples(carrying, device)
    if defects is None:
        return _HiddenDefects()
    scores = score_with_models(defects, [defects.model, candidates[0][0].detector], step=step)
    samples = [str(sample["name"]) for sample in carrying.manifest.samples]
    carriers = {number: samples[defects.picture_of(number)] for number in scores}
    return _HiddenDefects(defects, scores, carriers)


def _choose_candidate(
    candidates: Sequence[Candidate],
    active: Predictor,
    whole: Callable[[Manifest], ModelFacts],
    judged: Sequence[ReviewedPicture],
    before: dict[int, Score],
    fair: bool,
    hidden: _HiddenDefects,
) -> Comparison:
    """Compare candidates with the active model, and return the comparison of the best.

    It loses the fewest defects, and is the first such candidate; with a fair sample it is the first
    candidate, whatever it loses.

    Args:
        candidates: The candidates, in their order.
        active: The model that judges now.
        whole: Returns facts of a model with a manifest, and of all views that decide with it.
        judged: Pictures that people judged.
        before: Scores of these by the active model.
        fair: Whether the drawn pictures are called a fair sample.
        hidden: Simulated defects.
    """
    sample = [picture for picture in judged if picture.drawn] if fair else []
    best: Comparison | None = None
    for model, scores in candidates:
        after = scores(judged)
        scored = [picture for picture in sample if picture.number in after]
        unlike = _is_unlike(model, active, scored, after)
        found = Comparison(
            model,
            active.calibration,
            judged,
            before,
            after,
            hidden.scores,
            whole(active.manifest),
            whole(model.manifest),
            unlike,
            hidden.carriers,
        )
        if best is None or found.loss < best.loss:
            best = found
        if fair or not best.loss:
            break
    assert best is not None
    return best


def _is_unlike(
    model: Predictor, active: Predictor, sample: Sequence[ReviewedPicture], after: Mapping[int, Score]
) -> bool:
    """Whether a sample raises more alarms than a fair one would by chance."""
    judging = active.calibration
    units = _units_in(model, sample)
    alarms = [bool(judging.is_anomalous(after[picture.number].score)) for picture in sample]
    chance = judge_pictures(alarms, units, judging.expected_rate, judging.unit_count).chance
    return bool(sample) and chance < SIGNIFICANCE


def choose_way(how: str, old: Artefact) -> str:
    """Return the way to make the next model (`UpdateOptions.how`): extended, recalibrated or retrained.

    Raises:
        InputError: The model's method cannot be extended.
    """
    method = registry.method(old.manifest.method)
    if how == EXTENDED and not method.extends:
        raise InputError(f"{method.name} cannot be extended: recalibrate it, or train it anew")
    return how or (EXTENDED if method.extends else RECALIBRATED)


def _needs_unit(picture: ReviewedPicture, how: str) -> bool:
    """Whether an update needs the part that a picture shows; a new calibration finds it out itself."""
    if how == RECALIBRATED:
        return False
    return picture.learn or picture.drawn or (how == RETRAINED and not picture.good)


def _units_in(model: Predictor, pictures: Sequence[ReviewedPicture]) -> list[int]:
    """Return units of pictures in a model; a picture that it does not know is a unit of its own."""
    units = {row.hash: row.unit for row in model.manifest.pictures}
    return [units.get(picture.digest, -2 - k) for k, picture in enumerate(pictures)]


def _count_drawn(model: Predictor, pictures: Sequence[ReviewedPicture]) -> int:
    """Return the number of the drawn pictures that decide a model's threshold."""
    drawn = {picture.digest for picture in pictures if picture.drawn}
    return sum(row.counted and row.hash in drawn for row in model.manifest.pictures)


def _find_usable(
    pictures: Sequence[ReviewedPicture], new: UpdatePictures
) -> tuple[list[ReviewedPicture], list[int], dict[int, str]]:
    """Sort the pictures of an update.

    Returns:
        The usable pictures with their hashes; the numbers of contradictory ones, judged both good and
        defective; and why others are unreadable, by number.
    """
    rows = new.table.rows
    failures = new.table.failures
    unreadable = {pictures[place].number: reason for place, reason in failures.items()}
    usable = [
        replace(picture, digest=rows[place].hash) for place, picture in enumerate(pictures) if place in rows
    ]
    verdicts: dict[str, set[bool]] = {}
    for picture in usable:
        if picture.judged:
            verdicts.setdefault(picture.digest, set()).add(picture.good)
    contradictory = {picture.number for picture in usable if len(verdicts.get(picture.digest, ())) > 1}
    return (
        [picture for picture in usable if picture.number not in contradictory],
        sorted(contradictory),
        unreadable,
    )


def find_defect_like(
    old: Artefact, pictures: Sequence[ReviewedPicture], before: Mapping[int, Score]
) -> set[int]:
    """Return the numbers of false alarms that look like defects (`defect_like`)."""
    known = [before[picture.number] for picture in pictures if not picture.good and picture.number in before]
    found = [score.severity for score in known if score.anomalous]
    learn = {
        picture.number: before[picture.number]
        for picture in pictures
        if picture.learn and picture.number in before
    }
    strengths = {number: Strength(score.score, score.severity) for number, score in learn.items()}
    return defect_like(strengths, found, old.manifest.suspicious_above)


def _fence_severity(old: Artefact) -> float | None:
    fence = old.manifest.suspicious_above
    severity = None if fence is None else float(old.manifest.calibration.severity(fence))
    return None if severity is None or severity <= 0 else severity  # the threshold has risen above the fence


def _find_responsible(
    made: Comparison,
    how: str,
    numbers: Sequence[int],
    old: Artefact,
    new: UpdatePictures,
    defects: SimulatedDefects | None,
    device: str,
    step: ProgressCallback,
) -> list[int]:
    """Return the numbers of the corrections that cause losses, farthest out first.

    Each alone takes at least half of the loss of a lost defect's score; where none does, all corrections are
    returned.

    Args:
        made: The comparison of the next model.
        how: Way in which it was made.
        numbers: Numbers of the pictures that it learnt from.
        old: The model before.
        new: Pictures of the update.
        defects: Simulated defects; None: there are none.
        device: Device, such as "cpu", "cuda" or "auto".
        step: Gets progress.
    """
    learnt = [picture for picture in made.pictures if picture.number in numbers]
    learnt.sort(key=lambda picture: -made.before[picture.number].severity)
    known = [picture for picture in made.pictures if picture.number in made.lost][:MAX_TRIED_CORRECTIONS]
    simulated = made.lost_simulated[:MAX_TRIED_CORRECTIONS]
    scores: list[tuple[float, ...]] = [
        *((made.before[picture.number].score, made.after[picture.number].score) for picture in known),
        *(made.simulated[number] for number in simulated),
    ]
    found = []
    tried = learnt[:MAX_TRIED_CORRECTIONS] if how == EXTENDED and len(learnt) > 1 else []
    for done, correction in enumerate(tried):
        step("corrections one by one", done, len(tried))
        model = learn_pictures(make_room_in_bank(old), new, [correction], device=device, check=False)
        alone = _scores_of(model, new, known)
        if defects is not None:
            by_number = score_with_models(defects, [model.detector], simulated)
            alone += [by_number[number][0] for number in simulated]
        if any(b > a and b - now >= BLAME_SHARE * (b - a) for (b, a), now in zip(scores, alone, strict=True)):
            found.append(correction.number)
    return found or [picture.number for picture in learnt]


def _scores_of(model: Predictor, new: UpdatePictures, pictures: Sequence[ReviewedPicture]) -> list[float]:
    """Return the scores of pictures that can be judged."""
    found = dict(predict_decoded(model, new.table.pictures, [new.place(picture) for picture in pictures]))
    scores = []
    for picture in pictures:
        prediction = found[new.place(picture)]
        if isinstance(prediction, InputError):
            raise prediction
        scores.append(prediction.score)
    return scores
