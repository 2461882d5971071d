"""Scores good pictures as if the model had not learnt from their parts.

`score` is the only place that fills in a row's values, or counts a picture as lost. Each source of pictures
is a `ModelPictures` of its own: pictures of a session (`SessionPictures`), of a fit (`fitting.judging`), or
of a model of reduced precision (`export.recalibrate`).
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

# Function that takes a row, and returns the run of the model without the row's unit; None: the model has not
# learnt from that unit, and its ordinary run is used. The function, or the returned run, may raise an
# `ExcludedPictureError`.
RunOf = Callable[[Picture], Run | None]
Lights = Sequence[Light]
LOST_FINDINGS = (PART_NOT_FOUND, COUNT_WRONG)  # findings by which a good picture counts as lost


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
        """Whether in some light the picture's parts are not found, or their number is wrong."""
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
            run_of: Returns the run of the model without a row's unit.
            lights: Changes of light; the first changes nothing.
        """


@dataclass(frozen=True)
class ScoredRows:
    """Rows that were scored, by number.

    Attributes:
        rows: The rows with an answer, scored in all lights.
        unlit: The same rows, scored in the pictures' own light only.
        answers: The model's answers, from which the scores come.
    """

    rows: dict[int, Picture]
    unlit: dict[int, Picture]
    answers: Answers

    @property
    def usable(self) -> list[Picture]:
        """Rows with a score: their parts are found in every light."""
        return [row for row in self.rows.values() if not row.is_lost]

    @property
    def lost(self) -> dict[int, Picture]:
        """Rows of lost pictures, by number; they count as if their scores were above all others."""
        return {number: row for number, row in self.rows.items() if row.is_lost}


def score(
    table: ModelPictures, rows: Mapping[int, Picture], run_of: RunOf, lights: Sequence[Light]
) -> ScoredRows:
    """Score rows and mark them as counted.

    A row whose parts are lost in some light counts as if its score were above all others.

    Args:
        table: The rows' pictures, and the model.
        rows: The rows, by number.
        run_of: Returns the run of the model without a row's unit.
        lights: The model's lights (`Preprocess.lights`), or only the first, which leaves a picture as it is.
    """
    answers = table.answers(rows, run_of, lights)
    numbers = [number for number in rows if number in answers.pictures]
    if not numbers:
        return ScoredRows({}, {}, answers)
    measured_rows = []
    for number in numbers:
        row = rows[number]
        appearance = answers.pictures[number].measured
        if appearance:
            row = row.seen(row.look, appearance, row.size)
        measured_rows.append(row)
    values = np.array([answers.pictures[number].values for number in numbers])  # [rows, lights, 3]
    unlit_values = values[:, :1]  # of the first light, which leaves a picture as it is
    scored_rows = judge(measured_rows, values)
    unlit_rows = judge(measured_rows, unlit_values)
    return ScoredRows(
        rows=dict(zip(numbers, scored_rows, strict=True)),
        unlit=dict(zip(numbers, unlit_rows, strict=True)),
        answers=answers,
    )


def leave_out_known(model: ProductModel, known: Iterable[Picture]) -> RunOf:
    """Return the `RunOf` of a model: it gives a row the run without what was learnt from the row's unit.

    Args:
        model: The model.
        known: Rows of the model's pictures.
    """
    learnt_units = {row.unit for row in known if row.learnt}

    def run_of(row: Picture) -> Run | None:
        if row.unit not in learnt_units:
            return None
        return model.session.run_without(model.artefact, row.unit)

    return run_of


def lost_note(names: Sequence[str]) -> str:
    """Return the note that names the good pictures that count as if they scored above all others."""
    return data_checks.LOST_PARTS.coded(
        "parts not found, counted wrong or lost in some light, and so counted as anomalous: "
        f"{join_names(names)}"
    )


# ----------------------------------------------------------------------------------------------- by a session


@dataclass(frozen=True)
class SessionPictures:
    """Good pictures that a model judges in its session, like any other picture."""

    model: ProductModel
    pictures: DecodedPictures
    step: ProgressCallback = ignore_progress

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Lights) -> Answers:
        """Return the model's answers on the pictures of rows, and report the progress to `step`."""
        further_lights = lights[1:]  # the first leaves a picture as it is
        collector = _SessionAnswers(self.model, self.pictures, further_lights)

        def judge_batch(batch: Sequence[tuple[int, LoadResult]], run: Run) -> list[int]:
            collector.add_batch(batch, run, rows, run_of)
            return [number for number, _ in batch]

        is_tiled = self.model.manifest.preprocess.tile is not None
        load = loader(self.model, self.pictures)
        session = self.model.session
        judged = stream_predictions([*rows], load, judge_batch, session, batch=None, tiled=is_tiled)
        for done, _ in enumerate(judged):
            self.step("calibration", done, len(rows))
        self.step("calibration", len(rows), len(rows))
        return collector.answers.in_order()


