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
MAX_TRIED_CORRECTIONS = 12  # corrections that are tried one by one, and lost defects that each is tried on
# Share of a defect's loss of score: a correction that causes so much without the others is responsible
BLAME_SHARE = 0.5


class PowerLostError(InputError):
    """A model seems to be about to learn from defects.

    Attributes:
        pictures: Names of the pictures that are responsible, the farthest out first.
    """

    def __init__(self, reason: str, pictures: Sequence[str], remedy: str):
        super().__init__(f"refused: {reason}: {join_names(pictures)}; {remedy}")
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

    A model without new pictures to learn from stays unchanged.

    Args:
        old: The trained model that learns.
        active: The model that judges now; the next one is compared with it.
        pictures: Pictures of this product, or view.
        options: Options of the update.
        good: Data set that the model was fitted on, for a training.
        whole: Function that takes a manifest of this model, and returns the facts of all views that decide
            together with it.

    Raises:
        PowerLostError: With `refuse_unsure`, where a picture looks like a defect.
        InputError: There is nothing to learn from, or the model cannot be updated in this way.
    """
    how = choose_way(options.how, old)
    device = options.device
    step = options.step
    read_pictures = UpdatePictures.read(pictures, old, step)
    usable, contradictory, unreadable = _find_usable(pictures, read_pictures)
    # number of a picture -> the active model's score
    before = score_pictures(
        active,
        [picture for picture in usable if picture.judged],
        places=read_pictures.places,
        decoded=read_pictures.table.pictures,
        known={picture.digest: picture.before for picture in usable if picture.before is not None},
        whole=whole(active.manifest),
        step=step,
    )
    digests = [picture.digest for picture in usable if _needs_unit(picture, how)]
    update_pictures = read_pictures.with_units(digests, old, options.say)
    defect_like_numbers = find_defect_like(old, usable, before)
    unsure = {
        picture.number for picture in usable if picture.number in defect_like_numbers and not picture.sure
    }
    if unsure and options.refuse_unsure:
        raise _power_lost([picture for picture in usable if picture.number in unsure], before)
    if not options.force:
        usable_good = [picture for picture in usable if picture.good and (picture.learn or picture.drawn)]
        looks = [update_pictures.row(picture).look for picture in usable_good]
        refuse(find_unusual_looks(looks, [picture.name for picture in usable_good]), options.force)
    sure_pictures = [picture for picture in usable if picture.number not in unsure]
    to_learn = [picture for picture in sure_pictures if picture.learn]
    train_hashes = {picture.hash for picture in old.manifest.pictures if picture.role == "train"}
    has_nothing_new = how == EXTENDED and not unsure and not _has_new(sure_pictures, old, train_hashes)
    stays_unchanged = has_nothing_new or bool(unreadable and not usable)
    job = Job(old, active, sure_pictures, to_learn, update_pictures, before, good, whole, options)
    candidates = [_unchanged(job)] if stays_unchanged else BUILDERS[how](job)
    simulated = _SimulatedScores()
    if how == EXTENDED and options.check and not stays_unchanged:
        simulated = _score_simulated(active, old, candidates, device, step)
    compared_pictures = _first_of_copies([picture for picture in usable if picture.number in before])
    best = _choose_candidate(candidates, active, whole, compared_pictures, before, options.fair, simulated)
    known_hashes = {picture.hash for picture in best.predictor.manifest.pictures}
    learnt = [picture.number for picture in to_learn if picture.digest in known_hashes]
    first_candidate, _ = candidates[0]
    # the first candidate alone has a threshold from the drawn pictures, too
    is_threshold_kept = best.predictor is not first_candidate
    responsible: list[int] = []
    if best.refused:
        responsible = _find_responsible(
            best, how, learnt, old, update_pictures, simulated.defects, device, step
        )
    return Update(
        best,
        how,
        learnt,
        sorted(unsure),
        contradictory,
        unreadable,
        rests=stays_unchanged,
        inside=[picture.number for picture in usable if not picture.good and picture.digest in train_hashes],
        drawn=0 if is_threshold_kept else _count_drawn(best.predictor, sure_pictures),
        kept=is_threshold_kept,
        clear=_fence_severity(old),
        responsible=responsible,
    )


def _first_of_copies(pictures: Sequence[ReviewedPicture]) -> list[ReviewedPicture]:
    """Return the first picture of each set of copies, ordered by where their last copies stand."""
    # reversed: a key keeps the place of the copy that comes first here, which is the last one, and takes the
    # value of the copy that comes last here, which is the first one
    by_digest = {picture.digest: picture for picture in reversed(pictures)}
    return [*by_digest.values()][::-1]


def _unchanged(job: Job) -> Candidate:
    """Return the unchanged model as the candidate: there is nothing new to learn from."""
    model = open_fitted(job.old, job.options.device)
    return model, lambda pictures: {picture.number: job.before[picture.number] for picture in pictures}


def _power_lost(unsure: Sequence[ReviewedPicture], before: Mapping[int, Score]) -> PowerLostError:
    """Return the error for pictures called good that look like defects."""
    farthest_first = sorted(unsure, key=lambda picture: -before[picture.number].severity)
    return PowerLostError(
        f"{pluralize(len(unsure), 'picture')} called good, but as far out as defects",
        [picture.name for picture in farthest_first],
        data_checks.CALLED_GOOD.coded(
            "look again and take out what is not good, or --drop-suspects, or go on with --force"
        ),
    )


def _has_new(pictures: Sequence[ReviewedPicture], old: Artefact, train_hashes: Collection[str]) -> bool:
    """Whether any of the pictures is new to a model.

    A picture to learn from is new if the model has not learnt from it. A picture that was drawn by chance,
    for the threshold, is new if the model has no row of it.

    Args:
        pictures: Pictures that can be used.
        old: The model.
        train_hashes: Hashes of the pictures that the model has learnt from.
    """
    known_hashes = {picture.hash for picture in old.manifest.pictures}
    for picture in pictures:
        if picture.learn and picture.digest not in train_hashes:
            return True
        if picture.drawn and picture.digest not in known_hashes:
            return True
    return False


@dataclass(frozen=True)
class _SimulatedScores:
    """Simulated defects on a model's samples, and their scores; empty if nothing is compared.

    Attributes:
        defects: The simulated defects; None: there are none.
        scores: Scores by the model and by its successor, by the defect's number.
        carriers: Name of the sample that carries each defect, by the defect's number.
    """

    defects: SimulatedDefects | None = None
    scores: dict[int, tuple[float, ...]] = field(default_factory=dict)
    carriers: dict[int, str] = field(default_factory=dict)


def _score_simulated(
    active: Predictor, old: Artefact, candidates: Sequence[Candidate], device: str, step: ProgressCallback
) -> _SimulatedScores:
    """Score simulated defects by the active model and the first candidate.

    An exported active model is represented by `old`, the trained model.
    """
    torch_model = active.artefact if active.session.runtime == "torch" else old
    defects = defects_on_samples(torch_model, device)
    if defects is None:
        return _SimulatedScores()
    first_candidate, _ = candidates[0]
    active_detector = defects.model
    scores = score_with_models(defects, [active_detector, first_candidate.detector], step=step)
    samples = [str(sample["name"]) for sample in torch_model.manifest.samples]
    # number of a defect -> name of the sample that carries it
    carriers = {number: samples[defects.picture_of(number)] for number in scores}
    return _SimulatedScores(defects, scores, carriers)


def _choose_candidate(
    candidates: Sequence[Candidate],
    active: Predictor,
    whole: Callable[[Manifest], ModelFacts],
    judged: Sequence[ReviewedPicture],
    before: dict[int, Score],
    fair: bool,
    simulated: _SimulatedScores,
) -> Comparison:
    """Compare candidates with the active model, and return the comparison of the best candidate.

    The best candidate is the first of those that lose the fewest defects. With a fair sample it is the first
    candidate, whatever it loses.

    Args:
        candidates: The candidates, in their order.
        active: The model that judges now.
        whole: Function that takes a manifest of this model, and returns the facts of all views that decide
            together with it.
        judged: Pictures that people judged.
        before: Scores of the judged pictures by the active model, by number.
        fair: Whether the user calls the drawn pictures a fair sample.
        simulated: Scores of simulated defects.
    """
    sample = [picture for picture in judged if picture.drawn] if fair else []
    best: Comparison | None = None
    for model, score in candidates:
        after = score(judged)  # scores by the picture's number
        scored_sample = [picture for picture in sample if picture.number in after]
        unlike = _is_unlike(model, active, scored_sample, after)
        comparison = Comparison(
            model,
            active.calibration,
            judged,
            before,
            after,
            simulated=simulated.scores,
            whole_before=whole(active.manifest),
            whole_after=whole(model.manifest),
            unlike=unlike,
            carriers=simulated.carriers,
        )
        if best is None or comparison.loss < best.loss:
            best = comparison
        if fair or not best.loss:
            break
    assert best is not None
    return best


def _is_unlike(
    model: Predictor, active: Predictor, sample: Sequence[ReviewedPicture], after: Mapping[int, Score]
) -> bool:
    """Whether the active model raises too many alarms on a sample for this to be a fair sample.

    Args:
        model: The next model, which knows the pictures' units.
        active: The model that judges now, whose threshold decides.
        sample: Good pictures that were drawn by chance.
        after: Scores of the pictures by the next model, by number.
    """
    calibration = active.calibration
    units = _units_in(model, sample)
    alarms = [bool(calibration.is_anomalous(after[picture.number].score)) for picture in sample]
    verdict = judge_pictures(alarms, units, calibration.expected_rate, calibration.unit_count)
    return bool(sample) and verdict.chance < SIGNIFICANCE


def choose_way(how: str, old: Artefact) -> str:
    """Choose the way to make the next model: extended, recalibrated or retrained.

    `how` names the way, as `UpdateOptions.how`. If `how` is empty, the way is extended, or recalibrated for a
    method that cannot be extended.

    Raises:
        InputError: The model's method cannot be extended.
    """
    method = registry.method(old.manifest.method)
    if how == EXTENDED and not method.extends:
        raise InputError(f"{method.name} cannot be extended: recalibrate it, or train it anew")
    return how or (EXTENDED if method.extends else RECALIBRATED)


def _needs_unit(picture: ReviewedPicture, how: str) -> bool:
    """Whether an update needs the part that a picture shows; a recalibration finds parts itself."""
    if how == RECALIBRATED:
        return False
    return picture.learn or picture.drawn or (how == RETRAINED and not picture.good)


def _units_in(model: Predictor, pictures: Sequence[ReviewedPicture]) -> list[int]:
    """Return the unit that each picture has in a model; a picture that it does not know is its own unit."""
    known_units = {row.hash: row.unit for row in model.manifest.pictures}
    units = []
    for place, picture in enumerate(pictures):
        own_unit = -2 - place  # no unit of a model is below -1
        units.append(known_units.get(picture.digest, own_unit))
    return units


def _count_drawn(model: Predictor, pictures: Sequence[ReviewedPicture]) -> int:
    """Return how many of the pictures drawn by chance decide a model's threshold."""
    drawn = {picture.digest for picture in pictures if picture.drawn}
    return sum(row.counted and row.hash in drawn for row in model.manifest.pictures)


