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
        truth: Its ground truth, [H, W] bool at the map's size: all False for a good picture, None where a
            defective one has no mask.
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
        chosen = range(self._count)[place]
        return self._get(chosen) if isinstance(chosen, int) else [self._get(k) for k in chosen]


class PictureStore:
    """Evaluated pictures, in order. Several threads may read.

    Items and predictions lie in memory, the maps in a temporary file, which the system removes.

    Args:
        valid: Returns for a geometry the pixels that count, [H, W] bool at the network's size.
    """

    def __init__(self, valid: Callable[[Geometry], NDArray[np.bool_]]) -> None:
        self.items: list[Item] = []
        self.predictions: list[Prediction] = []  # without maps
        self._places: list[tuple[int, tuple[int, ...]]] = []  # of the maps: offset in bytes, and shape
        self._packed_truths: list[bytes | None] = []  # the truths
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as this)
        self._valid = lru_cache(maxsize=16)(lambda geometry: _none_if_all_true(valid(geometry)))

    def append(self, item: Item, prediction: Prediction, truth: NDArray[np.bool_] | None) -> None:
        """Append a picture. FlawscopeError where the disk is full."""
        try:
            place = self._file.seek(0, os.SEEK_END)
            rest = np.ascontiguousarray(prediction.map, np.float32).data.cast("B")
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            folder = tempfile.gettempdir()
            raise FlawscopeError(
                f"cannot keep anomaly maps in {folder}: {error.strerror}; free some space, or set TMPDIR"
            ) from None
        self._places.append((place, prediction.map.shape))
        self._packed_truths.append(None if truth is None else zlib.compress(np.packbits(truth).tobytes(), 1))
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
        return self._column(
            lambda i: EvaluatedPicture(
                self.items[i], self.prediction_with_map(i), self._truth(i), self._valid_of(i)
            )
        )

    @property
    def maps(self) -> Sequence[NDArray[np.float32]]:
        """Maps [H, W] of all pictures, read from the file one by one."""
        return self._column(self._map)

    @property
    def truths(self) -> Sequence[NDArray[np.bool_] | None]:
        """Ground truth [H, W] of all pictures; None: the picture has none."""
        return self._column(self._truth)

    @property
    def valid(self) -> Sequence[NDArray[np.bool_] | None]:
        """Pixels [H, W] that count, of all pictures; None: all of the picture's."""
        return self._column(self._valid_of)

    def prediction_with_map(self, index: int) -> Prediction:
        """Return the prediction of a picture, with its map read from the file."""
        return replace(self.predictions[index], map=self._map(index))

    def _column(self, get: Callable[[int], T]) -> LazySequence[T]:
        return LazySequence(get, len(self))

    def _valid_of(self, index: int) -> NDArray[np.bool_] | None:
        return self._valid(self.predictions[index].geometry)

    def _map(self, index: int) -> NDArray[np.float32]:
        offset, shape = self._places[index]
        mapped = np.memmap(self._file, np.float32, "r", offset, shape)
        return np.array(mapped)  # the mapping itself would hold an open file

    def _truth(self, index: int) -> NDArray[np.bool_] | None:
        packed = self._packed_truths[index]
        size = self.predictions[index].geometry.size
        if packed is None:
            return None
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=size[0] * size[1]).reshape(size).astype(np.bool_)


