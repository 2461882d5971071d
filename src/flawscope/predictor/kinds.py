"""Learns kinds of defects from labelled pictures. Torch-free."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
from flawscope.predictor.kind_classifier import MIN_EXAMPLES
from flawscope.predictor.predictor import Predictor
from flawscope.predictor.region_kinds import region_descriptors
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.prediction import Prediction


class Example(NamedTuple):
    """Picture with a defect of a kind.

    Attributes:
        picture: The picture.
        kind: The kind's name.
        mask: [H, W] bool, True where the defect is; or a function that returns this mask, given the picture's
            size (H, W). None, or all False: the defect is in the strongest region.
    """

    picture: PictureSource
    kind: str
    mask: NDArray[np.bool_] | Callable[[tuple[int, int]], NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class LearntKinds:
    """Model that has learnt kinds.

    Attributes:
        model: The model.
        notes: Lines on examples that it could not learn from.
        failures: Pictures that could not be read, each with the reason.
    """

    model: Predictor
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def learn_kinds(
    predictor: Predictor,
    examples: Iterable[Example],
    error: float = kind_classifier.DEFAULT_ERROR,
    step: ProgressCallback = ignore_progress,
    total: int | None = None,
) -> LearntKinds:
    """Learn kinds of defects from labelled pictures.

    From each picture, the strongest region that its mask touches is learnt. Pictures of one part count as a
    single example of a kind.

    Args:
        predictor: The model.
        examples: The labelled pictures.
        error: Share of answers that may lack the true kind.
        step: Gets the progress.
        total: Number of examples, for `step`; None: no progress is reported.

    Raises:
        InputError: No kind has `MIN_EXAMPLES` examples, or the model cannot name kinds.
    """
    # called only because it raises an error if the model cannot name kinds
    predictor.session.residuals(np.zeros((1, 3, *predictor.session.size), np.float32))
    regions = LabelledRegions()
    for done, example in enumerate(examples, start=1):
        try:
            regions.add(predictor, example)
        except (InputError, MemoryError) as failure:
            regions.failures.append(error_reason(failure, source_name(example.picture)))
        if total:
            step("kinds", done, total)
    try:
        return regions.learn(predictor, error)
    except InputError as failure:
        if not regions.failures:
            raise
        skipped = f"{pluralize(len(regions.failures), 'picture')} skipped, such as {regions.failures[0]}"
        raise InputError(f"{failure}; {skipped}") from None


class LabelledRegions:
    """Regions of labelled pictures: the descriptor, kind, name and look of each."""

    def __init__(self) -> None:
        self.descriptors: list[NDArray[np.float64]] = []
        self.kinds: list[str] = []
        self.names: list[str] = []
        self.looks: list[Look | None] = []
        self.missed: Counter[str] = Counter()  # by kind: number of pictures without a touched region
        self.failures: list[str] = []
        self._hashes: set[tuple[str, str]] = set()  # a picture's hash, and its kind

    def add(self, predictor: Predictor, example: Example) -> None:
        """Add the strongest region that a picture's mask touches.

        If there is no such region, the picture is counted in `missed`. A picture with the pixels and the kind
        of an earlier one is left out.

        Raises:
            InputError: The picture cannot be read or judged.
        """
        preprocess = predictor.manifest.preprocess
        picture = preprocess.decode(example.picture)
        key = pixel_hash(picture), example.kind
        if key in self._hashes:
            return
        self._hashes.add(key)
        mask = example.mask
        if callable(mask):
            mask = mask((picture.shape[0], picture.shape[1]))
        loaded = predictor.see(example.picture, picture)
        [(_, result)] = predictor.judge([(example.picture, loaded)], predictor.session.run)
        if isinstance(result, InputError):
            raise result
        region_number = _find_touched_region(result, mask)
        if region_number is None:
            self.missed[example.kind] += 1
            return
        views = loaded[0]
        (descriptor,) = region_descriptors(predictor, views, result, only=region_number)
        self.descriptors.append(descriptor)
        self.kinds.append(example.kind)
        self.names.append(os.fspath(source_name(example.picture)))
        self.looks.append(Look.of(first_channels(picture, preprocess.channels)))

    def learn(self, predictor: Predictor, error: float) -> LearntKinds:
        """Return the model with the kinds learnt from the regions, one region per part and kind.

        Raises:
            InputError: No kind has `MIN_EXAMPLES` examples, or two kinds differ only in upper case.
        """
        examples = named_rows(self.names, self.looks)
        units = units_of(examples, part_of=stored_part_reader(predictor.manifest)).numbers
        number_by_part_and_kind: dict[tuple[int, str], int] = {}  # number of the first region
        for number, part_and_kind in enumerate(zip(units, self.kinds, strict=True)):
            number_by_part_and_kind.setdefault(part_and_kind, number)
        chosen = sorted(number_by_part_and_kind.values())
        labels = [self.kinds[number] for number in chosen]
        spelling_by_folded_name: dict[str, str] = {}  # the first spelling of each name
        for name in labels:
            spelling = spelling_by_folded_name.setdefault(name.casefold(), name)
            if spelling != name:
                raise InputError(
                    f"the kinds {spelling} and {name} differ in upper case alone: name them alike"
                )
        value_count = self.descriptors[0].size if self.descriptors else 0
        chosen_descriptors = [self.descriptors[number] for number in chosen]
        descriptors = np.array(chosen_descriptors).reshape(len(chosen), value_count)
        classifier = kind_classifier.learn(descriptors, labels, error)
        counts = Counter(labels)
        notes = [
            f"{name}: {pluralize(count, 'picture')} without a region there"
            for name, count in self.missed.items()
        ]
        for name in sorted(counts):
            if name not in classifier.kinds.names:
                example_count = pluralize(counts[name], "example")
                notes.append(f"{name}: {example_count}, a kind takes {MIN_EXAMPLES}: left out")
        notes += [finding.line for finding in find_unusual_looks(self.looks, self.names)]
        left_out = len(units) - len(chosen)
        if left_out:
            pictures_text = pluralize(left_out, "picture")
            notes.append(f"{pictures_text} of a part that has another one of the kind: left out")
        manifest = replace(predictor.manifest, kinds=classifier.kinds)
        tensors = {**predictor.artefact.tensors, "kinds": classifier.tensor}
        model = Predictor(Artefact(manifest, tensors), predictor.session, predictor.failures)
        return LearntKinds(model, notes, self.failures)


def _find_touched_region(prediction: Prediction, mask: NDArray[np.bool_] | None) -> int | None:
    """Return the number of the strongest region that the picture's mask [H, W] touches; None: no region.

    Without a mask, the strongest region is returned. Regions are numbered from the strongest.
    """
    if not prediction.region_pixels:
        return None
    if mask is None or not mask.any():
        return 0
    region_numbers = np.full(prediction.geometry.size, -1)  # of each pixel of the map; -1: no region
    for number, pixels in enumerate(prediction.region_pixels):
        region_numbers[pixels] = number
    rows, columns = np.nonzero(mask)
    map_y, map_x = prediction.geometry.locate(rows.astype(np.float64) + 0.5, columns.astype(np.float64) + 0.5)
    y = np.floor(map_y).astype(int)
    x = np.floor(map_x).astype(int)
    map_height, map_width = region_numbers.shape
    inside = (y >= 0) & (y < map_height) & (x >= 0) & (x < map_width)
    touched = region_numbers[y[inside], x[inside]]
    touched_regions = touched[touched >= 0]
    return int(touched_regions.min()) if len(touched_regions) else None