def _find_usable(
    pictures: Sequence[ReviewedPicture], new: UpdatePictures
) -> tuple[list[ReviewedPicture], list[int], dict[int, str]]:
    """Sort the pictures of an update into usable, contradictory and unreadable ones.

    Pictures are contradictory if copies of the same picture were judged good and defective.

    Returns:
        The usable pictures, with their digests; the numbers of the contradictory pictures; and number ->
        reason of each unreadable picture.
    """
    rows = new.table.rows
    failures = new.table.failures
    unreadable = {pictures[place].number: reason for place, reason in failures.items()}
    readable = [
        replace(picture, digest=rows[place].hash) for place, picture in enumerate(pictures) if place in rows
    ]
    verdicts: dict[str, set[bool]] = {}  # by digest
    for picture in readable:
        if picture.judged:
            verdicts.setdefault(picture.digest, set()).add(picture.good)
    contradictory = {picture.number for picture in readable if len(verdicts.get(picture.digest, ())) > 1}
    usable = [picture for picture in readable if picture.number not in contradictory]
    return usable, sorted(contradictory), unreadable


def find_defect_like(
    old: Artefact, pictures: Sequence[ReviewedPicture], before: Mapping[int, Score]
) -> set[int]:
    """Return the numbers of false alarms that look like defects (`defect_like`).

    Args:
        old: The trained model.
        pictures: Pictures that can be used.
        before: The active model's scores of the pictures, by number.
    """
    scored_pictures = [picture for picture in pictures if picture.number in before]
    defect_scores = [before[picture.number] for picture in scored_pictures if not picture.good]
    found_severities = [score.severity for score in defect_scores if score.anomalous]
    strength_by_number = {}
    for picture in scored_pictures:
        if picture.learn:  # a false alarm
            score = before[picture.number]
            strength_by_number[picture.number] = Strength(score.score, score.severity)
    return defect_like(strength_by_number, found_severities, old.manifest.suspicious_above)


