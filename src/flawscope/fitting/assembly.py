"""Assembles a model from the results of a fit: calibration, notes, questions, and the manifest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.artefact.carried import carried_facts
from flawscope.artefact.expected import ExpectedPictures
from flawscope.artefact.model_file import Artefact, Manifest, package_versions
from flawscope.artefact.parts import PART, parts_of_rows
from flawscope.calibration.outliers import SUSPECTS, Unusual, find_unusual, list_suspects, settle
from flawscope.calibration.parts import KnownParts
from flawscope.calibration.power import SIMULATED_DEFECTS, DefectScores
from flawscope.calibration.rows import calibrate
from flawscope.calibration.size_bounds import SIZE_BOUNDS
from flawscope.calibration.threshold import Calibration
from flawscope.errors import data_checks, pluralize
from flawscope.fitting.judging import JudgedFit
from flawscope.fitting.preparation import PreparedFit
from flawscope.fitting.samples import Samples
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Fitted, Task
from flawscope.pictures.table import SEEN, Picture
from flawscope.types import Array, Json
from flawscope.views.light import within_range


@dataclass(frozen=True)
class KnownGood:
    """Good pictures that a model knows, and their calibration; an extended model keeps its earlier pictures.

    Attributes:
        pictures: Rows of the pictures.
        calibration: Calibration by these pictures.
        parts: Parts that the pictures show; None: the model decides on pictures.
    """

    pictures: tuple[Picture, ...]
    calibration: Calibration
    parts: KnownParts | None


def know_good(
    prepared: PreparedFit, judged: JudgedFit, old: Artefact | None, unlit: bool = False
) -> KnownGood:
    """Calibrate on the pictures of a fit, and on those of the model that is extended.

    Args:
        prepared: The prepared fit.
        judged: The judged fit.
        old: The model that is extended; None for a new one.
        unlit: Whether to calibrate on the scores in the pictures' own light only, instead of in all lights.
    """
    rows = judged.unlit if unlit else judged.rows
    reader = prepared.reader
    defects = [Picture(digest, SEEN, name, origin=reader.origin) for digest, name in reader.defects.items()]
    pictures = (*rows.values(), *defects)
    promised = judged.fitted.promised
    choices: Json = {"rate": prepared.task.rate}
    if old is not None:
        pictures = (*old.manifest.pictures, *pictures)
        choices = old.manifest.calibration.chosen
        promised = promised and old.manifest.calibration.promised
    calibration = calibrate(
        pictures,
        method=judged.how,
        precision=prepared.model.config.precision,
        promised=promised,
        **choices,
    )
    if prepared.part is None:
        return KnownGood(pictures, calibration, parts=None)
    return KnownGood(pictures, calibration, parts_of_rows(pictures, prepared.part, calibration.rate))


@dataclass(frozen=True)
class _Questions:
    """Unusual findings on new pictures.

    Attributes:
        unusual: The findings.
        notes: Remarks on the findings.
        lines: Questions about the findings.
    """

    unusual: list[Unusual] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """Results of a fit.

    Attributes:
        prepared: The prepared fit.
        task: Task with the pictures as the numbered items.
        judged: The judged fit.
        good: Good pictures that the model knows.
        defects: Scores of simulated defects; None: they were not tried.
        samples: Pictures that the model keeps.
        began: When the fit began, on `time.monotonic`'s clock.
    """

    prepared: PreparedFit
    task: Task
    judged: JudgedFit
    good: KnownGood
    defects: DefectScores | None
    samples: Samples
    began: float

    @property
    def fitted(self) -> Fitted:
        """The fit of whole pictures."""
        return self.judged.fitted

    @property
    def old(self) -> Artefact | None:
        """The model that is extended; None for a new one."""
        return self.task.old

    def to_artefact(self) -> Artefact:
        """Assemble the model, and say its notes."""
        expected, scale_notes = self._expected_pictures()
        questions = self._questions()
        notes = [*self._notes(), *scale_notes, *self._light_notes()]
        for note in notes:
            self.task.say(note)
        facts = expected.to_facts(self._facts(questions.unusual))
        manifest = self._manifest(facts, [*notes, *questions.notes])
        old_questions = () if self.old is None else self.old.manifest.questions
        return Artefact(manifest.asking(*old_questions, *questions.lines), self._tensors())

    def _manifest(self, facts: dict[str, Any], notes: Sequence[str]) -> Manifest:
        """Return the manifest of the model, without its questions."""
        prepared = self.prepared
        old_notes = () if self.old is None else self.old.manifest.notes
        return Manifest(
            method=prepared.method.name,
            config=_without_paths(prepared.model.config),
            preprocess=prepared.reader.preprocess,
            calibration=self.good.calibration,
            backbone=prepared.origin,
            category=prepared.category,
            pictures=self.good.pictures,
            facts=facts,
            notes=(*old_notes, *prepared.remarks, *notes),
            samples=self.samples.scores,
            versions=package_versions(),
            fusion=self.judged.fusion,
        )

    def _tensors(self) -> dict[str, Array]:
        """Return all arrays of the model file, by name."""
        all_tensors = {**self.prepared.model.state_dict(), **self.fitted.extra}
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in all_tensors.items()}
        if self.prepared.reader.region is not None:
            tensors["region"] = self.prepared.reader.region
        return tensors | dict(self.samples.tensors)

    def _facts(self, unusual: Sequence[Unusual]) -> dict[str, Any]:
        """Return the facts of the model; `unusual` are the findings on its pictures."""
        prepared = self.prepared
        fitted = self.fitted
        facts = carried_facts(None if self.old is None else self.old.manifest)
        facts |= fitted.facts
        facts["summary"] = [*fitted.summary]
        if prepared.chosen:
            facts["summary"].append(prepared.chosen)
        if self.defects is not None:
            facts[SIMULATED_DEFECTS] = self.defects.to_dict()
            facts[SIZE_BOUNDS] = self.defects.bounds.to_dict()
        facts |= {"group": prepared.group, **prepared.kept}
        if prepared.part is not None:
            facts[PART] = asdict(prepared.part)
        names = prepared.reader.names
        suspicious_scores = {names[number]: score for number, score in fitted.suspects.items()}
        score_by_name = {row.name: row.score for row in self.good.pictures}
        suspects = list_suspects(unusual, score_by_name, suspicious_scores)
        if suspects:
            facts[SUSPECTS] = [[*suspect] for suspect in suspects]
        facts["seconds_total"] = round(time.monotonic() - self.began, 3)
        if self.samples.seconds is not None:
            facts["seconds_view"] = round(self.samples.seconds, 4)
        facts["device"] = prepared.model.roi.device.type
        facts["threads"] = torch.get_num_threads()
        return facts

    def _new_pictures(self) -> list[int]:
        """Return the numbers of the good pictures that the fit used in any way."""
        fitted = self.fitted
        held = [number for numbers in fitted.held.values() for number in numbers]
        return sorted({*fitted.used, *fitted.scored, *held})

    def _expected_pictures(self) -> tuple[ExpectedPictures, list[str]]:
        """Return the pictures that the model expects, and notes on the scale of the new pictures.

        An extended model expects new pictures in addition to those that it expected before.
        """
        prepared = self.prepared
        numbers = self._new_pictures()
        rows = [self.judged.rows[number] for number in numbers]
        if self.old is not None:
            expected_before = ExpectedPictures.from_facts(self.old.manifest.facts)
            return expected_before.widened(rows), expected_before.scale_notes(rows)
        looks: dict[str, list[NDArray[np.float32]]] = {}
        if prepared.part is not None:
            for number, row in zip(numbers, rows, strict=True):
                view = prepared.part.parse(row.name).view
                looks.setdefault(view, []).append(prepared.reader.looks[number])
        return ExpectedPictures.learn(rows, looks, prepared.scale_mm), []

    def _questions(self) -> _Questions:
        """Return questions on unusual pictures; none for an extended model, for which `extend` asks them."""
        if self.old is not None:
            return _Questions()
        number_by_hash = {self.judged.rows[number].hash: number for number in self._new_pictures()}
        # hash of a picture -> features of its grid cells
        cells = {digest: self.fitted.cells.get(number) for digest, number in number_by_hash.items()}
        # looks are left out: pictures that show nothing were searched for before the fit
        rows = [replace(row, look=None) for row in self.good.pictures]
        unusual = [*find_unusual(rows, self.good.calibration, self.defects, [*number_by_hash], cells=cells)]
        notes, lines = settle(unusual, self.prepared.force)
        return _Questions(unusual, notes, lines)

    def _notes(self) -> list[str]:
        """Return notes on the fit: dropped pictures, copies, and simulated defects that are missed."""
        notes = list(self.fitted.notes)
        defects = self.defects
        if self.fitted.dropped:
            notes.append(
                "left out before calibrating on the rest: "
                f"{pluralize(len(self.fitted.dropped), 'suspicious picture')}; "
                "the false-alarm rate holds for pictures like those that stayed"
            )
        if self.prepared.reader.copies:
            notes.append(self._copies_note())
        if self.old is not None:
            notes += _lost_by_extending(self.old.manifest, has_defect_scores=defects is not None)
        remark = None if defects is None else defects.remark()
        if remark is not None:
            notes.append(remark)
        return notes

    def _copies_note(self) -> str:
        """Return the note with the number of copies, and an example if a copy has a name of its own."""
        reader = self.prepared.reader
        first_number_by_hash: dict[str, int] = {}
        for number, digest in sorted(reader.hashes.items()):
            first_number_by_hash.setdefault(digest, number)
        example = ""
        for number in reader.copies:
            copy = reader.names[number]
            original = reader.names[first_number_by_hash[reader.hashes[number]]]
            if copy != original:
                example = f", such as {copy} of {original}"
                break
        count = pluralize(len(reader.copies), "picture")
        return data_checks.COPIES_COUNT_ONCE.coded(
            f"counted once: {count} that are copies of others{example}"
        )

    def _light_notes(self) -> list[str]:
        """Return a note on what a threshold for all lights costs; empty for a single light.

        The note states how many simulated defects the model finds, and how many it would find if it were
        calibrated for unchanged light only. Without simulated defects there is no note.
        """
        preprocess = self.prepared.reader.preprocess
        if self.defects is None or len(preprocess.lights) < 2:
            return []
        unlit_good = know_good(self.prepared, self.judged, self.old, unlit=True)
        unlit_defects = self.defects.with_calibration(unlit_good.calibration, unlit_good.parts)
        found, count = self.defects.count_all()
        found_unlit, _ = unlit_defects.count_all()
        # the phrase begins with a comma, which does not fit here
        in_light_range = within_range(preprocess.normalization).removeprefix(",")
        return [
            f"the false-alarm rate is kept{in_light_range}: {found} of {count} simulated defects "
            f"are found, with a threshold for unchanged light alone {found_unlit}"
        ]


def _lost_by_extending(old: Manifest, has_defect_scores: bool) -> list[str]:
    """Return notes on features that a model had before it was extended, and has lost.

    Args:
        old: Manifest of the model before.
        has_defect_scores: Whether simulated defects were scored after the model was extended.
    """
    notes = list[str]()
    if not has_defect_scores and SIMULATED_DEFECTS in old.facts:
        notes.append("what it finds of simulated defects was not measured after the model was extended")
    if old.kinds is not None:
        notes.append("it names no kinds of defects since it was extended: run `flawscope kinds` again")
    return notes


def _without_paths(config: PictureSettings) -> dict[str, Any]:
    """Return settings for the artefact; paths on this machine are private, and are cut to file names."""
    values = asdict(config)
    for name in config.PATHS:
        if values[name]:
            values[name] = Path(values[name]).name
    return values