def _none_if_all_true(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return None if mask.all() else mask


METRIC_NAMES = {  # of the metrics, for a person
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
        metrics: Metrics of `METRIC_NAMES`, on maps at the network's size. `*_f1` is the best over thresholds
            chosen with the test's own labels; `*_f1_calibrated` is at the thresholds that calibration fixed
            before, of pixels the SegF1 of MVTec AD 2 (there at the pictures' own size,
            `full_pixel_f1_calibrated`).
        false_alarms: Of pictures, or of parts where the model decides on those, as are the image metrics,
            `defects` and `kinds`: target, expected (k/(n + 1), what n good ones promise; None: none),
            measured, images (good test pictures), interval (95 %, Clopper-Pearson); and what `check_promise`
            finds, with expected_interval, in which the rate of this one model lies with 95 %.
        defects: Of defective test pictures: images, found, and the interval of the share that is found, as
            above.
        kinds: Per kind of test picture the number, how many were called anomalous, the mean score, and the
            median severity, which is comparable between models.
        images: Number of pictures that counted.
        defect_pixels: Of the masks at the pictures' own size: all, and outside of the pixels that count (the
            region of interest, and a crop); pictures_outside: with all of their defect there, which still
            count for the image metrics.
        left_out: Test pictures whose pixels the model was fitted or calibrated on, by kind.
        without_mask: Defective pictures without a usable mask.
        seconds: Time that the evaluation took.
        learnt_from: Pictures of a data set without a split of its own that the model was fitted or calibrated
            on; all others were tested. 0 where the data set has a split.
        unmarked: Defective pictures without a usable mask, by the reason.
        failures: Pictures that could not be judged, each with its reason.
        masks: Numbers of the defective pictures' masks: with a mask that marks something; with one that marks
            nothing; with one that loses all pixels in nearest resizing to the map's size (lost: the nearest
            pixel is taken); the regions of all masks, and those that lose all pixels beside others that keep
            some.
        mismatch: One line if model and pictures do not seem to belong together, judged by the good ones where
            there are some; empty otherwise.
        labels: Remarks on single figures.
        parts: Of a model that decides on parts the number of good and defective ones, of false alarms (with
            the 95 % interval of their rate) and of defective ones found, the promise, and the AUROC; else
            empty.
        learning_curve: How many good pictures are enough, where the call asked for it and it can be said.
        robustness: Decisions on the same pictures in other light, where the call asked for them.
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
        """Decisions with the truth: the parts, where the model decides on those, else the pictures."""
        shown = (
            ((picture.item, picture.prediction) for picture in self.pictures) if not self.judged_parts else ()
        )
        return decided_on(shown, self.judged_parts)

    @property
    def remarks(self) -> list[str]:
        """Says which defects the pixel metrics do not cover, or not wholly.

        The learning curve follows: how many good pictures are enough.
        """
        masks = self.masks
        pixels = self.defect_pixels
        lines = []
        if self.without_mask:
            of = pluralize(masks["pictures"] + self.without_mask, "defective picture")
            reasons = [f"{why}: {n}" for why, n in sorted(self.unmarked.items(), key=lambda pair: -pair[1])]
            why = f"; {', '.join(reasons)}" if {*self.unmarked} - {"no mask"} else ""
            which = f"of the other {masks['pictures']}" if masks["pictures"] else "not measured"
            lines.append(
                f"{self.without_mask} of {of} without a usable mask: the pixel metrics are {which}{why}"
            )
        if masks["lost"]:
            lines.append(
                f"{masks['lost']} of {pluralize(masks['pictures'], 'mask')} so small that no pixel is left "
                "at the map's size: the nearest one counts in the pixel metrics; evaluate --full-resolution "
                "counts all"
            )
        if masks["lost_regions"]:
            lines.append(
                f"{masks['lost_regions']} of {pluralize(masks['regions'], 'marked region')} so small that no "
                "pixel is left at the map's size: AU-PRO is without them; "
                "evaluate --full-resolution counts all"
            )
        if pixels["outside"]:
            share = f"{pixels['outside'] / pixels['all']:.1%} of the defects' pixels"
            line = f"{share} lie outside of what the model looks at and count in no pixel metric"
            if pixels["pictures_outside"]:
                line += f"; {pluralize(pixels['pictures_outside'], 'picture')} with no other defect"
            lines.append(line)
        if self.learning_curve:
            lines.append(describe_curve(self.learning_curve))
        return lines

    def counts(self) -> str:
        """Say how many pictures were tested, and how many others of the folder were learnt from."""
        good = self.false_alarms["images"]
        text = f"{pluralize(self.images, 'test picture')} ({good} good, {self.images - good} defective"
        if self.parts:
            defective = pluralize(self.defects["images"], "defective part")
            text = f"{pluralize(self.images, 'test picture')} ({pluralize(good, 'good part')}, {defective}"
        return f"{text}; {self.learnt_from} others were learnt from)" if self.learnt_from else f"{text})"

    @property
    def aligned(self) -> bool:
        """Whether the parts were looked for in the pictures."""
        return any(picture.prediction.parts.searched for picture in self.pictures)

    @property
    def names_kinds(self) -> bool:
        """Whether the model names kinds of defects."""
        return any(picture.prediction.region_kinds for picture in self.pictures)

    def to_dataframe(self) -> pandas.DataFrame:
        """Table with a row for each test picture: path, kind, defective, and the columns of `results.csv`.

        Needs pandas; InputError where it is missing.
        """
        try:
            import pandas
        except ImportError:
            raise missing_library_error("to_dataframe()", "pandas", extras="pandas") from None
        columns = table_columns(kinds=self.names_kinds, aligned=self.aligned)
        rows = []
        for item, said in all_results(self):
            row = ResultRow.from_result(said)
            values = {name: getattr(row, name) for name in columns}
            path = values.pop("path") or str(item.path)
            rows.append({"path": path, "kind": item.kind, "defective": item.anomalous, **values})
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        parts = [f"{self.category}: {self.method}", pluralize(self.images, "test picture")]
        for name, label in (("image_auroc", "image AUROC"), ("au_pro", "AU-PRO")):
            if (value := self.metrics.get(name)) is not None:
                parts.append(f"{label} {value:.4f}")
        if self.without_mask and self.metrics.get("au_pro") is not None:
            defective = self.masks["pictures"] + self.without_mask
            parts[-1] += f" of {self.masks['pictures']} of {defective} defective pictures"
        return f"<Evaluation {', '.join(parts)}, false alarms {_false_alarm_text(self)}>"

    def _repr_html_(self) -> str:
        """HTML for notebooks: the metrics, and the worst mistakes with picture, heat map and decision."""
        metrics = [
            (METRIC_NAMES.get(k, k), "n/a" if v is None else f"{v:.4f}") for k, v in self.metrics.items()
        ]
        kinds = [(kind, str(v["images"]), str(v["anomalous"])) for kind, v in self.kinds.items()]
        tables = (
            table([(f"{self.category}: {self.method}", pluralize(self.images, "test picture"))]),
            table(metrics, ("metric", "value")),
            table([("false alarms", _false_alarm_text(self))]),
            table([("note", line) for line in self.remarks]),
            table(kinds, ("kind", "pictures", "called anomalous")),
        )
        return f"<div>{''.join((*tables, *map(_picture_html, _worst_mistakes(self))))}</div>"

    def to_dict(self) -> Json:
        """The document that `evaluate --json` prints."""
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
    """Yield every test picture, in natural order of the paths, also those that did not count."""
    unjudged = {item: Unjudged(str(item.path), LEFT_OUT_REASON) for item in result.left_out_items}
    unjudged |= {item: Unjudged(str(item.path), reason) for item, reason in result.unjudged}
    indices = {picture.item: k for k, picture in enumerate(result.pictures)}
    items = [*unjudged, *indices]
    for item in sorted(items, key=lambda item: natural_key(item.path)):
        if item in unjudged:
            yield item, unjudged[item]
        else:
            yield item, result.pictures[indices[item]].prediction


def _false_alarm_text(result: Evaluation) -> str:
    """Number of false alarms, with the 95 % interval of their rate."""
    known = result.false_alarms
    if known["measured"] is None:
        return "not measured: no good test pictures"
    (low, high), count = known["interval"], round(known["measured"] * known["images"])
    of = pluralize(known["images"], "good picture")
    expected = "no promise" if known["expected"] is None else f"expected {known['expected']:.1%}"
    return f"{count} of {of} ({low:.1%} to {high:.1%}, {expected})"


def _picture_html(picture: EvaluatedPicture) -> str:
    """Element with a picture and the fault of its decision."""
    mistake = "" if picture.outcome == RIGHT else f", {picture.outcome}"
    return prediction_html(picture.prediction, f"{picture.item.kind}{mistake}")


def _worst_mistakes(result: Evaluation) -> list[EvaluatedPicture]:
    def margin(index: int) -> float:
        picture = result.pictures[index]
        return abs(picture.prediction.severity) * (-1 if picture.outcome == RIGHT else 1)

    order = sorted(range(len(result.pictures)), key=lambda index: -margin(index))
    return [result.pictures[index] for index in order[:NOTEBOOK_PICTURES]]