@dataclass
class _SessionAnswers:
    """Collects the answers of a model on good pictures.

    Attributes:
        model: The model.
        pictures: The pictures, decoded.
        lights: Further lights, without the pictures' own.
        answers: The answers up to now.
    """

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
        """Judge loaded pictures together; a picture that the model has learnt from is judged alone.

        Args:
            batch: Numbers of pictures, and the loaded pictures.
            shared_run: Judges the pictures that the model has not learnt from.
            rows: Rows of the pictures, by number.
            run_of: Returns for a row the run that judges without what was learnt from the row's unit; None:
                the model has not learnt from that unit.
        """
        to_judge_together = list[tuple[int, LoadResult]]()
        for number, loaded in batch:
            try:
                run_without_it = run_of(rows[number])
            except ExcludedPictureError:
                self.answers.excluded.append(number)
                continue
            if run_without_it is None:
                to_judge_together.append((number, loaded))
            else:
                self._judge([(number, loaded)], run_without_it)
        self._judge(to_judge_together, shared_run)

    def _judge(self, batch: Sequence[tuple[int, LoadResult]], run: Run) -> None:
        """Judge loaded pictures by `run`: together in their own light, one by one in the further lights."""
        with_sources = [(self.pictures.sources[number], loaded) for number, loaded in batch]
        try:
            results = self.model.judge(with_sources, run)
        except ExcludedPictureError:
            self.answers.excluded.extend(number for number, _ in batch)
            return
        for (number, loaded), (_, result) in zip(batch, results, strict=True):
            if isinstance(loaded, InputError):
                self.answers.failures[number] = failure_of(loaded)
            elif isinstance(result, InputError):
                self.answers.failures[number] = failure_of(result)
            else:
                appearance = loaded[1]
                self._add_answer(number, appearance, result, run)

    def _add_answer(self, number: int, appearance: FeatureValues, prediction: Prediction, run: Run) -> None:
        """Add the answer for a picture, and judge it in the further lights.

        Args:
            number: Number of the picture.
            appearance: Appearance of the picture as a whole.
            prediction: Prediction for the picture in its own light.
            run: Run that judges the picture in the further lights.
        """
        refusal = _refusal(prediction)
        if refusal is not None and refusal.code not in LOST_FINDINGS:
            name = prediction.path or "a picture"
            line = f"cannot calibrate on {name}: {refusal.words}; remove it"
            self.answers.failures[number] = data_checks.CANNOT_CALIBRATE.coded(line)
            return
        # a row of `_values` for the own light, and one for each further light; NaN: the picture is lost
        values = np.full((1 + len(self.lights), 3), np.nan)
        if refusal is None:
            values[0] = self._values(prediction)
            for light_number, light in enumerate(self.lights, start=1):
                changed_picture = light(self.pictures.read(number))
                values[light_number] = self._values(self._predict(changed_picture, run))
        self.answers.pictures[number] = Answer(values, appearance, prediction.look)

    def _predict(self, picture: NDArray[Any], run: Run) -> Prediction:
        """Judge a decoded picture; raise InputError if it cannot be judged."""
        loaded = self.model.see(picture, picture)
        [(_, result)] = self.model.judge([(picture, loaded)], run)
        if isinstance(result, InputError):
            raise result
        return result

    def _values(self, prediction: Prediction) -> Values:
        """Return the values of a prediction; `LOST`: a finding decides on the picture."""
        if _refusal(prediction) is not None:
            return LOST
        valid_mask = self.model.valid_mask(prediction.geometry)
        return map_values(prediction.score, prediction.map, valid_mask)


def _refusal(prediction: Prediction) -> Finding | None:
    """Return the finding that decides on a picture instead of its score; None: the score decides."""
    return next((finding for finding in prediction.findings if finding.decides), None)
