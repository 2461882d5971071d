"""Decides on parts by their views' predictions (`calibration.parts`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath

from flawscope.artefact.model_file import Manifest
from flawscope.calibration.parts import PartCalibration, Pattern
from flawscope.errors import InputError
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import Prediction

KEY = "part"  # in the manifest's facts


def pattern_of(manifest: Manifest) -> Pattern | None:
    """Pattern by which a model tells parts and views apart; None: it judges single pictures."""
    known = manifest.facts.get(KEY)
    if known is None:
        return None
    try:
        return Pattern(str(known["part"]), None if known["view"] is None else str(known["view"]))
    except (KeyError, TypeError):
        raise InputError("the model's parts are damaged: fit again") from None


def part_calibration(manifest: Manifest, pattern: Pattern) -> PartCalibration:
    """Calibration of parts: the calibration's scores, by the names of their pictures.

    Raises:
        InputError: the model was calibrated on pictures whose names tell no part.
    """
    names = {picture.hash: picture.name for picture in manifest.pictures}
    hashes = manifest.facts.get("calibration_pictures", [])
    views = pattern.read(names.get(digest, "") for digest in hashes)
    calibration = manifest.calibration
    return PartCalibration.of(views, calibration.scores, calibration.rate)


class Parts:
    """Collects predictions until all views of their part are there.

    Raises:
        InputError: the model was fitted without --part, or as `part_calibration`.
    """

    def __init__(self, manifest: Manifest):
        pattern = pattern_of(manifest)
        if pattern is None:
            raise InputError("the model judges single pictures: fit it with --part")
        self.calibration, self.pattern = part_calibration(manifest, pattern), pattern
        self._open: dict[str, dict[str, Prediction]] = {}

    def add(self, prediction: Prediction) -> PartPrediction | None:
        """Adds a prediction of a file. Returns its part's, where this was the last view.

        Raises:
            InputError: the file's name tells no part or an unknown view, or this view is there already.
        """
        name = PurePath(prediction.path or "").as_posix()
        part, view = self.pattern.of(name)
        self.check(name, view)
        views = self._open.setdefault(part, {})
        if view in views:
            raise InputError(
                f"{name}: {views[view].path} shows part {part} from {view} too: give each part once"
            )
        views[view] = prediction
        if len(views) < len(self.calibration.views):
            return None
        return self.decide(part, self._open.pop(part))

    def check(self, name: str, view: str) -> None:
        """Checks a picture's view. InputError, which names the known views, for another."""
        if view not in self.calibration.views:
            known = ", ".join(self.calibration.views)
            raise InputError(f"{name}: the model knows no view {view:.60}: name it by one of {known}")

    def rest(self) -> Iterator[PartPrediction]:
        """Decides on the parts of which views are missing."""
        while self._open:
            part = next(iter(self._open))
            yield self.decide(part, self._open.pop(part))

    def decide(self, part: str, views: Mapping[str, Prediction]) -> PartPrediction:
        """Decides on a part by its views' predictions."""
        found = self.calibration.decide({view: one.score for view, one in views.items()})
        missing = tuple(view for view in self.calibration.views if view not in views)
        return PartPrediction(part, *found, dict(views), missing)
