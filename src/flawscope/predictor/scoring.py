"""Scores good pictures as if the model had not learnt from their parts.

`score` is the only place that fills a row's values of its map, or counts a picture as lost. Each source of
pictures is a `ModelPictures` of its own: of a session (`SessionPictures`), of a fit (`fitting.judging`), of a
reduced precision beside the trained one (`export.recalibrate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.rows import LOST, Values, judge, map_values
from flawscope.errors import ExcludedPictureError, InputError, data_checks, failure_of, join_names
from flawscope.pictures.appearance import FeatureValues
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.table import Picture
from flawscope.predictor.decoded_pictures import loader
from flawscope.predictor.product_model import ProductModel
from flawscope.predictor.streaming import LoadResult, stream_predictions
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.findings import COUNT_WRONG, PART_NOT_FOUND, Finding
from flawscope.results.prediction import Prediction
from flawscope.runtime import Run
from flawscope.views.light import Light

# Gives the run that has not learnt from a row's unit; None: the model's own, which has not. It, or its run,
# may raise an `ExcludedPictureError`.
RunOf = Callable[[Picture], Run | None]
Lights = Sequence[Light]
LOST_FINDINGS = (PART_NOT_FOUND, COUNT_WRONG)  # with which a good picture is called anomalous, too


class Answer(NamedTuple):
    """Answer of a model on a good picture.

    Attributes:
        values: [lights, 3], `Values` in each light, the picture's own first; `LOST` where the picture's parts
            are not found or counted wrong.
        measured: The picture's appearance; empty: its row has it.
        look: The picture's thumbnail (`view_looks`), of a model of parts in views.
    """

    values: NDArray[np.float64]
    measured: FeatureValues = ()
    look: NDArray[np.float32] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the picture's parts are not found or counted wrong in some light."""
        return bool(np.isnan(self.values).any())


@dataclass(frozen=True)
class Answers:
    """Answers of a model on pictures, by the picture's number.

    Attributes:
        pictures: The answers.
        failures: Reasons why other pictures cannot be used.
        excluded: Numbers of the pictures that the model has learnt from and cannot leave out.
    """

    pictures: dict[int, Answer] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    excluded: list[int] = field(default_factory=list)

    def in_order(self) -> Answers:
        """Return the same answers, sorted by number."""
        pictures = dict(sorted(self.pictures.items()))
        failures = dict(sorted(self.failures.items()))
        return Answers(pictures, failures, sorted(self.excluded))


class ModelPictures(Protocol):
    """Good pictures, and a model that answers on them."""

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Lights) -> Answers:
        """Return the model's answers on the pictures of rows, in each light.

        Args:
            rows: The rows, by number.
            run_of: Returns the run that has not learnt from a row's unit.
            lights: The lights; the first is the pictures' own.
        """


@dataclass(frozen=True)
class ScoredRows:
    """Rows that were scored, by number.

    Attributes:
        rows: The rows with an answer, scored in all lights.
        unlit: The same rows, scored in their own light alone.
        answers: The model's answers that they were scored by.
    """

    rows: dict[int, Picture]
    unlit: dict[int, Picture]
    answers: Answers

    @property
    def usable(self) -> list[Picture]:
        """Rows with a score: their parts are found in all light."""
        return [row for row in self.rows.values() if not row.is_lost]

    @property
    def lost(self) -> dict[int, Picture]:
        """Rows that count as above all scores."""
        return {number: row for number, row in self.rows.items() if row.is_lost}


def score(
    table: ModelPictures, rows: Mapping[int, Picture], run_of: RunOf, lights: Sequence[Light]
) -> ScoredRows:
    """Score rows and mark them as counted; a row whose parts are lost in a light counts above all scores.

    Args:
        table: The rows' pictures, and the model.
        rows: The rows, by number.
        run_of: Returns the run that has not learnt from a row's unit.
        lights: Lights of the model's preprocessing (`Preprocess.lights`), or the first of them alone.
    """
    answers = table.answers(rows, run_of, lights)
    numbers = [number for number in rows if number in answers.pictures]
    if not numbers:
        return ScoredRows({}, {}, answers)
    seen = []
    for number in numbers:
        row = rows[number]
        measured = answers.pictures[number].measured
        seen.append(row.seen(row.look, measured, row.size) if measured else row)
    values = np.array([answers.pictures[number].values for number in numbers])
    judged = judge(seen, values)
    unlit = judge(seen, values[:, :1])
    return ScoredRows(
        dict(zip(numbers, judged, strict=True)), dict(zip(numbers, unlit, strict=True)), answers
    )


def leave_out_known(model: ProductModel, known: Iterable[Picture]) -> RunOf:
    """Return the `RunOf` of a model: for a picture of a known row's unit, the run without that unit."""
    units = {row.unit for row in known if row.learnt}

    def run_of(row: Picture) -> Run | None:
        if row.unit not in units:
            return None
        return model.session.run_without(model.artefact, row.unit)

    return run_of


