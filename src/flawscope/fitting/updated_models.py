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
FOLDS = 2  # of cross-fitting, where a method is trained anew
OF_THE_LINE = "of the line"  # name of pictures whose own is private
UPDATE_NOTE_PREFIXES = ("learnt from ", "extended by ")  # of notes that the next update replaces

# A model, and a function that returns its scores of pictures as if it had never learnt from them
Candidate = tuple[Predictor, Callable[[Sequence[ReviewedPicture]], dict[int, Score]]]


@dataclass(frozen=True)
class Job:
    """Input that all ways to make the next model share.

    Attributes:
        old: The trained model that learns.
        active: The model that judges now.
        pictures: All pictures that can be used.
        wanted: Those of them to learn from.
        new: Rows, places and decoded pixels of the pictures.
        before: The active model's scores of the pictures, by number.
        good: Data set that the old model was fitted on; None: not known.
        whole: Returns facts of a model with a manifest, and of all views that decide with it.
        options: Options of the update.
    """

    old: Artefact
    active: Predictor
    pictures: Sequence[ReviewedPicture]
    wanted: Sequence[ReviewedPicture]
    new: UpdatePictures
    before: Mapping[int, Score]
    good: Dataset | None
    whole: Callable[[Manifest], ModelFacts]
    options: UpdateOptions

    def score(
        self, model: Predictor, pictures: Sequence[ReviewedPicture], known: dict[str, float]
    ) -> dict[int, Score]:
        """Return scores of pictures by their numbers (`score_pictures`)."""
        whole = self.whole(model.manifest)
        new = self.new
        return score_pictures(
            model, pictures, new.places, new.table.pictures, known, whole, self.options.step
        )

    def check_names(self) -> None:
        """Raise InputError where a training would not know which part a picture shows."""
        pattern = self.whole(self.old.manifest).parts
        if pattern is not None:
            pattern.parse_all(dict.fromkeys(picture.name for picture in self.wanted))

    @property
    def decides_on_parts(self) -> bool:
        """Whether the model decides on parts, alone or with models of other views."""
        return self.whole(self.old.manifest).parts is not None


# ------------------------------------------------------------------------------------------------- extended


def extend_bank(job: Job) -> list[Candidate]:
    """Return candidates with a larger memory bank and the earlier calibration.

    The first has the drawn pictures in its calibration, the second does not.
    """
    old = job.old
    inside = {row.hash for row in old.manifest.pictures if row.learnt}
    chosen = list(
        {picture.digest: picture for picture in job.wanted if picture.digest not in inside}.values()
    )
    predictor = open_fitted(old, job.options.device)
    before = old.manifest.pictures
    if chosen:
        alarms = sum(
            job.before[picture.number].anomalous for picture in chosen if picture.number in job.before
        )
        start = make_room_in_bank(old) if 2 * alarms >= len(chosen) else _without_update_notes(old)
        predictor = learn_pictures(
            start, job.new, chosen, device=job.options.device, check=job.options.check, step=job.options.step
        )
    # pictures that somebody chose have a score, and do not count
    added = [row for row in predictor.manifest.pictures[len(before) :] if not row.is_lost]
    learnt = [replace(row, counted=False) for row in added]
    rows, names, notes = _with_drawn(job, predictor, (*before, *learnt))
    for line in notes:
        job.options.say(line)  # not in the file: names of the line are private
    models = [_with_rows(predictor, old, rows, len(chosen))]
    if rows != (*before, *learnt):
        named = [replace(row, name=names.get(row.hash, row.name)) for row in rows]
        for finding in find_unusual(named, models[0].calibration, asks=False):
            job.options.say(finding.line)  # not in the file: names of the line are private
        models.append(_with_rows(predictor, old, (*before, *learnt), len(chosen)))
    known: dict[str, float] = {}  # the candidates have one network
    if not chosen and job.active.artefact is old:  # it has not changed
        known = {picture.digest: picture.before for picture in job.pictures if picture.before is not None}
    return [(model, lambda several, model=model: job.score(model, several, known)) for model in models]  # type: ignore[misc]


