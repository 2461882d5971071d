"""Judges good pictures by a model as if it had not learnt from them, and calibrates the model on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.detection import with_decided_defects
from flawscope.artefact.expected import ExpectedPictures
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import (
    check_whole_parts,
    part_calibration,
    stored_part_pattern,
    stored_part_reader,
)
from flawscope.calibration.goods import LOST, Values, calibrate, judge, map_values
from flawscope.calibration.outliers import odd, settle
from flawscope.calibration.power import DefectScores
from flawscope.errors import ExcludedPictureError, InputError, join_names, pluralize
from flawscope.pictures.appearance import FeatureValues
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.table import CALIBRATE, Picture, PictureTable
from flawscope.pictures.units import Units, units_of
from flawscope.predictor.decoded_pictures import loader
from flawscope.predictor.streaming import LoadResult, stream_predictions
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.findings import COUNT_WRONG, PART_NOT_FOUND, Finding
from flawscope.results.prediction import Prediction
from flawscope.runtime import Run
from flawscope.views.light import Light, within_range

if TYPE_CHECKING:
    from flawscope.predictor import Predictor

RunOf = Callable[[Picture, Run], Run]
LOST_FINDINGS = (PART_NOT_FOUND, COUNT_WRONG)  # with which a good picture is called anomalous, too


class JudgedPicture(NamedTuple):
    """Good picture that a model judged.

    values: [lights, 3], `Values` in each light, its own first; NaN where its parts are not found or counted
        wrong.
    measured: its appearance. look: its thumbnail (`view_looks`), of a model of parts in views.
    """

    values: NDArray[np.float64]
    measured: FeatureValues
    look: NDArray[np.float32] | None

    @property
    def is_lost(self) -> bool:
        return bool(np.isnan(self.values).any())


@dataclass(frozen=True)
class JudgedPictures:
    """Good pictures that a model judged, by number. failures: why others cannot be used, by number. excluded:
    numbers of those that the model has learnt from and cannot leave out."""

    pictures: dict[int, JudgedPicture]
    failures: dict[int, str]
    excluded: list[int]

    def fill(self, rows: Mapping[int, Picture]) -> dict[int, Picture]:
        """Returns those of the rows that were judged, each with what was judged. rows: by number."""
        numbers = [number for number in rows if number in self.pictures]
        seen = [
            rows[number].seen(rows[number].look, self.pictures[number].measured, rows[number].size)
            for number in numbers
        ]
        values = np.array([self.pictures[number].values for number in numbers])
        return dict(zip(numbers, judge(seen, values), strict=True))


def judge_good(
    predictor: Predictor,
    pictures: DecodedPictures,
    rows: Mapping[int, Picture],
    *,
    run_of: RunOf,
    lights: Sequence[Light] | None = None,
    step: ProgressCallback = ignore_progress,
) -> JudgedPictures:
    """Judges good pictures as any prediction does.

    Args:
        rows: of the pictures to judge, by number.
        run_of: gives the run that has not learnt from a row's unit, by the session's; it, or its run, may
            raise an `ExcludedPictureError`.
        lights: further ones that each is judged in; None: those in which the model keeps its rate.
    """
    more = predictor.manifest.preprocess.lights[1:] if lights is None else lights
    answers = _Answers(predictor, pictures, more)

    def judge_batch(batch: Sequence[tuple[int, LoadResult]], run: Run) -> list[int]:
        alike = list[tuple[int, LoadResult]]()
        for number, loaded in batch:
            try:
                own = run_of(rows[number], run)
            except ExcludedPictureError:
                answers.excluded.append(number)
                continue
            if own is run:
                alike.append((number, loaded))
            else:
                answers.judge([(number, loaded)], own)
        answers.judge(alike, run)
        return [number for number, _ in batch]

    tiled = predictor.manifest.preprocess.tile is not None
    load = loader(predictor, pictures)
    for done, _ in enumerate(stream_predictions([*rows], load, judge_batch, predictor.session, None, tiled)):
        step("calibration", done, len(rows))
    step("calibration", len(rows), len(rows))
    return answers.collected()


@dataclass
class _Answers:
    """Answers of a model on good pictures, as they come. lights: further ones."""

    predictor: Predictor
    pictures: DecodedPictures
    lights: Sequence[Light]
    judged: dict[int, JudgedPicture] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    excluded: list[int] = field(default_factory=list)

    def judge(self, batch: Sequence[tuple[int, LoadResult]], run: Run) -> None:
        """Judges loaded pictures by one run, in their own light together, in others one by one."""
        shown = [(self.pictures.sources[number], loaded) for number, loaded in batch]
        try:
            results = self.predictor.judge(shown, run)
        except ExcludedPictureError:
            self.excluded += [number for number, _ in batch]
            return
        for (number, loaded), (_, result) in zip(batch, results, strict=True):
            if isinstance(loaded, InputError):
                self.failures[number] = str(loaded)
            elif isinstance(result, InputError):
                self.failures[number] = str(result)
            else:
                self._keep(number, loaded[1], result, run)

    def _keep(self, number: int, measured: FeatureValues, own: Prediction, run: Run) -> None:
        refusal = _refusal(own)
        if refusal is not None and refusal.code not in LOST_FINDINGS:
            name = own.path or "a picture"
            self.failures[number] = f"cannot calibrate on {name}: {refusal.words}; remove it"
            return
        values = np.full((1 + len(self.lights), 3), np.nan)
        if refusal is None:
            values[0] = self._values(own)
            for k, light in enumerate(self.lights, start=1):
                lit = light(self.pictures.read(number))
                values[k] = self._values(self._predict(lit, run))
        self.judged[number] = JudgedPicture(values, measured, own.look)

    def _predict(self, picture: NDArray[Any], run: Run) -> Prediction:
        [(_, found)] = self.predictor.judge([(picture, self.predictor.see(picture, picture))], run)
        if isinstance(found, InputError):
            raise found
        return found

    def _values(self, found: Prediction) -> Values:
        if _refusal(found) is not None:
            return LOST
        return map_values(found.score, found.map, self.predictor.valid_mask(found.geometry))

    def collected(self) -> JudgedPictures:
        """All answers, by rising numbers."""
        return JudgedPictures(
            dict(sorted(self.judged.items())), dict(sorted(self.failures.items())), sorted(self.excluded)
        )


def _refusal(found: Prediction) -> Finding | None:
    """The finding that decides about a picture instead of its score; None: there is none."""
    return next((one for one in found.findings if one.decides), None)


def lost_note(names: Sequence[str]) -> str:
    """Note on good pictures that count as above all scores, by their names."""
    return (
        "parts not found, counted wrong or lost in some light, and so counted as anomalous: "
        f"{join_names(names)}"
    )


def leave_out_known(predictor: Predictor, known: Iterable[Picture]) -> RunOf:
    """Returns what gives a picture of a known row's unit the run that has not learnt from it."""
    units = {row.unit for row in known if row.learnt}

    def run_of(row: Picture, run: Run) -> Run:
        if row.unit not in units:
            return run
        return predictor.session.run_without(predictor.artefact, row.unit)

    return run_of


