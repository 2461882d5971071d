"""Names the kinds of defects in a picture's regions, and learns kinds from labelled pictures. Torch-free."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact
from flawscope.artefact.parts import stored_part_reader
from flawscope.calibration.outliers import find_unusual_looks
from flawscope.errors import InputError, pluralize
from flawscope.pictures.channels import first_channels
from flawscope.pictures.decoding import PictureSource, error_reason, pixel_hash, source_name
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import named_rows, units_of
from flawscope.predictor import kind_classifier
from flawscope.predictor.kind_classifier import MIN_EXAMPLES, KindClassifier
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.prediction import Prediction
from flawscope.views.views import Views

if TYPE_CHECKING:
    from flawscope.predictor import Predictor

MAX_POINTS = 4096  # of a region that its descriptor is the mean of
MAX_VIEWS = 16  # tiles of a picture that are looked at again: those with most of the regions, and each's own

Points = tuple[NDArray[Any], NDArray[Any]]  # y and x [n] in the picture


class Example(NamedTuple):
    """Picture with a defect of a kind. mask: [H, W] bool where it is, or a function that makes it for the
    picture's size (H, W); None, or nothing marked: in the strongest region."""

    picture: PictureSource
    kind: str
    mask: NDArray[np.bool_] | Callable[[tuple[int, int]], NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class LearntKinds:
    """Model that has learnt kinds. notes: lines on examples that it could not learn from; failures: pictures
    that could not be read, each with the reason."""

    model: Predictor
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def name_kinds(
    predictor: Predictor, classifier: KindClassifier, views: Views, prediction: Prediction
) -> Prediction:
    """Names the kinds of a picture's regions. It is looked at again only where it has some."""
    if not prediction.region_pixels:
        return prediction
    answers = classifier.classify(region_descriptors(predictor, views, prediction))
    return replace(prediction, region_kinds=tuple(answers))


def region_descriptors(
    predictor: Predictor, views: Views, prediction: Prediction, only: int | None = None
) -> NDArray[np.float64]:
    """Descriptors [N, C] of a picture's regions, or of one of them: how the cells there differ from good
    ones, on average. In tiles, the tiles count. InputError: the model does not say how pictures differ."""
    chosen = slice(None) if only is None else slice(only, only + 1)
    points = [_in_picture(predictor, prediction, pixels) for pixels in prediction.region_pixels[chosen]]
    numbers = views.view_numbers()
    finest = [number for number in numbers if views.is_tile(number)] or numbers
    hits = {number: [_inside(views, number, some) for some in points] for number in finest}
    most = sorted(finest, key=lambda number: -sum(len(y) for y, _ in hits[number]))
    best = [max(most, key=lambda number: len(hits[number][k][0])) for k in range(len(points))]
    used = [*dict.fromkeys([*best, *(n for n in most[:MAX_VIEWS] if any(len(y) for y, _ in hits[n]))])]
    counts = [[max(1, sum(len(hits[number][k][0]) for number in used))] for k in range(len(points))]
    session, sums = predictor.session, []
    for start in range(0, len(used), session.batch):
        these = used[start : start + session.batch]
        for number, cells in zip(these, session.residuals(views.images(these)), strict=True):
            _, h, w = cells.shape
            sums.append([cells[:, (y * h).astype(int), (x * w).astype(int)].sum(1) for y, x in hits[number]])
    return np.asarray(np.array(sums).sum(0, dtype=np.float64) / counts)


def _in_picture(
    predictor: Predictor, prediction: Prediction, pixels: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> Points:
    """Points of a region in the picture as the views show it."""
    how, geometry = predictor.manifest.preprocess, prediction.geometry
    if how.corrections:
        region = np.zeros(prediction.map.shape, np.bool_)
        region[pixels] = True
        rows, columns = np.nonzero(how.corrected_mask(geometry.warp_mask(region)))
        y, x = rows + 0.5, columns + 0.5
    else:
        y, x = geometry.inverse().locate(*(at.astype(np.float64) + 0.5 for at in pixels))
    some = slice(None, None, -(-len(y) // MAX_POINTS) or 1)
    return y[some], x[some]


def _inside(views: Views, number: int, points: Points) -> Points:
    """The points that a view shows, as shares 0..1 of its height and width."""
    place = views.placement(number)
    y, x = (at / side for at, side in zip(place.locate(*points), place.size, strict=True))
    seen = (y >= 0) & (y < 1) & (x >= 0) & (x < 1)
    return y[seen], x[seen]


def learn_kinds(
    predictor: Predictor,
    examples: Iterable[Example],
    error: float = kind_classifier.DEFAULT_ERROR,
    step: ProgressCallback = ignore_progress,
    total: int | None = None,
) -> LearntKinds:
    """Learns kinds of defects from labelled pictures: of each the strongest region that its mask touches.
    Pictures of one part, by the model's pattern or as near-duplicates, are one example of a kind.

    Args:
        error: how often an answer may lack the true kind.
        total: number of examples, for `step`.

    Raises:
        InputError: no kind has `MIN_EXAMPLES`, or the model cannot name kinds.
    """
    predictor.session.residuals(np.zeros((1, 3, *predictor.session.size), np.float32))  # or it cannot
    seen = LabelledRegions()
    for done, example in enumerate(examples, start=1):
        try:
            seen.add(predictor, example)
        except (InputError, MemoryError) as reason:
            seen.failures.append(error_reason(reason, source_name(example.picture)))
        if total:
            step("kinds", done, total)
    try:
        return seen.learn(predictor, error)
    except InputError as reason:
        if not (failures := seen.failures):
            raise
        skipped = f"{pluralize(len(failures), 'picture')} skipped, such as {failures[0]}"
        raise InputError(f"{reason}; {skipped}") from None


class LabelledRegions:
    """Regions of labelled pictures: descriptor, kind, name and look of each."""

    def __init__(self) -> None:
        self.descriptors: list[NDArray[np.float64]] = []
        self.kinds: list[str] = []
        self.names: list[str] = []
        self.looks: list[Look | None] = []
        self.missed: Counter[str] = Counter()  # pictures of a kind without a region
        self.failures: list[str] = []
        self._hashes: set[tuple[str, str]] = set()

    def add(self, predictor: Predictor, example: Example) -> None:
        how = predictor.manifest.preprocess
        picture = how.decode(example.picture)
        if (key := (pixel_hash(picture), example.kind)) in self._hashes:
            return
        self._hashes.add(key)
        mask = example.mask((picture.shape[0], picture.shape[1])) if callable(example.mask) else example.mask
        loaded = predictor.see(example.picture, picture)
        [(_, result)] = predictor.judge([(example.picture, loaded)], predictor.session.run)
        if isinstance(result, InputError):
            raise result
        if (region := _touched_region(result, mask)) is None:
            self.missed[example.kind] += 1
            return
        self.descriptors.append(region_descriptors(predictor, loaded[0], result, region)[0])
        self.kinds.append(example.kind)
        self.names.append(os.fspath(source_name(example.picture)))
        self.looks.append(Look.of(first_channels(picture, how.channels)))

    def learn(self, predictor: Predictor, error: float) -> LearntKinds:
        examples = named_rows(self.names, self.looks)
        units = units_of(examples, part_of=stored_part_reader(predictor.manifest)).numbers
        first = {pair: k for k, pair in reversed([*enumerate(zip(units, self.kinds, strict=True))])}
        chosen = sorted(first.values())
        labels = [self.kinds[k] for k in chosen]
        spelled: dict[str, str] = {}
        for name in labels:
            if (other := spelled.setdefault(name.casefold(), name)) != name:
                raise InputError(f"the kinds {other} and {name} differ in upper case alone: name them alike")
        width = self.descriptors[0].size if self.descriptors else 0
        descriptors = np.array([self.descriptors[k] for k in chosen]).reshape(len(chosen), width)
        classifier = kind_classifier.learn(descriptors, labels, error)
        counts = Counter(labels)
        notes = [
            f"{name}: {pluralize(n, 'picture')} without a region there" for name, n in self.missed.items()
        ]
        notes += [
            f"{name}: {pluralize(counts[name], 'example')}, a kind takes {MIN_EXAMPLES}: left out"
            for name in sorted(counts)
            if name not in classifier.kinds.names
        ]
        notes += [one.line for one in find_unusual_looks(self.looks, self.names)]
        if copies := len(units) - len(chosen):
            notes.append(
                f"{pluralize(copies, 'picture')} of a part that has another one of the kind: left out"
            )
        manifest = replace(predictor.manifest, kinds=classifier.kinds)
        tensors = {**predictor.artefact.tensors, "kinds": classifier.tensor}
        model = type(predictor)(Artefact(manifest, tensors), predictor.session, predictor.failures)
        return LearntKinds(model, notes, self.failures)


def _touched_region(prediction: Prediction, mask: NDArray[np.bool_] | None) -> int | None:
    """Number of the strongest region that the mask [H, W] of the picture touches; None: there is none."""
    if mask is None or not mask.any() or not prediction.region_pixels:
        return 0 if prediction.region_pixels else None
    numbers = np.full(prediction.geometry.size, -1)
    for number, pixels in enumerate(prediction.region_pixels):
        numbers[pixels] = number
    points = (at.astype(np.float64) + 0.5 for at in np.nonzero(mask))
    y, x = (np.floor(at).astype(int) for at in prediction.geometry.locate(*points))
    inside = (y >= 0) & (y < numbers.shape[0]) & (x >= 0) & (x < numbers.shape[1])
    touched = numbers[y[inside], x[inside]]
    return int(touched[touched >= 0].min()) if (touched >= 0).any() else None
