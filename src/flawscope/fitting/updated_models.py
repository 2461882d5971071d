"""Makes the next model: extends PatchCore; calibrates other methods anew, or trains them anew."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from flawscope.artefact.carried import carried_facts
from flawscope.artefact.model_facts import ONE, ModelFacts
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.calibration.holding_out import min_calibration_size
from flawscope.calibration.outliers import find_unusual
from flawscope.calibration.rows import calibrate
from flawscope.datasets import Dataset, Item
from flawscope.datasets.masks import Mask
from flawscope.errors import InputError, data_checks, pluralize
from flawscope.fitting.fitting import fit, learn_more
from flawscope.fitting.stored_options import refit_options
from flawscope.fitting.update_evaluation import CORRECTIONS, ReviewedPicture, Score, score_pictures
from flawscope.fitting.update_options import UpdateOptions
from flawscope.fitting.update_pictures import UpdatePictures
from flawscope.methods import registry
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.table import LINE, Picture, PictureTable
from flawscope.predictor import Predictor, open_fitted
from flawscope.predictor.recalibration import recalibrate
from flawscope.predictor.scoring import SessionPictures, leave_out_known, lost_note, score
from flawscope.progress import ProgressCallback, ignore_progress

RADIUS_KEY = "covering_radius"  # among a model's facts
CAP_GROWTH = 1.25  # factor by which a full memory bank may exceed its cap, for corrected pictures
# Factors for corrected pictures. Their patches lie just beyond the covering radius, within which a fit takes
# a patch for known. So the radius is smaller for them, and a larger share of their patches is kept.
RADIUS_FACTOR = 0.5
RATIO_FACTOR = 3
RATIO_SETTINGS = ("ratio", "fine_ratio")  # settings with the share of the patches that is kept
FOLDS = 2  # folds of the pictures to learn from, each left out of one further training
OF_THE_LINE = "of the line"  # name of pictures whose own name is private
UPDATE_NOTE_PREFIXES = ("learnt from ", "extended by ")  # starts of notes that the next update replaces

# A model, and a function that returns the model's scores of pictures, by number, as if it had never learnt
# from these pictures
Candidate = tuple[Predictor, Callable[[Sequence[ReviewedPicture]], dict[int, Score]]]


@dataclass(frozen=True)
class Job:
    """Input that all ways to make the next model share.

    Attributes:
        old: The trained model that learns.
        active: The model that judges now.
        pictures: All pictures that can be used.
        to_learn: The pictures to learn from.
        new: Rows, places and decoded pixels of the pictures.
        before: The active model's scores of the pictures, by number.
        good: Data set that the old model was fitted on; None: not known.
        whole: Returns facts of a model with a manifest, and of all views that decide with it.
        options: Options of the update.
    """

    old: Artefact
    active: Predictor
    pictures: Sequence[ReviewedPicture]
    to_learn: Sequence[ReviewedPicture]
    new: UpdatePictures
    before: Mapping[int, Score]
    good: Dataset | None
    whole: Callable[[Manifest], ModelFacts]
    options: UpdateOptions

    def score(
        self, model: Predictor, pictures: Sequence[ReviewedPicture], known: dict[str, float]
    ) -> dict[int, Score]:
        """Return scores of pictures by their numbers (`score_pictures`).

        Args:
            model: The model that scores them.
            pictures: The pictures.
            known: Scores by digest that the model's network gave before; new ones are added.
        """
        return score_pictures(
            model,
            pictures,
            places=self.new.places,
            decoded=self.new.table.pictures,
            known=known,
            whole=self.whole(model.manifest),
            step=self.options.step,
        )

    def check_names(self) -> None:
        """Raise InputError where a picture to learn from has a name without the part that the model needs."""
        pattern = self.whole(self.old.manifest).parts
        if pattern is not None:
            pattern.parse_all(dict.fromkeys(picture.name for picture in self.to_learn))

    @property
    def decides_on_parts(self) -> bool:
        """Whether decisions are on parts, by this model alone or together with models of other views."""
        return self.whole(self.old.manifest).parts is not None


# ------------------------------------------------------------------------------------------------- extended


def extend_bank(job: Job) -> list[Candidate]:
    """Return candidates with a larger memory bank, calibrated on the earlier calibration pictures.

    The first candidate is also calibrated on the pictures drawn by chance; the second is not. If no
    drawn picture can be used, there is only one candidate.
    """
    old = job.old
    options = job.options
    learnt_hashes = {row.hash for row in old.manifest.pictures if row.learnt}
    chosen = {picture.digest: picture for picture in job.to_learn if picture.digest not in learnt_hashes}
    predictor = open_fitted(old, options.device)
    old_rows = old.manifest.pictures
    if chosen:
        alarms = [
            picture
            for picture in chosen.values()
            if picture.number in job.before and job.before[picture.number].anomalous
        ]
        are_mostly_alarms = 2 * len(alarms) >= len(chosen)
        start_model = make_room_in_bank(old) if are_mostly_alarms else _without_update_notes(old)
        pictures = [*chosen.values()]
        predictor = learn_pictures(
            start_model, job.new, pictures, device=options.device, check=options.check, step=options.step
        )
    # pictures to learn from were chosen by somebody: they keep their score, but do not count
    new_rows = predictor.manifest.pictures[len(old_rows) :]
    added_rows = [row for row in new_rows if not row.is_lost]
    rows_without_drawn = (*old_rows, *(replace(row, counted=False) for row in added_rows))
    rows, name_by_hash, notes = _add_drawn_rows(job, predictor, rows_without_drawn)
    for line in notes:
        options.say(line)  # not stored in the model file: the line's names are private
    first_model = _with_rows(predictor, old, rows, len(chosen))
    models = [first_model]
    if rows != rows_without_drawn:
        named_rows = [replace(row, name=name_by_hash.get(row.hash, row.name)) for row in rows]
        for finding in find_unusual(named_rows, first_model.calibration, asks=False):
            options.say(finding.line)  # not stored in the model file: the line's names are private
        models.append(_with_rows(predictor, old, rows_without_drawn, len(chosen)))
    # scores by digest; the candidates share them, since they have the same network
    known: dict[str, float] = {}
    has_active_network = not chosen and job.active.artefact is old
    if has_active_network:
        known = {picture.digest: picture.before for picture in job.pictures if picture.before is not None}
    return [_candidate(job, model, known) for model in models]


def _candidate(job: Job, model: Predictor, known: dict[str, float]) -> Candidate:
    """Return a model together with a function that scores pictures with the model.

    Args:
        job: Input of the update.
        model: The model.
        known: Scores by digest that the model's network gave before; new ones are added.
    """
    return model, lambda pictures: job.score(model, pictures, known)


class _Drawn(NamedTuple):
    """Rows of a model with the line's pictures that were drawn by chance.

    Attributes:
        rows: Rows of all pictures.
        names: Names of the drawn pictures, by hash.
        notes: Lines on drawn pictures that do not count, or count as lost.
    """

    rows: tuple[Picture, ...]
    names: dict[str, str]
    notes: list[str]


def _add_drawn_rows(job: Job, predictor: Predictor, rows: tuple[Picture, ...]) -> _Drawn:
    """Score the line's drawn pictures, and return the model's rows with those of the pictures, which count.

    The pictures are scored as if the model had not learnt from their parts. Near-duplicates of pictures
    that the old model has learnt from are left out.

    Args:
        job: Input of the update.
        predictor: The model, with the pictures to learn from in its bank.
        rows: Rows of the model; those of the pictures to learn from do not count.
    """
    counted_hashes = {row.hash for row in rows if row.counted}
    line_sample = [picture for picture in job.pictures if picture.drawn and picture.good]
    uncounted_sample = {
        picture.digest: picture for picture in line_sample if picture.digest not in counted_hashes
    }
    learnt_hashes = {row.hash for row in job.old.manifest.pictures if row.learnt}
    copies = {}  # hash of a drawn picture -> row of the model that it is a near-duplicate of
    new_to_old_model = {}  # hash -> drawn picture that the old model has not learnt from
    for digest, picture in uncounted_sample.items():
        known_row = job.new.copies.get(digest)
        if known_row is not None and known_row.learnt:
            copies[digest] = known_row
        elif digest not in learnt_hashes:
            new_to_old_model[digest] = picture
    # Pictures that this update has learnt from have a score: the model without them has scored them
    scored_hashes = {row.hash for row in rows if row.hash in new_to_old_model and row.score is not None}
    counted_rows = [
        replace(row, counted=True, drawn=True) if row.hash in scored_hashes else row for row in rows
    ]
    unscored_pictures = [
        picture for digest, picture in new_to_old_model.items() if digest not in scored_hashes
    ]
    rows_to_score = {}  # place of a picture in the table -> its row
    for picture in unscored_pictures:
        # names are private: only models that decide on parts store them, because they need them
        name = picture.name if job.decides_on_parts else OF_THE_LINE
        rows_to_score[job.new.place(picture)] = replace(
            job.new.row(picture), drawn=True, origin=LINE, name=name
        )
    session_pictures = SessionPictures(predictor, job.new.table.pictures, job.options.step)
    run_of = leave_out_known(predictor, rows)
    scored = score(session_pictures, rows_to_score, run_of, predictor.manifest.preprocess.lights)
    notes = [*scored.answers.failures.values()]
    if scored.lost:
        notes.append(lost_note([job.new.table.rows[place].name for place in sorted(scored.lost)]))
    if scored.answers.excluded:
        count = pluralize(len(scored.answers.excluded), "drawn picture")
        notes.append(f"not calibrated with {count} of parts that the model has learnt from")
    if copies:
        first_digest, first_row = next(iter(copies.items()))
        count = pluralize(len(copies), "drawn picture")
        note = (
            f"not calibrated with {count} nearly the same as those that the model was fitted on, such as "
            f"{uncounted_sample[first_digest].name} as {first_row.name}"
        )
        notes.append(data_checks.KNOWN_PICTURES.coded(note))
    name_by_hash = {picture.digest: picture.name for picture in unscored_pictures}
    return _Drawn((*counted_rows, *scored.rows.values()), name_by_hash, notes)


def with_whole_parts_drawn(pictures: Sequence[ReviewedPicture], facts: ModelFacts) -> list[ReviewedPicture]:
    """Return the pictures, with only those of whole new parts still marked as drawn.

    If a model decides on parts, a drawn picture can be used only if its part is not known to the model, and
    all views of the part were drawn. For other models the pictures are returned unchanged.

    Args:
        pictures: Pictures with people's judgements.
        facts: Facts of the model.
    """
    parts = facts.known_parts().get(ONE)
    if parts is None:
        return [*pictures]
    drawn_views_by_part = dict[str, list[str]]()  # drawn views of each part
    part_by_place = dict[int, str]()  # part of each drawn picture, by the picture's place
    for place, picture in enumerate(pictures):
        if not (picture.drawn and picture.good):
            continue
        try:
            part, view = picture.shown(parts)
        except InputError:
            continue  # the picture's name states no part
        drawn_views_by_part.setdefault(part, []).append(view)
        part_by_place[place] = part
    calibration = parts.calibration
    complete_parts = {
        part
        for part, views in drawn_views_by_part.items()
        if part not in calibration.parts and sorted(views) == sorted(calibration.views)
    }
    return [
        replace(picture, drawn=part_by_place.get(place) in complete_parts)
        for place, picture in enumerate(pictures)
    ]


def learn_pictures(
    old: Artefact,
    new: UpdatePictures,
    pictures: Sequence[ReviewedPicture],
    *,
    device: str,
    check: bool,
    step: ProgressCallback = ignore_progress,
) -> Predictor:
    """Return the model with these pictures added to its memory bank and to its calibration.

    Args:
        old: The trained model.
        new: All pictures of the update.
        pictures: The pictures to learn from.
        device: Device, such as "cpu", "cuda" or "auto".
        check: Whether to measure the share of simulated defects that are found.
        step: Gets progress.
    """
    places = [new.place(picture) for picture in pictures]
    rows = {number: new.table.rows[place] for number, place in enumerate(places)}
    table = PictureTable(new.table.pictures.subset(places), rows, failures={})
    names = [picture.name for picture in pictures]
    group = old.manifest.facts.get("group")
    return learn_more(old, table, names, group=group, device=device, check=check, step=step)


def _without_update_notes(old: Artefact) -> Artefact:
    """Return the model without the notes of its last update."""
    notes = tuple(note for note in old.manifest.notes if not note.startswith(UPDATE_NOTE_PREFIXES))
    return replace(old, manifest=replace(old.manifest, notes=notes))


def make_room_in_bank(old: Artefact) -> Artefact:
    """Return the model with settings that let more patches of corrected pictures into its memory bank.

    The cap is raised, and a larger share of the patches is kept. The covering radius is reduced, so that new
    patches may be nearer to those in the bank. Notes of the last update are left out.
    """
    manifest = _without_update_notes(old).manifest
    config = dict(manifest.config)
    facts = dict(manifest.facts)
    cap = _cap_at_fit(old)
    if cap is not None:
        config["cap"] = math.ceil(CAP_GROWTH * cap)
    for key in RATIO_SETTINGS:
        if config.get(key):
            config[key] = min(1.0, RATIO_FACTOR * config[key])
    if RADIUS_KEY in facts:
        facts[RADIUS_KEY] = [RADIUS_FACTOR * radius for radius in facts[RADIUS_KEY]]
    return replace(old, manifest=replace(manifest, config=config, facts=facts))


def _cap_at_fit(old: Artefact) -> int | None:
    """Return the cap of the memory bank before updates raised it; None: there is none."""
    cap = old.manifest.facts.get(CORRECTIONS, {}).get("cap", old.manifest.config.get("cap"))
    return None if cap is None else int(cap)


def _with_rows(
    predictor: Predictor, old: Artefact, rows: tuple[Picture, ...], learnt_count: int
) -> Predictor:
    """Return the model with these rows, calibrated on the rows that count.

    Settings and facts that were changed for corrected pictures (`make_room_in_bank`) are reset.

    Args:
        predictor: The model, with the pictures to learn from in its bank.
        old: The trained model before.
        rows: Rows of all pictures.
        learnt_count: Number of pictures learnt from in this update.
    """
    manifest = predictor.manifest
    old_manifest = old.manifest
    counted_before = {row.hash for row in old_manifest.pictures if row.counted}
    newly_counted = sum(row.counted and row.hash not in counted_before for row in rows)
    counted_of_line = sum(row.counted and row.drawn for row in rows)
    # without "; N drawn from the line", which an earlier update may have added
    method = old_manifest.calibration.method.partition(";")[0]
    arguments = predictor.calibration.to_dict()
    arguments["method"] = f"{method}; {counted_of_line} drawn from the line" if counted_of_line else method
    facts = dict(manifest.facts)
    cap = _cap_at_fit(old)
    if cap is not None:
        facts[CORRECTIONS] = {"cap": cap}
    if RADIUS_KEY in old_manifest.facts:
        # the new radius covers the patches of corrected pictures; the larger radius covers the whole bank
        radii = zip(old_manifest.facts[RADIUS_KEY], manifest.facts[RADIUS_KEY], strict=True)
        facts[RADIUS_KEY] = [max(old_radius, new_radius) for old_radius, new_radius in radii]
    ratios = {key: old_manifest.config[key] for key in RATIO_SETTINGS if key in old_manifest.config}
    manifest = replace(manifest, config={**manifest.config, **ratios}, facts=facts, pictures=rows)
    threshold_source = (
        f"good pictures as they come, {newly_counted} of them drawn from the line now"
        if newly_counted
        else "the earlier calibration pictures alone"
    )
    note = (
        f"learnt from {pluralize(learnt_count, 'picture')}; the threshold comes from {threshold_source}: "
        "pictures that somebody chose do not show what good ones are like"
    )
    return predictor.with_manifest(manifest).with_calibration(calibrate(rows, **arguments), note)


# ------------------------------------------------------------------------------------------- other methods


def recalibrate_model(job: Job) -> list[Candidate]:
    """Return a candidate with the active model's network, and thresholds from the drawn pictures only.

    Raises:
        InputError: The model decides on parts, or too few drawn pictures can calibrate.
    """
    if job.decides_on_parts:
        raise InputError(
            "a model that decides on parts is calibrated on all views of good parts: give them to "
            "`flawscope calibrate`"
        )
    drawn = [picture for picture in job.pictures if picture.drawn and picture.good]
    rate = job.old.manifest.calibration.rate
    needed = min_calibration_size(rate)
    if len(drawn) < needed:
        raise InputError(
            f"{pluralize(len(drawn), 'good picture')} of the line can calibrate, {needed} are needed for "
            f"{rate:.1%}: inspect and review more"
        )
    pictures = job.new.table.pictures.subset([job.new.place(picture) for picture in drawn])
    names = [picture.name for picture in drawn]
    result = recalibrate(job.active, pictures, names, job.options.step, job.options.force)
    model = job.active.with_manifest(result.manifest).with_failures(result.failures)
    if model.calibration.unit_count < needed:
        raise InputError(
            f"only {pluralize(model.calibration.unit_count, 'drawn picture')} of different parts can "
            f"calibrate, the others are copies or were learnt from; {needed} are needed: inspect and review "
            "more"
        )
    # the model, and the function that returns its scores of pictures
    return [(model, lambda judged: job.score(model, judged, known={}))]


def retrain_model(job: Job) -> list[Candidate]:
    """Return a candidate that is trained anew, with the options of the old model's fit.

    To score the pictures that the candidate learns from, further models are trained, each without one fold of
    these pictures.

    Raises:
        InputError: The data set of the fit is not known, or a name states no part.
    """
    if job.good is None:
        raise InputError(
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    job.check_names()
    old = job.old
    good = job.good
    defects: list[ReviewedPicture] = []
    if registry.method(old.manifest.method).takes_seen_defects:
        defects = [picture for picture in job.pictures if not picture.good and picture.mask]
    learnt = {picture.digest: picture for picture in (*job.to_learn, *defects)}
    fold_by_digest = {digest: job.new.row(picture).unit % FOLDS for digest, picture in learnt.items()}
    seen_before, lost_defects = _find_seen_defects(old, good)
    names = relative_names([item.path for item in (*good.train, *good.validation)])
    train_names = names[: len(good.train)]
    validation_names = names[len(good.train) :]
    options = refit_options(old)
    options["device"] = job.options.device

    def train(name: str, left_out_fold: int | None = None, check: bool = False) -> Predictor:
        """Train a model on all pictures except those of fold `left_out_fold`; None: on all pictures."""
        seen = [
            (picture.source, picture.mask)
            for picture in defects
            if picture.mask and fold_by_digest[picture.digest] != left_out_fold
        ]
        all_seen = [*seen_before, *seen] or 0  # 0: no defects
        added = [picture for picture in job.to_learn if fold_by_digest[picture.digest] != left_out_fold]
        added_items = [Item(_file_of(picture), "good", anomalous=False) for picture in added]
        added_names = [picture.name for picture in added]
        job.options.say(f"training {name}")

        def step(stage: str, done: int, total: int) -> None:
            job.options.step(f"{name}: {stage}", done, total)

        return fit(
            replace(good, train=(*good.train, *added_items)),
            names=[*train_names, *added_names, *validation_names],
            check=check,
            say=job.options.say,
            step=step,
            **{**options, "seen": all_seen},
        )

    model = _with_old_choices(train("the model", check=job.options.check), old.manifest)
    notes = _training_notes(model, lost_defects)
    for note in notes:
        job.options.say(note)
    model = model.with_calibration(model.calibration, *notes)
    model_by_left_out_fold = {}
    for fold in sorted(set(fold_by_digest.values())):
        model_by_left_out_fold[fold] = train(f"without part {fold + 1} of {FOLDS}", left_out_fold=fold)

    def score_left_out(pictures: Sequence[ReviewedPicture]) -> dict[int, Score]:
        """Score each picture by a model that has not learnt from it."""
        not_learnt = [picture for picture in pictures if picture.digest not in fold_by_digest]
        scores = job.score(model, not_learnt, known={})
        for fold, fold_model in model_by_left_out_fold.items():
            fold_pictures = [picture for picture in pictures if fold_by_digest.get(picture.digest) == fold]
            fold_scores = job.score(fold_model, fold_pictures, known={})
            scores |= {number: score._replace(learnt=True) for number, score in fold_scores.items()}
        return scores

    return [(model, score_left_out)]


def _training_notes(model: Predictor, lost_defects: int) -> list[str]:
    """Return notes on the pictures that a training did not use.

    Args:
        model: The trained model.
        lost_defects: Number of known defects that are not in the folder any more.
    """
    notes = []
    if lost_defects:
        notes.append(
            f"{pluralize(lost_defects, 'known defect')} that the earlier model had learnt from "
            f"{'is' if lost_defects == 1 else 'are'} not in the folder any more, and not learnt"
        )
    if model.failures:
        unused = pluralize(len(model.failures), "picture")
        notes.append(f"{unused} of the training not used, such as: {model.failures[0]}")
    return notes


def _with_old_choices(model: Predictor, old: Manifest) -> Predictor:
    """Return the model with the old model's settings that people chose, and that no option of `fit` sets."""
    facts = {**carried_facts(old), **model.manifest.facts}
    calibration = replace(model.calibration, outline=old.calibration.outline)
    return model.with_manifest(replace(model.manifest, facts=facts, calibration=calibration))


def _file_of(picture: ReviewedPicture) -> Path:
    """Return the path of a picture.

    Raises:
        InputError: The picture is no file.
    """
    if not isinstance(picture.source, str | os.PathLike):
        raise InputError(f"picture {picture.number} is no file, and a training reads files: save it first")
    return Path(picture.source)


def _find_seen_defects(old: Artefact, good: Dataset) -> tuple[list[tuple[Path, list[Mask]]], int]:
    """Find, in the data set of a model's fit, the defects that the model had learnt from.

    Returns:
        Each defect that was found, with its masks; and the number of defects that are missing.
    """
    seen_hashes = {picture.hash for picture in old.manifest.pictures if picture.role == "seen"}
    if not seen_hashes:
        return [], 0
    defect_by_hash = {}
    for item in good.test:
        if item.anomalous and item.masks:
            with suppress(InputError):  # a picture that cannot be read counts as missing
                defect_by_hash[pixel_hash(decode(item.path))] = (item.path, list(item.masks))
    found_hashes = seen_hashes & defect_by_hash.keys()
    return [defect_by_hash[digest] for digest in sorted(found_hashes)], len(seen_hashes - found_hashes)
