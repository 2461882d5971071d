"""Holds the results of an evaluation: figures, a row for each test picture, and how both are shown.

Evaluated pictures are kept for metrics and report, their maps in a temporary file.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets import Item
from flawscope.errors import FlawscopeError, missing_library_error, pluralize
from flawscope.evaluation.decided import Decided, JudgedPart, decided_on
from flawscope.evaluation.learning_curve import LearningCurve
from flawscope.evaluation.learning_curve import describe as describe_curve
from flawscope.evaluation.robustness import Robustness
from flawscope.pictures.listing import natural_key
from flawscope.results.html import table
from flawscope.results.prediction import RIGHT, Prediction, outcome, prediction_html
from flawscope.results.table import ResultRow, Unjudged, table_columns
from flawscope.types import Json
from flawscope.views.geometry import Geometry

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")


class EvaluatedPicture(NamedTuple):
    """Evaluated test picture.

    Attributes:
        item: The picture, with its kind and masks.
        prediction: The model's prediction.
        truth: Ground truth, [H, W] bool at the map's size: all False for a good picture, None for a defective
            picture without a usable mask.
        valid: Pixels that count, [H, W] bool; None: all.
    """

    item: Item
    prediction: Prediction
    truth: NDArray[np.bool_] | None
    valid: NDArray[np.bool_] | None = None

    @property
    def outcome(self) -> str:
        """Outcome of the decision: right, missed or false alarm."""
        return outcome(self.item.anomalous, self.prediction.is_anomalous)


class LazySequence(Sequence[T], Generic[T]):
    """Sequence with a value for every picture, computed on access."""

    def __init__(self, get: Callable[[int], T], count: int):
        self._get = get
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        index = range(self._count)[place]  # resolves negative indices, and slices into ranges
        if isinstance(index, int):
            return self._get(index)
        return [self._get(k) for k in index]


class PictureStore:
    """Evaluated pictures, in order. Several threads may read.

    Items and predictions lie in memory, the maps in a temporary file, which the system removes.

    Args:
        valid: Function of a picture's geometry that returns the pixels that count, [H, W] bool at the
            network's size.
    """

    def __init__(self, valid: Callable[[Geometry], NDArray[np.bool_]]) -> None:
        self.items: list[Item] = []
        self.predictions: list[Prediction] = []  # without maps
        self._map_places: list[tuple[int, tuple[int, ...]]] = []  # offset in bytes, and shape of each map
        self._packed_truths: list[bytes | None] = []  # compressed bits; None: no ground truth
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open as long as the store exists)

        @lru_cache(maxsize=16)  # most pictures have the same geometry
        def valid_of(geometry: Geometry) -> NDArray[np.bool_] | None:
            return _none_if_all_true(valid(geometry))

        self._valid = valid_of

    def append(self, item: Item, prediction: Prediction, truth: NDArray[np.bool_] | None) -> None:
        """Append a picture.

        Args:
            item: The picture.
            prediction: The model's prediction with its map.
            truth: Ground truth, [H, W] bool; None: the picture has none.

        Raises:
            FlawscopeError: The map cannot be written, for example because the disk is full.
        """
        try:
            offset = self._file.seek(0, os.SEEK_END)
            # the bytes of the map, not copied
            unwritten = np.ascontiguousarray(prediction.map, np.float32).data.cast("B")
            while unwritten:  # an unbuffered file may write only some of the bytes
                count = self._file.write(unwritten)
                unwritten = unwritten[count:]
        except OSError as error:
            folder = tempfile.gettempdir()
            raise FlawscopeError(
                f"cannot keep anomaly maps in {folder}: {error.strerror}; free some space, or set TMPDIR"
            ) from None
        packed_truth = None
        if truth is not None:
            packed_truth = zlib.compress(np.packbits(truth).tobytes(), level=1)
        self._map_places.append((offset, prediction.map.shape))
        self._packed_truths.append(packed_truth)
        self.items.append(item)
        self.predictions.append(replace(prediction, map=np.empty((0, 0), np.float32)))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def without_mask(self) -> int:
        """Number of defective pictures without a usable mask."""
        return self._packed_truths.count(None)

    @property
    def pictures(self) -> Sequence[EvaluatedPicture]:
        """All pictures, each with its item, prediction, map, ground truth and valid pixels."""
        return self._column(self._picture)

    @property
    def maps(self) -> Sequence[NDArray[np.float32]]:
        """Maps [H, W] of all pictures, read from the file one by one."""
        return self._column(self._map)

    @property
    def truths(self) -> Sequence[NDArray[np.bool_] | None]:
        """Ground truth [H, W] of all pictures; None for a picture without ground truth."""
        return self._column(self._truth)

    @property
    def valid(self) -> Sequence[NDArray[np.bool_] | None]:
        """Pixels [H, W] that count, of all pictures; None where all pixels of a picture count."""
        return self._column(self._valid_of)

    def prediction_with_map(self, index: int) -> Prediction:
        """Return the prediction of a picture, with its map read from the file."""
        return replace(self.predictions[index], map=self._map(index))

    def _column(self, get: Callable[[int], T]) -> LazySequence[T]:
        """Return a sequence with the value `get(index)` for every picture, computed on access."""
        return LazySequence(get, len(self))

    def _picture(self, index: int) -> EvaluatedPicture:
        return EvaluatedPicture(
            self.items[index],
            self.prediction_with_map(index),
            self._truth(index),
            self._valid_of(index),
        )

    def _valid_of(self, index: int) -> NDArray[np.bool_] | None:
        return self._valid(self.predictions[index].geometry)

    def _map(self, index: int) -> NDArray[np.float32]:
        """Read a map from the file."""
        offset, shape = self._map_places[index]
        mapped = np.memmap(self._file, np.float32, mode="r", offset=offset, shape=shape)
        return np.array(mapped)  # a copy, because the mapping keeps a file open

    def _truth(self, index: int) -> NDArray[np.bool_] | None:
        """Unpack the ground truth of a picture; None for a picture without ground truth."""
        packed = self._packed_truths[index]
        if packed is None:
            return None
        height, width = self.predictions[index].geometry.size
        packed_bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        bits = np.unpackbits(packed_bits, count=height * width)
        return bits.reshape(height, width).astype(np.bool_)


def _none_if_all_true(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return None if mask.all() else mask


METRIC_NAMES = {  # names of the metrics, for people
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1": "image F1, best score threshold (test labels)",
    "image_f1_calibrated": "image F1, calibrated score threshold",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1": "pixel F1, best mask threshold (test labels)",
    "pixel_f1_calibrated": "SegF1: pixel F1, calibrated outlines",
    "au_pro": "AU-PRO (FPR up to 0.3)",
    "au_pro_05": "AU-PRO (FPR up to 0.05)",
}
DEFECT_PIXELS = ("all", "outside", "pictures_outside")
MASK_COUNTS = ("pictures", "empty", "lost", "regions", "lost_regions")
NOTEBOOK_PICTURES = 6  # pictures in a notebook: the worst mistakes, then near mistakes
LEFT_OUT_REASON = "left out: the model was fitted or calibrated on it"


@dataclass(frozen=True)
class Evaluation:
    """Results of a category.

    None of `judged_parts`, `pictures`, `left_out_items` and `unjudged` is in `to_dict`.

    Attributes:
        category: Category that was evaluated.
        product: Product that the model was fitted to, which may have another name.
        method: Method of the model.
        metrics: Metrics of `METRIC_NAMES`, on maps at the network's size. `*_f1` is the best F1 over all
            thresholds, chosen with the test's own labels. `*_f1_calibrated` is the F1 at the thresholds that
            calibration fixed before. For pixels it is the SegF1 of MVTec AD 2, which the authors compute at
            the pictures' own size (`full_pixel_f1_calibrated`).
        false_alarms: False alarms on good test pictures: the rates target, expected (k/(n + 1) by n good
            pictures of the calibration; None without a promise) and measured; images, the number of good
            pictures; interval of the measured rate (95 %, Clopper-Pearson); and what `check_promise` returns.
            As in the image metrics, `defects` and `kinds`, parts count where the model decides on parts.
        defects: Defective test pictures: images, their number; found, the number called anomalous; interval
            of this share, as above.
        kinds: Per kind of test picture the number, how many were called anomalous, the mean score, and the
            median severity, which is comparable between models.
        images: Number of pictures that counted.
        defect_pixels: Pixels of the masks at the pictures' own size: all, and outside of the pixels that
            count (the region of interest, and a crop). pictures_outside: number of pictures with all of their
            defect outside, which still count for the image metrics.
        left_out: Test pictures whose pixels the model was fitted or calibrated on, by kind.
        without_mask: Defective pictures without a usable mask.
        seconds: Time that the evaluation took.
        learnt_from: Number of pictures of the data set that the model was fitted or calibrated on, if the
            data set has no split of its own: all others were tested. 0 if it has a split.
        unmarked: Defective pictures without a usable mask, by the reason.
        failures: Pictures that could not be judged, each with its reason.
        masks: Numbers of defective pictures by their masks. `pictures`: something is marked. `empty`: nothing
            is marked. `lost`: the mask would lose all pixels when it is resized to the map's size, and keeps
            the nearest ones. And numbers of regions of all masks. `regions`: all. `lost_regions`: those that
            lose all pixels while other regions of the same mask keep some.
        mismatch: One line if model and pictures do not seem to belong together, judged by the good pictures
            if there are enough; empty otherwise.
        labels: Remarks on single figures.
        parts: For a model that decides on parts, the number of good and defective parts, of false alarms
            (with the 95 % interval of their rate) and of defective parts found, the promise, and the AUROC;
            else empty.
        learning_curve: How many good pictures are enough; None where the call did not ask, or too few
            pictures were tested to say it.
        robustness: Decisions on the same pictures in other light; empty where the call did not ask.
        judged_parts: The parts, for the report.
        pictures: Every picture that counted, for the report.
        left_out_items: Pictures that were left out.
        unjudged: Pictures that could not be read, each with the reason.
    """

    category: str
    product: str
    method: str
    metrics: dict[str, float | None]
    false_alarms: Json
    defects: Json
    kinds: dict[str, Json]
    images: int
    defect_pixels: dict[str, int]
    left_out: dict[str, int]
    without_mask: int
    seconds: float
    learnt_from: int = 0
    unmarked: dict[str, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    masks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MASK_COUNTS, 0))
    mismatch: str = ""
    labels: Json = field(default_factory=dict)  # remarks on single figures
    parts: Json = field(default_factory=dict)
    learning_curve: LearningCurve | None = None
    robustness: tuple[Robustness, ...] = ()
    judged_parts: tuple[JudgedPart, ...] = field(default=(), repr=False, compare=False)
    pictures: Sequence[EvaluatedPicture] = field(default=(), repr=False, compare=False)
    left_out_items: tuple[Item, ...] = field(default=(), repr=False, compare=False)
    unjudged: tuple[tuple[Item, str], ...] = field(default=(), repr=False, compare=False)

    @property
    def noun(self) -> str:
        """Noun of the things that the model decides on, and that are counted: "part" or "picture"."""
        return "part" if self.parts else "picture"

    @cached_property
    def decided(self) -> list[Decided]:
        """Decisions with the truth: on parts if the model decides on parts, else on pictures."""
        if self.judged_parts:  # asked first, because `pictures` would read all maps from the file
            return decided_on((), self.judged_parts)
        return decided_on(((picture.item, picture.prediction) for picture in self.pictures), ())

    @property
    def remarks(self) -> list[str]:
        """Lines for people: defects that the pixel metrics do not fully cover, and the learning curve."""
        mask_counts = self.masks
        pixel_counts = self.defect_pixels
        lines = []
        if self.without_mask:
            lines.append(self._without_mask_remark())
        if mask_counts["lost"]:
            masks = pluralize(mask_counts["pictures"], "mask")
            lines.append(
                f"{mask_counts['lost']} of {masks} so small that no pixel is left "
                "at the map's size: the nearest one counts in the pixel metrics; evaluate --full-resolution "
                "counts all"
            )
        if mask_counts["lost_regions"]:
            regions = pluralize(mask_counts["regions"], "marked region")
            lines.append(
                f"{mask_counts['lost_regions']} of {regions} so small that no "
                "pixel is left at the map's size: AU-PRO is without them; "
                "evaluate --full-resolution counts all"
            )
        if pixel_counts["outside"]:
            share = f"{pixel_counts['outside'] / pixel_counts['all']:.1%} of the defects' pixels"
            line = f"{share} lie outside of what the model looks at and count in no pixel metric"
            if pixel_counts["pictures_outside"]:
                line += f"; {pluralize(pixel_counts['pictures_outside'], 'picture')} with no other defect"
            lines.append(line)
        if self.learning_curve:
            lines.append(describe_curve(self.learning_curve))
        return lines

    def _without_mask_remark(self) -> str:
        """Return the remark on defective pictures without a usable mask.

        The reasons are listed if there are others than "no mask".
        """
        with_mask = self.masks["pictures"]
        pictures = pluralize(with_mask + self.without_mask, "defective picture")
        measured = f"of the other {with_mask}" if with_mask else "not measured"
        line = f"{self.without_mask} of {pictures} without a usable mask: the pixel metrics are {measured}"
        has_other_reasons = bool({*self.unmarked} - {"no mask"})
        if has_other_reasons:
            reasons = sorted(self.unmarked.items(), key=lambda entry: -entry[1])
            line += "; " + ", ".join(f"{reason}: {count}" for reason, count in reasons)
        return line

    def counts(self) -> str:
        """Return a text with the numbers of tested pictures, and of others that the model learnt from."""
        good_count = self.false_alarms["images"]
        tested = f"{good_count} good, {self.images - good_count} defective"
        if self.parts:
            defective_parts = pluralize(self.defects["images"], "defective part")
            tested = f"{pluralize(good_count, 'good part')}, {defective_parts}"
        if self.learnt_from:
            tested += f"; {self.learnt_from} others were learnt from"
        return f"{pluralize(self.images, 'test picture')} ({tested})"

    @property
    def aligned(self) -> bool:
        """Whether the model searched the pictures for parts."""
        return any(picture.prediction.parts.searched for picture in self.pictures)

    @property
    def names_kinds(self) -> bool:
        """Whether the model names kinds of defects."""
        return any(picture.prediction.region_kinds for picture in self.pictures)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with a row for each test picture, including pictures that did not count.

        The table's columns are path, kind, defective, and the columns of `results.csv`.

        Raises:
            InputError: pandas is missing.
        """
        try:
            import pandas
        except ImportError:
            raise missing_library_error("to_dataframe()", "pandas", extras="pandas") from None
        columns = table_columns(kinds=self.names_kinds, aligned=self.aligned)
        rows = []
        for item, result in all_results(self):
            row = ResultRow.from_result(result)
            values = {name: getattr(row, name) for name in columns}
            path = values.pop("path") or str(item.path)
            rows.append({"path": path, "kind": item.kind, "defective": item.anomalous, **values})
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        parts = [f"{self.category}: {self.method}", pluralize(self.images, "test picture")]
        image_auroc = self.metrics.get("image_auroc")
        if image_auroc is not None:
            parts.append(f"image AUROC {image_auroc:.4f}")
        au_pro = self.metrics.get("au_pro")
        if au_pro is not None:
            au_pro_text = f"AU-PRO {au_pro:.4f}"
            if self.without_mask:
                with_mask = self.masks["pictures"]
                au_pro_text += f" of {with_mask} of {with_mask + self.without_mask} defective pictures"
            parts.append(au_pro_text)
        return f"<Evaluation {', '.join(parts)}, false alarms {_false_alarm_text(self)}>"

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the metrics, and the worst mistakes with picture and heat map."""
        metrics = []
        for name, value in self.metrics.items():
            metrics.append((METRIC_NAMES.get(name, name), "n/a" if value is None else f"{value:.4f}"))
        kinds = [(kind, str(row["images"]), str(row["anomalous"])) for kind, row in self.kinds.items()]
        elements = [
            table([(f"{self.category}: {self.method}", pluralize(self.images, "test picture"))]),
            table(metrics, ("metric", "value")),
            table([("false alarms", _false_alarm_text(self))]),
            table([("note", line) for line in self.remarks]),
            table(kinds, ("kind", "pictures", "called anomalous")),
        ]
        elements += [_picture_html(picture) for picture in _worst_mistakes(self)]
        return f"<div>{''.join(elements)}</div>"

    def to_dict(self) -> Json:
        """Return the document that `evaluate --json` prints."""
        document: Json = {
            "category": self.category,
            "product": self.product,
            "method": self.method,
            "metrics": self.metrics,
            "false_alarms": self.false_alarms,
            "defects": self.defects,
            "kinds": self.kinds,
            "images": self.images,
            "defect_pixels": self.defect_pixels,
            "left_out": sum(self.left_out.values()),
            "left_out_by_kind": self.left_out,
            "learnt_from": self.learnt_from,
            "without_mask": self.without_mask,
            "without_mask_by_reason": self.unmarked,
            "masks": self.masks,
            "remarks": self.remarks,
            "seconds": round(self.seconds, 3),
            "failures": list(self.failures),
            "mismatch": self.mismatch or None,
            "labels": self.labels,
        }
        if self.parts:
            document["parts"] = self.parts
        curve = self.learning_curve
        if curve:
            document["learning_curve"] = {"auroc": curve.figures, "enough": curve.enough}
        if self.robustness:
            document["robustness"] = [robustness.to_dict() for robustness in self.robustness]
        return document


def all_results(result: Evaluation) -> Iterator[tuple[Item, Prediction | Unjudged]]:
    """Yield every test picture with its prediction, or with the reason why it did not count.

    The pictures come in natural order of their paths.
    """
    unjudged = {}
    for item in result.left_out_items:
        unjudged[item] = Unjudged(str(item.path), LEFT_OUT_REASON)
    for item, reason in result.unjudged:
        unjudged[item] = Unjudged(str(item.path), reason)
    index_of = {picture.item: k for k, picture in enumerate(result.pictures)}
    items = [*unjudged, *index_of]
    for item in sorted(items, key=lambda item: natural_key(item.path)):
        if item in unjudged:
            yield item, unjudged[item]
        else:
            yield item, result.pictures[index_of[item]].prediction


def _false_alarm_text(result: Evaluation) -> str:
    """Return a text with the number of false alarms and the 95 % interval of their rate."""
    statistics = result.false_alarms
    if statistics["measured"] is None:
        return "not measured: no good test pictures"
    low, high = statistics["interval"]
    good_count, expected_rate = statistics["images"], statistics["expected"]
    alarm_count = round(statistics["measured"] * good_count)
    expected = "no promise" if expected_rate is None else f"expected {expected_rate:.1%}"
    pictures = pluralize(good_count, "good picture")
    return f"{alarm_count} of {pictures} ({low:.1%} to {high:.1%}, {expected})"


def _picture_html(picture: EvaluatedPicture) -> str:
    """Return an HTML element: the picture, its kind, and the mistake if the decision was wrong."""
    mistake = "" if picture.outcome == RIGHT else f", {picture.outcome}"
    return prediction_html(picture.prediction, f"{picture.item.kind}{mistake}")


def _worst_mistakes(result: Evaluation) -> list[EvaluatedPicture]:
    """Return up to `NOTEBOOK_PICTURES` pictures: the clearest mistakes, then the closest right decisions."""

    def mistake_size(index: int) -> float:
        """Return the distance from the threshold, negative if the decision is right."""
        picture = result.pictures[index]
        distance = abs(picture.prediction.severity)
        return -distance if picture.outcome == RIGHT else distance

    indices = sorted(range(len(result.pictures)), key=lambda index: -mistake_size(index))
    return [result.pictures[index] for index in indices[:NOTEBOOK_PICTURES]]
