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


def compare_view(looks: ViewLooks | None, view: str, found: Prediction) -> Prediction:
    """Return the prediction of a view's picture, with a finding where the picture shows another view."""
    known = any(finding.code == VIEW_EXCHANGED for finding in found.findings)
    if looks is None or found.look is None or known:
        return found
    shown = looks.shown_instead(view, found.look)
    return found if shown is None else found.noticing(view_exchanged(view, shown))


def named_as_another(manifest: Manifest, looks: ViewLooks, found: Prediction) -> Prediction:
    """Return the prediction, with a finding where the picture shows another view than its file names."""
    pattern = stored_part_pattern(manifest)
    if pattern is None or found.path is None:
        return found
    try:
        named = pattern.parse(PurePath(found.path).as_posix())
    except InputError:  # the name tells no view
        return found
    return compare_view(looks, named.view, found)


def no_parts_error() -> InputError:
    """Return the error for a model that was fitted without `part` and cannot decide on parts."""
    return InputError("the model judges single pictures: fit it with --part")


def unknown_view_error(name: str, view: str, known: Iterable[str]) -> InputError:
    """Return the error for a picture `name` of a view that is not among the known ones."""
    return InputError(f"{name}: the model knows no view {view:.60}: name it by one of {', '.join(known)}")


class PartCollector:
    """Collects predictions until all views of their part are there, and decides on the part.

    Attributes:
        pattern: Pattern by which file names name part and view.
        calibrations: Calibration of each product's parts, by the product's name; of a single product under
            "".

    Raises:
        InputError: The model was fitted without --part, or was calibrated on pictures whose names tell no
            part.
    """

    def __init__(self, facts: ModelFacts):
        if (pattern := facts.parts) is None:
            raise no_parts_error()
        self.pattern = pattern
        self.calibrations = {name: known.calibration for name, known in facts.known_parts().items()}
        self._looks = dict[str, ViewLooks | None]()
        for name in self.calibrations:  # of models of one view each the router compares their looks
            self._looks[name] = None if facts.views else ViewLooks.from_facts(facts.manifests[name].facts)
        self._open: dict[str, dict[str, Prediction]] = {}

    @property
    def calibration(self) -> PartCalibration:
        """The calibration of a model of one product."""
        (calibration,) = self.calibrations.values()
        return calibration

    @property
    def views(self) -> list[str]:
        """Names of the views of all products."""
        return [
            *dict.fromkeys(view for calibration in self.calibrations.values() for view in calibration.views)
        ]

    def add(self, prediction: Prediction) -> PartPrediction | None:
        """Add a file's prediction. Returns the part's prediction if this was its last view, otherwise None.

        Raises:
            InputError: The file's name tells no part or an unknown view, or this view is there already.
        """
        name = PurePath(prediction.path or "").as_posix()
        part, view = self.pattern.parse(name)
        views = self._open.get(part, {})
        if view in views:
            raise InputError(
                f"{name}: {views[view].path} shows part {part} from {view} too: give each part once"
            )
        views = {**views, view: prediction}
        known = self._calibration_of(views).views
        if view not in known:
            raise unknown_view_error(name, view, known)
        self._open[part] = views
        if len(views) < len(known):
            return None
        return self.decide(part, self._open.pop(part))

    @property
    def expected_rate(self) -> float:
        """Share of new good parts expected to be called anomalous; of several products the largest share."""
        return max(calibration.expected_rate for calibration in self.calibrations.values())

    def group(self, paths: Sequence[Path]) -> list[Path]:
        """Return files in their order, with the files of a part moved to its first one.

        A part is decided on when its last view is there; until then its pictures wait in memory.
        """
        first = dict[str, int]()
        for number, path in enumerate(paths):
            first.setdefault(self.name_part(str(path)), number)
        return sorted(paths, key=lambda path: first[self.name_part(str(path))])

    def name_part(self, path: str) -> str:
        """Return the name of the part that a file shows; the file's stem where its name tells no part."""
        try:
            return self.pattern.parse_part(PurePath(path).as_posix())
        except InputError:
            return PurePath(path).stem

    def check_view(self, name: str, view: str) -> None:
        """Raise an InputError, which lists the known views, where a picture's view is unknown."""
        if view not in self.views:
            raise unknown_view_error(name, view, self.views)

    def decide_incomplete(self) -> Iterator[PartPrediction]:
        """Yield the predictions of the parts that still lack views, and forget these parts."""
        while self._open:
            part = next(iter(self._open))
            yield self.decide(part, self._open.pop(part))

    def decide(
        self, part: str, views: Mapping[str, Prediction], pictures: Mapping[str, PictureSource] | None = None
    ) -> PartPrediction:
        """Decide on a part by the predictions of its views.

        Args:
            part: The part's name.
            views: The prediction of each view, by the view's name.
            pictures: The picture of each view, for `RoutedParts`, which judges some anew. None: they are
                files, whose paths the predictions hold.
        """
        return self._decide(self.calibration, self._looks[ONE], part, views)

    @classmethod
    def _decide(
        cls, calibration: PartCalibration, looks: ViewLooks | None, part: str, views: Mapping[str, Prediction]
    ) -> PartPrediction:
        views = {view: compare_view(looks, view, prediction) for view, prediction in views.items()}
        same = find_identical(
            {view: prediction.look for view, prediction in views.items() if prediction.look is not None}
        )
        findings = () if same is None else (same_picture(*same),)
        scores = {view: prediction.score for view, prediction in views.items()}
        all_found = not any(
            finding.decides for prediction in views.values() for finding in prediction.findings
        )
        missing = tuple(view for view in calibration.views if view not in scores)
        decision = calibration.decide(scores)._asdict()
        found = PartPrediction(part, **decision, views=views, missing=missing, findings=findings)
        return found.called_anomalous() if findings or not all_found else found

    def promise(self) -> str:
        """Return a line for a person: the false alarms expected among parts with all views."""
        lines = []
        for name, calibration in self.calibrations.items():
            lines.append(f"{name}: {calibration.promise()}" if name else calibration.promise())
        return "; ".join(lines)

    def judge_promise(self, alarms: int, good: int) -> PromiseVerdict | None:
        """Judge whether the promise was kept, by the number of false alarms among new good parts.

        None where no promise was made, or each of several products has its own.
        """
        if len(self.calibrations) > 1:  # of each product its own
            return None
        return self.calibration.judge(alarms, good)

    def _calibration_of(self, views: Mapping[str, Prediction]) -> PartCalibration:
        return self.calibration