class _Drawn(NamedTuple):
    """Rows of a model with the line's pictures that were drawn by chance.

    Attributes:
        rows: The rows.
        names: Names of the drawn pictures, by hash.
        notes: Lines on drawn pictures that do not count, or count as lost.
    """

    rows: tuple[Picture, ...]
    names: dict[str, str]
    notes: list[str]


def _with_drawn(job: Job, predictor: Predictor, rows: tuple[Picture, ...]) -> _Drawn:
    """Return the rows with the line's drawn pictures that do not count yet.

    They are judged as if the model had not learnt from their parts. Near-copies of pictures that it had
    learnt from before do not count.
    """
    counted = {row.hash for row in rows if row.counted}
    line_sample = [picture for picture in job.pictures if picture.drawn and picture.good]
    sample = {picture.digest: picture for picture in line_sample if picture.digest not in counted}
    learnt = {row.hash for row in job.old.manifest.pictures if row.learnt}
    copies = {digest: job.new.copies[digest] for digest in sample if digest in job.new.copies}
    copies = {digest: known for digest, known in copies.items() if known.learnt}
    wanted = {
        digest: picture for digest, picture in sample.items() if digest not in copies and digest not in learnt
    }
    left_out = {row.hash for row in rows if row.hash in wanted and row.score is not None}
    kept = [replace(row, counted=True, drawn=True) if row.hash in left_out else row for row in rows]
    fresh = [picture for digest, picture in wanted.items() if digest not in left_out]
    # names are private, and needed by models that decide on parts alone
    asked = {
        job.new.place(picture): replace(
            job.new.row(picture),
            drawn=True,
            origin=LINE,
            name=picture.name if job.decides_on_parts else OF_THE_LINE,
        )
        for picture in fresh
    }
    line = SessionPictures(predictor, job.new.table.pictures, job.options.step)
    scored = score(line, asked, leave_out_known(predictor, rows), predictor.manifest.preprocess.lights)
    notes = [*scored.answers.failures.values()]
    if scored.lost:
        notes.append(lost_note([job.new.table.rows[place].name for place in sorted(scored.lost)]))
    if scored.answers.excluded:
        count = pluralize(len(scored.answers.excluded), "drawn picture")
        notes.append(f"not calibrated with {count} of parts that the model has learnt from")
    if copies:
        first, known = next(iter(copies.items()))
        count = pluralize(len(copies), "drawn picture")
        note = (
            f"not calibrated with {count} nearly the same as those that the model was fitted on, such as "
            f"{sample[first].name} as {known.name}"
        )
        notes.append(data_checks.KNOWN_PICTURES.coded(note))
    names = {picture.digest: picture.name for picture in fresh}
    return _Drawn((*kept, *scored.rows.values()), names, notes)


def with_whole_parts_drawn(pictures: Sequence[ReviewedPicture], facts: ModelFacts) -> list[ReviewedPicture]:
    """Return the pictures, drawn alone those whose part was drawn with all views, and is new.

    This holds where a model decides on parts: a view alone says nothing about parts.
    """
    parts = facts.known_parts().get(ONE)
    if parts is None:
        return [*pictures]
    views_of = dict[str, list[str]]()
    part_of = dict[int, str]()
    for place, picture in enumerate(pictures):
        if not (picture.drawn and picture.good):
            continue
        with suppress(InputError):  # its name states no part
            part, view = picture.shown(parts)
            views_of.setdefault(part, []).append(view)
            part_of[place] = part
    known = parts.calibration
    new = {part for part in views_of if part not in known.parts}
    whole = {part for part in new if sorted(views_of[part]) == sorted(known.views)}
    return [replace(picture, drawn=part_of.get(place) in whole) for place, picture in enumerate(pictures)]


def learn_pictures(
    old: Artefact,
    new: UpdatePictures,
    pictures: Sequence[ReviewedPicture],
    *,
    device: str,
    check: bool,
    step: ProgressCallback = ignore_progress,
) -> Predictor:
    """Return the model with these pictures in its bank, and in its calibration."""
    places = [new.place(picture) for picture in pictures]
    rows = {k: new.table.rows[place] for k, place in enumerate(places)}
    table = PictureTable(new.table.pictures.subset(places), rows, {})
    names = [picture.name for picture in pictures]
    group = old.manifest.facts.get("group")
    return learn_more(old, table, names, group=group, device=device, check=check, step=step)