def lost_note(names: Sequence[str]) -> str:
    """Return the note on good pictures, by name, that count as above all scores."""
    return data_checks.LOST_PARTS.coded(
        "parts not found, counted wrong or lost in some light, and so counted as anomalous: "
        f"{join_names(names)}"
    )


# ----------------------------------------------------------------------------------------------- by a session


@dataclass(frozen=True)
class SessionPictures:
    """Good pictures that a model judges in its session, like any others."""

    model: ProductModel
    pictures: DecodedPictures
    step: ProgressCallback = ignore_progress

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Lights) -> Answers:
        """Return the model's answers on the pictures of rows, and report the progress to `step`."""
        found = _SessionAnswers(self.model, self.pictures, lights[1:])

        def judge_batch(batch: Sequence[tuple[int, LoadResult]], run: Run) -> list[int]:
            found.add_batch(batch, run, rows, run_of)
            return [number for number, _ in batch]

        tiled = self.model.manifest.preprocess.tile is not None
        load = loader(self.model, self.pictures)
        session = self.model.session
        for done, _ in enumerate(
            stream_predictions([*rows], load, judge_batch, session, batch=None, tiled=tiled)
        ):
            self.step("calibration", done, len(rows))
        self.step("calibration", len(rows), len(rows))
        return found.answers.in_order()


@dataclass
class _SessionAnswers:
    """Collects the answers of a model on good pictures. `lights` are those beside the pictures' own."""

    model: ProductModel
    pictures: DecodedPictures
    lights: Sequence[Light]
    answers: Answers = field(default_factory=Answers)

    def add_batch(
        self,
        batch: Sequence[tuple[int, LoadResult]],
        shared_run: Run,
        rows: Mapping[int, Picture],
        run_of: RunOf,
    ) -> None:
        """Judge loaded pictures: one by one where the model has learnt from them, the others together.

        Args:
            batch: Numbers of pictures, and the loaded pictures.
            shared_run: Judges the pictures that the model has not learnt from.
            rows: Rows of the pictures, by number.
            run_of: Gives the run that judges a picture without what the model learnt from it; None: the
                model has not learnt from it.
        """
        not_learnt = list[tuple[int, LoadResult]]()
        for number, loaded in batch:
            try:
                run_without_it = run_of(rows[number])
            except ExcludedPictureError:
                self.answers.excluded.append(number)
                continue
            if run_without_it is None:
                not_learnt.append((number, loaded))
            else:
                self._judge([(number, loaded)], run_without_it)
        self._judge(not_learnt, shared_run)

    def _judge(self, batch: Sequence[tuple[int, LoadResult]], run: Run) -> None:
        """Judge loaded pictures by one run: together in their own light, one by one in the others."""
        shown = [(self.pictures.sources[number], loaded) for number, loaded in batch]
        try:
            results = self.model.judge(shown, run)
        except ExcludedPictureError:
            self.answers.excluded.extend(number for number, _ in batch)
            return
        for (number, loaded), (_, result) in zip(batch, results, strict=True):
            if isinstance(loaded, InputError):
                self.answers.failures[number] = failure_of(loaded)
            elif isinstance(result, InputError):
                self.answers.failures[number] = failure_of(result)
            else:
                self._keep(number, loaded[1], result, run)

    def _keep(self, number: int, measured: FeatureValues, prediction: Prediction, run: Run) -> None:
        refusal = _refusal(prediction)
        if refusal is not None and refusal.code not in LOST_FINDINGS:
            name = prediction.path or "a picture"
            line = f"cannot calibrate on {name}: {refusal.words}; remove it"
            self.answers.failures[number] = data_checks.CANNOT_CALIBRATE.coded(line)
            return
        values = np.full((1 + len(self.lights), 3), np.nan)
        if refusal is None:
            values[0] = self._values(prediction)
            for k, light in enumerate(self.lights, start=1):
                lit = light(self.pictures.read(number))
                values[k] = self._values(self._predict(lit, run))
        self.answers.pictures[number] = Answer(values, measured, prediction.look)

    def _predict(self, picture: NDArray[Any], run: Run) -> Prediction:
        [(_, found)] = self.model.judge([(picture, self.model.see(picture, picture))], run)
        if isinstance(found, InputError):
            raise found
        return found

    def _values(self, found: Prediction) -> Values:
        if _refusal(found) is not None:
            return LOST
        return map_values(found.score, found.map, self.model.valid_mask(found.geometry))


def _refusal(found: Prediction) -> Finding | None:
    """Return the finding that decides on a picture instead of its score, or None."""
    return next((finding for finding in found.findings if finding.decides), None)