class RoutedParts(PartCollector):
    """Collects predictions of a router.

    A part's product is recognised from all its views together. The part is anomalous where a view shows none
    of the products, or lies too far from the part's product.
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

        It is chosen among the products that have these views; among all where none has them.
        """
        recognised = [
            prediction.recognition for prediction in views.values() if prediction.recognition is not None
        ]
        said = [shown for shown in recognised if not shown.distances]
        if said:  # the caller named the product of all pictures
            return said[0]
        among = [name for name, calibration in self.calibrations.items() if {*views} <= {*calibration.views}]
        distances = np.array([shown.distances for shown in recognised])
        found = self._recogniser.recognise_group(distances, among or None)
        return found if all(shown.product for shown in recognised) else found._replace(product=None)

    def decide(
        self, part: str, views: Mapping[str, Prediction], pictures: Mapping[str, PictureSource] | None = None
    ) -> PartPrediction:
        """Decide on a part by the model of the product that its views show together.

        A view that was judged as another product is judged anew; it is left out where it cannot be read.
        """
        shown = self._recognise_product(views)
        same_product = dict[str, Prediction]()
        for view, prediction in views.items():
            if prediction.recognition is not None and prediction.recognition.nearest != shown.nearest:
                try:
                    prediction = self._judge((pictures or {}).get(view, prediction.path or ""), shown.nearest)
                except InputError:  # it cannot be read any more
                    continue
            same_product[view] = prediction
        nearest = shown.nearest
        found = self._decide(self.calibrations[nearest], self._looks[nearest], part, same_product)
        found = replace(found, product=shown.product)
        return found if shown.product else found.called_anomalous()