# ----------------------------------------------------------------------------------------- a new calibration


@dataclass(frozen=True)
class _NewPictures:
    """New good pictures of a calibration.

    rows: of those that were judged, by number. units: of all that the model does not know by their pixels.
    failures: why others cannot be used. left_out: how many show parts that the model has learnt from, or are
    copies.
    """

    rows: dict[int, Picture]
    judged: JudgedPictures
    units: Units
    failures: list[str]
    left_out: int

    @property
    def usable(self) -> list[Picture]:
        return [row for row in self.rows.values() if not row.is_lost]

    @property
    def lost(self) -> list[str]:
        """Names of the pictures that count as above all."""
        return [row.name for row in self.rows.values() if row.is_lost]

    def looks_of_views(self, manifest: Manifest) -> dict[str, list[NDArray[np.float32]]]:
        """Thumbnails of the pictures of each view of a part; empty where the model judges single pictures."""
        pattern, found = stored_part_pattern(manifest), dict[str, list[NDArray[np.float32]]]()
        for number, row in self.rows.items():
            look = self.judged.pictures[number].look
            if pattern is not None and look is not None:
                found.setdefault(pattern.parse(row.name).view, []).append(look)
        return found

    def notes(self) -> Iterator[str]:
        """Lines of the new model on what it was calibrated on."""
        yield f"calibrated anew on {pluralize(len(self.usable), 'good picture')}"
        if self.lost:
            yield lost_note(self.lost)
        yield from self.units.remarks
        if self.units.further:
            names = join_names([self.units.rows[k].name for k in self.units.further])
            yield f"judged without what the model has learnt of their parts, which names tell: {names}"
        if self.left_out:
            fitted = pluralize(self.left_out, "picture")
            copies = self.units.describe_copies()
            yield (
                f"not calibrated with {fitted} that the model was fitted on, or copies"
                f"{f': {copies}' if copies else ''}"
            )


