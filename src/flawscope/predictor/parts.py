"""Decides on parts by the predictions of their views (`calibration.parts`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from flawscope.artefact.model_facts import ONE, ModelFacts
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import stored_part_pattern
from flawscope.calibration.parts import PartCalibration
from flawscope.calibration.promise import PromiseVerdict
from flawscope.errors import InputError
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.recognition import Recogniser
from flawscope.results.findings import VIEW_EXCHANGED, same_picture, view_exchanged
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import Prediction, Recognition
from flawscope.views.view_looks import ViewLooks, find_identical


def compare_view(looks: ViewLooks | None, view: str, prediction: Prediction) -> Prediction:
    """Return the prediction of a picture, with a finding where the picture shows another view.

    Args:
        looks: Looks of good pictures of each view; None: they are not known, and nothing is compared.
        view: View that the picture should show.
        prediction: The prediction.
    """
    is_reported = any(finding.code == VIEW_EXCHANGED for finding in prediction.findings)
    if looks is None or prediction.look is None or is_reported:
        return prediction
    other_view = looks.shown_instead(view, prediction.look)
    if other_view is None:
        return prediction
    return prediction.noticing(view_exchanged(view, other_view))


def compare_named_view(manifest: Manifest, looks: ViewLooks, prediction: Prediction) -> Prediction:
    """Return the prediction, with a finding if the picture shows another view than the file's name says.

    Args:
        manifest: Manifest of the model.
        looks: Looks of good pictures of each view.
        prediction: The prediction. If the file's name states no view, it is returned unchanged.
    """
    pattern = stored_part_pattern(manifest)
    if pattern is None or prediction.path is None:
        return prediction
    try:
        named = pattern.parse(PurePath(prediction.path).as_posix())
    except InputError:
        return prediction
    return compare_view(looks, named.view, prediction)


def no_parts_error() -> InputError:
    """Return the error for a model that was fitted without `part` and cannot decide on parts."""
    return InputError("the model judges single pictures: fit it with --part")


def unknown_view_error(name: str, view: str, known_views: Iterable[str]) -> InputError:
    """Return the error for a picture of an unknown view.

    Args:
        name: Name of the picture.
        view: The view that the name states.
        known_views: Names of the views that the model knows.
    """
    views = ", ".join(known_views)
    return InputError(f"{name}: the model knows no view {view:.60}: name it by one of {views}")


class PartCollector:
    """Collects predictions until all views of their part are there, and decides on the part.

    Attributes:
        pattern: Pattern by which file names name part and view.
        calibrations: Calibration of each product's parts, by the product's name; of a single product under
            "".

    Raises:
        InputError: The model was fitted without --part, or was calibrated on pictures whose names state no
            part.
    """

    def __init__(self, facts: ModelFacts):
        if facts.parts is None:
            raise no_parts_error()
        self.pattern = facts.parts
        self.calibrations = {name: parts.calibration for name, parts in facts.known_parts().items()}
        # looks by product; None for a model of views, whose router compares them instead
        self._looks: dict[str, ViewLooks | None] = dict.fromkeys(self.calibrations)
        if not facts.views:
            for name in self.calibrations:
                self._looks[name] = ViewLooks.from_facts(facts.manifests[name].facts)
        self._incomplete: dict[str, dict[str, Prediction]] = {}  # part -> view -> prediction

    @property
    def calibration(self) -> PartCalibration:
        """The calibration of a model of one product."""
        (calibration,) = self.calibrations.values()
        return calibration

    @property
    def views(self) -> list[str]:
        """Names of the views of all products, each once."""
        repeated_names = [view for calibration in self.calibrations.values() for view in calibration.views]
        return [*dict.fromkeys(repeated_names)]

    def add(self, prediction: Prediction) -> PartPrediction | None:
        """Add the prediction of a file.

        Returns:
            The prediction of the part, if this was its last view; else None.

        Raises:
            InputError: The file's name states no part or an unknown view, or this view was added before.
        """
        name = PurePath(prediction.path or "").as_posix()
        part, view = self.pattern.parse(name)
        earlier_views = self._incomplete.get(part, {})
        if view in earlier_views:
            other_path = earlier_views[view].path
            raise InputError(f"{name}: {other_path} shows part {part} from {view} too: give each part once")
        views = {**earlier_views, view: prediction}
        known_views = self._calibration_of(views).views
        if view not in known_views:
            raise unknown_view_error(name, view, known_views)
        if len(views) < len(known_views):
            self._incomplete[part] = views
            return None
        self._incomplete.pop(part, None)
        return self.decide(part, views)

    @property
    def expected_rate(self) -> float:
        """Share of new good parts that is expected to be called anomalous: the largest of all products."""
        return max(calibration.expected_rate for calibration in self.calibrations.values())

    def group(self, paths: Sequence[Path]) -> list[Path]:
        """Sort files so that those of a part follow each other; parts keep the order of their first files.

        The predictions of incomplete parts are held in memory: in this order, there are few of them at a
        time.
        """
        first_place_by_part = dict[str, int]()  # place of each part's first file
        for place, path in enumerate(paths):
            first_place_by_part.setdefault(self.name_part(str(path)), place)
        return sorted(paths, key=lambda path: first_place_by_part[self.name_part(str(path))])

    def name_part(self, path: str) -> str:
        """Return the part that a file's name states; if it states none, return the file's stem."""
        try:
            return self.pattern.parse_part(PurePath(path).as_posix())
        except InputError:
            return PurePath(path).stem

    def check_view(self, name: str, view: str) -> None:
        """Check that the model knows a picture's view.

        Raises:
            InputError: The view is unknown; the message lists the known views.
        """
        if view not in self.views:
            raise unknown_view_error(name, view, self.views)

    def decide_incomplete(self) -> Iterator[PartPrediction]:
        """Yield the predictions of the parts that still lack views, and forget these parts."""
        while self._incomplete:
            part = next(iter(self._incomplete))
            yield self.decide(part, self._incomplete.pop(part))

    def decide(
        self, part: str, views: Mapping[str, Prediction], pictures: Mapping[str, PictureSource] | None = None
    ) -> PartPrediction:
        """Decide on a part by the predictions of its views.

        Args:
            part: The part's name.
            views: The prediction of each view, by the view's name.
            pictures: The picture of each view, by the view's name; `RoutedParts` may judge some of them
                again. None: the pictures are the files at the predictions' paths.
        """
        return self._decide(self.calibration, self._looks[ONE], part, views)

    @classmethod
    def _decide(
        cls,
        calibration: PartCalibration,
        looks: ViewLooks | None,
        part: str,
        predictions: Mapping[str, Prediction],
    ) -> PartPrediction:
        """Decide on a part of a product by the predictions of its views.

        Args:
            calibration: Calibration of the product's parts.
            looks: Looks of the product's views; None: views are not compared.
            part: The part's name.
            predictions: The prediction of each view, by the view's name.
        """
        views = {view: compare_view(looks, view, prediction) for view, prediction in predictions.items()}
        view_looks = {
            view: prediction.look for view, prediction in views.items() if prediction.look is not None
        }
        identical_views = find_identical(view_looks)
        findings = () if identical_views is None else (same_picture(*identical_views),)
        scores = {view: prediction.score for view, prediction in views.items()}
        decision = calibration.decide(scores)
        missing = tuple(view for view in calibration.views if view not in scores)
        result = PartPrediction(part, **decision._asdict(), views=views, missing=missing, findings=findings)
        view_findings = [finding for prediction in views.values() for finding in prediction.findings]
        has_deciding_finding = any(finding.decides for finding in view_findings)
        return result.called_anomalous() if findings or has_deciding_finding else result

    def promise(self) -> str:
        """Return a line for a person on the false alarms expected among parts with all views."""
        lines = []
        for name, calibration in self.calibrations.items():
            lines.append(f"{name}: {calibration.promise()}" if name else calibration.promise())
        return "; ".join(lines)

    def judge_promise(self, alarms: int, good: int) -> PromiseVerdict | None:
        """Judge whether the promised false-alarm rate was kept.

        None: no rate was promised, or each of several products has a promise of its own.

        Args:
            alarms: Number of false alarms.
            good: Number of new good parts.
        """
        if len(self.calibrations) > 1:
            return None
        return self.calibration.judge(alarms, good)

    def _calibration_of(self, views: Mapping[str, Prediction]) -> PartCalibration:
        """Return the calibration of the product that these views of a part show."""
        return self.calibration


class RoutedParts(PartCollector):
    """Collects predictions of a router to several products.

    A part's product is recognised from all its views together. The part is anomalous where a view shows none
    of the products, or lies too far from the part's product.

    Args:
        facts: Facts of the router.
        recogniser: Recognises products by the distances of pictures.
        judge: Judges a picture by the model of a product.
    """

    def __init__(
        self, facts: ModelFacts, recogniser: Recogniser, judge: Callable[[PictureSource, str], Prediction]
    ):
        super().__init__(facts)
        self._recogniser = recogniser
        self._judge = judge

    def _calibration_of(self, views: Mapping[str, Prediction]) -> PartCalibration:
        return self.calibrations[self._recognise_product(views).nearest]

    def _recognise_product(self, views: Mapping[str, Prediction]) -> Recognition:
        """Recognise the product that the views show together.

        Candidates are the products that have all of these views; if there are none, all products.
        """
        recognitions = [
            prediction.recognition for prediction in views.values() if prediction.recognition is not None
        ]
        for recognition in recognitions:
            if not recognition.distances:  # the caller named the product of all pictures
                return recognition
        shown_views = set(views)
        candidates = [
            name for name, calibration in self.calibrations.items() if shown_views.issubset(calibration.views)
        ]
        distances = np.array([recognition.distances for recognition in recognitions])
        part_recognition = self._recogniser.recognise_group(distances, candidates or None)
        if all(recognition.product for recognition in recognitions):
            return part_recognition
        return part_recognition._replace(product=None)  # a view shows none of the products

    def decide(
        self, part: str, views: Mapping[str, Prediction], pictures: Mapping[str, PictureSource] | None = None
    ) -> PartPrediction:
        """Decide on a part by the model of the product that its views show together.

        A view that another product's model has judged is judged again. If its picture cannot be read any
        more, the view is left out. A part of an unknown product is anomalous.

        Args:
            part: Name of the part.
            views: The prediction of each view, by the view's name.
            pictures: The views' pictures; for other views, the path in the prediction is read.
        """
        recognition = self._recognise_product(views)
        nearest = recognition.nearest
        predictions = dict[str, Prediction]()  # of the nearest product's model
        for view, prediction in views.items():
            if prediction.recognition is None or prediction.recognition.nearest == nearest:
                predictions[view] = prediction
                continue
            picture = (pictures or {}).get(view, prediction.path or "")
            try:
                predictions[view] = self._judge(picture, nearest)
            except InputError:
                continue  # the picture cannot be read any more
        decision = self._decide(self.calibrations[nearest], self._looks[nearest], part, predictions)
        result = replace(decision, product=recognition.product)
        return result if recognition.product else result.called_anomalous()