def _fence_severity(old: Artefact) -> float | None:
    """Return the severity above which a picture is farther out than good ones are.

    The severity follows from the fence, the score above which `fit` calls a good picture suspicious. None:
    there is no fence, or the fence is not above the score threshold.
    """
    fence = old.manifest.suspicious_above
    if fence is None:
        return None
    severity = float(old.manifest.calibration.severity(fence))
    return None if severity <= 0 else severity


def _find_responsible(
    comparison: Comparison,
    how: str,
    numbers: Sequence[int],
    old: Artefact,
    new: UpdatePictures,
    defects: SimulatedDefects | None,
    device: str,
    step: ProgressCallback,
) -> list[int]:
    """Return the numbers of the corrections that cause the loss of defects, farthest out first.

    A correction causes a loss if a model that learns only this correction gives a lost defect a lower score:
    lower by at least `BLAME_SHARE` of the decrease by all corrections together. If there is no such
    correction, all are returned.

    Args:
        comparison: The comparison of the next model.
        how: Way in which the next model was made.
        numbers: Numbers of the pictures that the next model learnt from.
        old: The model before.
        new: Pictures of the update.
        defects: Simulated defects; None: there are none.
        device: Device, such as "cpu", "cuda" or "auto".
        step: Gets progress.
    """
    corrections = [picture for picture in comparison.pictures if picture.number in numbers]
    corrections.sort(key=lambda picture: -comparison.before[picture.number].severity)
    all_numbers = [picture.number for picture in corrections]
    if how != EXTENDED or len(corrections) < 2:
        return all_numbers
    lost_known = [picture for picture in comparison.pictures if picture.number in comparison.lost]
    lost_known = lost_known[:MAX_TRIED_CORRECTIONS]
    lost_simulated = comparison.lost_simulated[:MAX_TRIED_CORRECTIONS]
    # scores of the lost defects before and after the update
    changes: list[tuple[float, ...]] = [
        (comparison.before[picture.number].score, comparison.after[picture.number].score)
        for picture in lost_known
    ]
    changes += [comparison.simulated[number] for number in lost_simulated]
    responsible = []
    tried = corrections[:MAX_TRIED_CORRECTIONS]
    for done, correction in enumerate(tried):
        step("corrections one by one", done, len(tried))
        model = learn_pictures(make_room_in_bank(old), new, [correction], device=device, check=False)
        scores = _score_readable(model, new, lost_known)
        if defects is not None:
            simulated_scores = score_with_models(defects, [model.detector], lost_simulated)
            for number in lost_simulated:
                (score,) = simulated_scores[number]
                scores.append(score)
        changes_and_scores = zip(changes, scores, strict=True)
        if any(_causes_loss(before, after, score) for (before, after), score in changes_and_scores):
            responsible.append(correction.number)
    return responsible or all_numbers


def _causes_loss(before: float, after: float, after_one: float) -> bool:
    """Whether before - after_one >= `BLAME_SHARE` * (before - after), where the score has decreased.

    Args:
        before: The defect's score before the update.
        after: The defect's score after the update with all corrections.
        after_one: The defect's score after an update with a single correction.
    """
    return before > after and before - after_one >= BLAME_SHARE * (before - after)


def _score_readable(
    model: Predictor, update_pictures: UpdatePictures, pictures: Sequence[ReviewedPicture]
) -> list[float]:
    """Return a model's scores of some pictures of an update.

    Raises:
        InputError: A picture cannot be judged.
    """
    places = [update_pictures.place(picture) for picture in pictures]
    predictions = dict(predict_decoded(model, update_pictures.table.pictures, places))
    scores = []
    for place in places:
        prediction = predictions[place]
        if isinstance(prediction, InputError):
            raise prediction
        scores.append(prediction.score)
    return scores