def _judge_new(
    predictor: Predictor,
    good: DecodedPictures,
    names: Sequence[str],
    known: Sequence[Picture],
    step: ProgressCallback,
) -> _NewPictures:
    """Judges the good pictures that a model has not learnt from. known: rows that it has learnt from."""
    table = PictureTable.read(good, names, CALIBRATE, step)
    hashes = {row.hash for row in known}
    fresh = [number for number in table.distinct() if table.rows[number].hash not in hashes]
    part_of = stored_part_reader(predictor.manifest)
    units = units_of([table.rows[number] for number in fresh], known, part_of)
    asked = {number: units.rows[k] for k, number in enumerate(fresh) if k not in units.copies}
    run_of = leave_out_known(predictor, known)
    judged = judge_good(predictor, good, asked, run_of=run_of, step=step)
    failures = [*table.failures.values(), *judged.failures.values()]
    left_out = len(names) - len(judged.pictures) - len(failures)
    return _NewPictures(judged.fill(asked), judged, units, failures, left_out)


def _check_usable(new: _NewPictures, given: int) -> None:
    """InputError where a model can be calibrated on none of so many given pictures."""
    if new.usable:
        return
    if new.lost:
        raise InputError(
            "the parts of none of the good pictures are found in all light: fit with a smaller --light, or "
            "without --align"
        )
    if new.failures:
        raise InputError(new.failures[0])
    why = "the model was fitted on all of them: give good pictures it has not seen"
    copies = new.units.describe_copies()
    raise InputError((f"{why} ({copies})" if copies else why) if given else "no good pictures given")


def recalibrate(
    predictor: Predictor,
    good: DecodedPictures,
    names: Sequence[str],
    step: ProgressCallback,
    force: bool,
) -> Predictor:
    """Returns the model with thresholds from new good pictures (`Predictor.calibrate`). names: of the
    pictures, which tell their parts."""
    manifest, before = predictor.manifest, predictor.calibration
    pattern = stored_part_pattern(manifest)
    if pattern is not None:
        check_whole_parts(part_calibration(manifest, pattern).views, pattern.parse_all(names))
    known = [row.forgotten() for row in manifest.pictures if row.learnt]
    new = _judge_new(predictor, good, names, known, step)
    _check_usable(new, len(names))
    rows = (*known, *new.rows.values())
    how = before.to_dict() | {
        "method": f"held out{within_range(manifest.preprocess.normalization)}",
        "runtime": predictor.session.runtime,
        "promised": True,
    }
    calibration = calibrate(rows, **how)
    expected = ExpectedPictures.from_facts(manifest.facts)
    found = odd(
        rows,
        calibration,
        DefectScores.from_facts(manifest.facts),
        {row.hash for row in new.usable},
        before=before,
        appearance=expected.appearance,
        left_out=new.left_out,
    )
    remarks, questions = settle(found, force)
    notes = *new.notes(), *expected.scale_notes(new.usable), *remarks
    widened = expected.widened(new.usable).with_views(new.looks_of_views(manifest))
    changed = predictor.with_calibration(calibration, *notes).manifest
    changed = replace(changed, pictures=rows, facts=widened.to_facts(changed.facts))
    changed = with_decided_defects(changed).asking(*questions)
    return predictor.with_manifest(changed).with_failures(new.failures)