def _without_update_notes(old: Artefact) -> Artefact:
    notes = tuple(note for note in old.manifest.notes if not note.startswith(UPDATE_NOTE_PREFIXES))
    return replace(old, manifest=replace(old.manifest, notes=notes))


def make_room_in_bank(old: Artefact) -> Artefact:
    """Return the model with a cap that leaves room in a full bank, and a smaller covering radius.

    A smaller radius lets nearer patches in.
    """
    manifest = _without_update_notes(old).manifest
    config = dict(manifest.config)
    facts = dict(manifest.facts)
    if (cap := _cap(old)) is not None:
        config["cap"] = math.ceil(CAP_GROWTH * cap)
    config |= {key: min(1.0, RATIO_FACTOR * config[key]) for key in RATIO_SETTINGS if config.get(key)}
    if RADIUS_KEY in facts:
        facts[RADIUS_KEY] = [RADIUS_FACTOR * radius for radius in facts[RADIUS_KEY]]
    return replace(old, manifest=replace(manifest, config=config, facts=facts))


def _cap(old: Artefact) -> int | None:
    """Return the cap of the memory bank as it was fitted; None: there is none."""
    cap = old.manifest.facts.get(CORRECTIONS, {}).get("cap", old.manifest.config.get("cap"))
    return None if cap is None else int(cap)


def _with_rows(predictor: Predictor, old: Artefact, rows: tuple[Picture, ...], learnt: int) -> Predictor:
    """Return the model calibrated on the rows that count; `learnt` is the number of pictures learnt from."""
    manifest = predictor.manifest
    before = old.manifest
    earlier = {row.hash for row in before.pictures if row.counted}
    drawn = sum(row.counted and row.hash not in earlier for row in rows)
    of_line = sum(row.counted and row.drawn for row in rows)
    method = before.calibration.method.partition(";")[0]
    how = predictor.calibration.to_dict() | {
        "method": f"{method}; {of_line} drawn from the line" if of_line else method
    }
    facts = dict(manifest.facts)
    if (cap := _cap(old)) is not None:
        facts[CORRECTIONS] = {"cap": cap}
    if RADIUS_KEY in before.facts:  # of the whole bank
        pairs = zip(before.facts[RADIUS_KEY], manifest.facts[RADIUS_KEY], strict=True)
        facts[RADIUS_KEY] = [max(pair) for pair in pairs]
    ratios = {key: before.config[key] for key in RATIO_SETTINGS if key in before.config}
    manifest = replace(manifest, config={**manifest.config, **ratios}, facts=facts, pictures=rows)
    threshold = (
        f"good pictures as they come, {drawn} of them drawn from the line now"
        if drawn
        else "the earlier calibration pictures alone"
    )
    note = (
        f"learnt from {pluralize(learnt, 'picture')}; the threshold comes from {threshold}: pictures "
        "that somebody chose do not show what good ones are like"
    )
    return predictor.with_manifest(manifest).with_calibration(calibrate(rows, **how), note)


# ------------------------------------------------------------------------------------------- other methods


def recalibrate_model(job: Job) -> list[Candidate]:
    """Return a candidate with thresholds from the drawn pictures alone.

    The network has not learnt from them.
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
    found = recalibrate(
        job.active, pictures, [picture.name for picture in drawn], job.options.step, job.options.force
    )
    model = job.active.with_manifest(found.manifest).with_failures(found.failures)
    if model.calibration.unit_count < needed:
        raise InputError(
            f"only {pluralize(model.calibration.unit_count, 'drawn picture')} of different parts can "
            f"calibrate, the others are copies or were learnt from; {needed} are needed: inspect and review "
            "more"
        )
    return [(model, lambda several: job.score(model, several, {}))]


def retrain_model(job: Job) -> list[Candidate]:
    """Return a candidate that is trained anew, with the options of the fit that made the old model.

    Pictures learnt from are judged by trainings without them, in folds.
    """
    if job.good is None:
        raise InputError(
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    job.check_names()
    old = job.old
    good = job.good
    takes_defects = registry.method(old.manifest.method).takes_seen_defects
    defects = (
        [picture for picture in job.pictures if not picture.good and picture.mask] if takes_defects else []
    )
    learnt = list({picture.digest: picture for picture in (*job.wanted, *defects)}.values())
    folds = {picture.digest: job.new.row(picture).unit % FOLDS for picture in learnt}
    seen_before, lost_defects = _find_seen_defects(old, good)
    names = relative_names([item.path for item in (*good.train, *good.validation)])
    options = refit_options(old) | {"device": job.options.device}

    def train(name: str, leave: int | None = None, check: bool = False) -> Predictor:
        seen = [
            (picture.source, picture.mask)
            for picture in defects
            if picture.mask and folds[picture.digest] != leave
        ]
        more = [picture for picture in job.wanted if folds[picture.digest] != leave]
        items = [Item(_file_of(picture), "good", anomalous=False) for picture in more]
        added = [picture.name for picture in more]
        job.options.say(f"training {name}")

        def step(stage: str, done: int, total: int) -> None:
            job.options.step(f"{name}: {stage}", done, total)

        return fit(
            replace(good, train=(*good.train, *items)),
            names=[*names[: len(good.train)], *added, *names[len(good.train) :]],
            check=check,
            say=job.options.say,
            step=step,
            **options | {"seen": [*seen_before, *seen] or 0},
        )

    model = _with_choices(train("the model", check=job.options.check), old.manifest)
    notes = list[str]()
    if lost_defects:
        notes.append(
            f"{pluralize(lost_defects, 'known defect')} that the earlier model had learnt from "
            f"{'is' if lost_defects == 1 else 'are'} not in the folder any more, and not learnt"
        )
    if model.failures:
        unused = pluralize(len(model.failures), "picture")
        notes.append(f"{unused} of the training not used, such as: {model.failures[0]}")
    for note in notes:
        job.options.say(note)
    model = model.with_calibration(model.calibration, *notes)
    others = {
        fold: train(f"without part {fold + 1} of {FOLDS}", fold) for fold in sorted(set(folds.values()))
    }

    def scores(several: Sequence[ReviewedPicture]) -> dict[int, Score]:
        scored = job.score(model, [picture for picture in several if picture.digest not in folds], {})
        for fold, other in others.items():
            of_fold = [picture for picture in several if folds.get(picture.digest) == fold]
            judged = job.score(other, of_fold, {})
            scored |= {number: score._replace(learnt=True) for number, score in judged.items()}
        return scored

    return [(model, scores)]


def _with_choices(model: Predictor, old: Manifest) -> Predictor:
    """Return the model with people's settings of the one before that are no options of a fit."""
    facts = {**carried_facts(old), **model.manifest.facts}
    calibration = replace(model.calibration, outline=old.calibration.outline)
    return model.with_manifest(replace(model.manifest, facts=facts, calibration=calibration))


def _file_of(picture: ReviewedPicture) -> Path:
    """Return the picture's file; InputError where it is no file."""
    if not isinstance(picture.source, str | os.PathLike):
        raise InputError(f"picture {picture.number} is no file, and a training reads files: save it first")
    return Path(picture.source)


def _find_seen_defects(old: Artefact, good: Dataset) -> tuple[list[tuple[Path, list[Mask]]], int]:
    """Return the data set's defects with masks that the old model had learnt from.

    The second value is the number of those that are not there any more.
    """
    wanted = {picture.hash for picture in old.manifest.pictures if picture.role == "seen"}
    seen = {}
    for item in good.test if wanted else ():
        if item.anomalous and item.masks:
            with suppress(InputError):  # one that cannot be read is not there
                seen[pixel_hash(decode(item.path))] = (item.path, list(item.masks))
    return [seen[digest] for digest in sorted(wanted & {*seen})], len(wanted - {*seen})
