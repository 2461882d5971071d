"""Renderings of an inspection for people: the picture file, its view, overlay, map and mask."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope import Prediction
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures import decoding, displayed
from flawscope.predictor import PictureOf
from flawscope.results import drawing
from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.inspecting.memory import BusyError, MemoryBudget, decoding_bytes
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.store.files import MASK_SUFFIX, MASKS, PICTURES
from flawscope_station.store.records import NotFoundError, PictureRecord, Store

CACHE_BYTES = 64 * 1024**2  # most bytes of maps in memory: those of the latest parts, which people look at
WEBP_QUALITY = 82  # quality of WebP pictures, 0 to 100
MAX_UNWRITTEN = 32  # maps that wait to be written; further ones are not written, and can be computed again
REDRAW_TIMEOUT = 10.0  # seconds for which a picture to be judged again waits until the line rests


class InspectionRenderer:
    """Renders pictures of inspections. Maps to be reviewed are kept as files, others are computed again."""

    def __init__(self, store: Store, inspector: Inspector):
        self.store = store
        self.inspector = inspector
        self.versions = inspector.judge.versions
        self.files = inspector.files
        # predictions by hash of the picture and number of the version, the oldest first
        self._recent: OrderedDict[tuple[str, int], Prediction] = OrderedDict()
        self._recent_bytes = 0
        self._lock = threading.Lock()
        self._unwritten = threading.BoundedSemaphore(MAX_UNWRITTEN)  # permits to write a map
        self.turns = inspector.memory.turns

    # ---- as inspections come

    def keep_map(self, recorded: RecordedInspection) -> None:
        """Keep a part's maps in memory for a while; if it is to be reviewed, write them to files, too."""
        inspection = recorded.inspection
        for picture, prediction in zip(inspection.pictures, recorded.predictions, strict=False):
            picture_hash = picture.picture
            self._remember(picture_hash, inspection.version_id, prediction)
            is_for_review = inspection.anomalous or inspection.near
            # where too many maps wait to be written, this one stays in memory only
            if is_for_review and self._unwritten.acquire(blocking=False):
                writing = self.inspector.run_beside(
                    self._write_map, picture_hash, inspection.version_id, prediction
                )
                writing.add_done_callback(lambda _: self._unwritten.release())

    def _remember(self, picture_hash: str, version: int, prediction: Prediction) -> None:
        """Keep a prediction, unless it is too large; the oldest make room for it."""
        if (size := prediction.map.nbytes) > CACHE_BYTES:
            return
        with self._lock:
            if (replaced_prediction := self._recent.pop((picture_hash, version), None)) is not None:
                self._recent_bytes -= replaced_prediction.map.nbytes
            self._recent[picture_hash, version] = prediction
            self._recent_bytes += size
            while self._recent_bytes > CACHE_BYTES:
                _, oldest_prediction = self._recent.popitem(last=False)
                self._recent_bytes -= oldest_prediction.map.nbytes

    def _write_map(self, picture: str, version: int, prediction: Prediction) -> None:
        buffer = io.BytesIO()
        facts = json.dumps(prediction.drawing_facts())
        np.savez_compressed(buffer, map=prediction.map.astype(np.float16), facts=np.array(facts))
        with suppress(FlawscopeError):  # the map can be computed again
            self.files.write(self.files.map_path(picture, version), buffer.getvalue(), durable=False)

    # ---- as somebody looks

    def picture(self, product_id: int, number: int, view: str | None = None) -> tuple[bytes, str, str]:
        """Return the file as it was sent, its suffix, and its name from the sender.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            view: View of the part; None: the most unusual one, or the only picture.

        Raises:
            NotFoundError: There is no such inspection, or its picture was removed.
        """
        row = self._row(product_id, number, view)
        return self.files.read(PICTURES, row.hash, row.suffix), row.suffix, row.name

    def view(
        self, product_id: int, number: int, side: int, view: str | None = None, *, patient: bool = False
    ) -> bytes:
        """Return the picture as WebP, the longer side at most `side` pixels.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            side: Pixels of the longer side.
            view: View of the part; None: the most unusual one, or the only picture.
            patient: Wait for a turn, however many people wait.

        Raises:
            NotFoundError: There is no such inspection, or its picture was removed.
            BusyError: Too many people wait to see something, or the line goes first.
        """
        row = self._row(product_id, number, view)
        with self.turns.take(patient=patient):
            return encode_webp(self._reduced_picture(row, side))

    def overlay(
        self, product_id: int, number: int, side: int, view: str | None = None, *, patient: bool = False
    ) -> bytes:
        """Return the picture as WebP with heat map, contours and the part's square.

        A prediction that is not kept is made again.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            side: Pixels of the longer side.
            view: View of the part; None: the most unusual one, or the only picture.
            patient: Wait for a turn, however many people wait.

        Raises:
            NotFoundError: There is no such inspection, or its picture was removed.
            BusyError: Too many people wait to see something, or the line goes first.
        """
        row = self._row(product_id, number, view)
        prediction = self._prediction(product_id, row)
        with self.turns.take(patient=patient):
            # the colour follows the record: the rules behind the third value of `over` may have changed
            heat_map, marked, _ = prediction.over(self._reduced_picture(row, side))
            return encode_webp(drawing.contour(heat_map, marked, drawing.outline_colour(row.tolerated)))

    def map(self, product_id: int, number: int) -> tuple[bytes, float, float]:
        """Return the map as 16-bit PNG at the network's size, and the values shown as black and as white."""
        row = self._row(product_id, number)
        values = self._prediction(product_id, row).map.astype(np.float32)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        with self.turns.take():
            grey = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
            grey_levels = np.round(grey * np.iinfo(np.uint16).max).astype(np.uint16)
            return encode_png(grey_levels), low, high

    def mask(self, product_id: int, number: int) -> bytes:
        """Return a person's mask, else the model's, as PNG at the picture's size, 255 at the defect."""
        row = self._row(product_id, number)
        if mask_hash := self.store.mask_hash(number):
            return self.files.read(MASKS, mask_hash, MASK_SUFFIX)
        prediction = self._prediction(product_id, row)
        with self.turns.take():
            return encode_png(prediction.picture_mask().astype(np.uint8) * np.uint8(255))

    def _row(self, product_id: int, number: int, view: str | None = None) -> PictureRecord:
        """Return the record of an inspection's picture; raise NotFoundError where the file was removed."""
        row = self.store.picture(product_id, number, view)
        if row.removed_at is not None:
            raise NotFoundError(f"the picture of inspection {number} was removed, as `keep` says")
        return row

    def _reduced_picture(self, row: PictureRecord, side: int) -> NDArray[np.uint8]:
        return reduce_picture(
            self.files.read(PICTURES, row.hash, row.suffix), row.name, side, self.inspector.memory
        )

    def _prediction(self, product_id: int, row: PictureRecord) -> Prediction:
        """Return a version's prediction: from memory, from its file, or computed again."""
        with self._lock:
            prediction = self._recent.get((row.hash, row.version))
        if prediction is None:
            prediction = _read_map(self.files.map_path(row.hash, row.version))
        if prediction is None:
            prediction = self._judge_again(product_id, row)
            self._remember(row.hash, row.version, prediction)
        return prediction

    def _judge_again(self, product_id: int, row: PictureRecord) -> Prediction:
        """Compute a prediction again, as soon as no picture of the line waits.

        A small picture is decoded before that. A large one is decoded only then, because the line may need
        the memory until then.
        """
        data = self.files.read(PICTURES, row.hash, row.suffix)
        memory = self.inspector.memory
        with self.turns.take():
            model = self.versions.open(product_id, row.version)
            # `decoding_bytes` returns 0 for a small picture
            is_large = decoding_bytes(decoding.read_picture_header(data, row.name)) > 0
            picture = PictureOf(data, str(row.view)) if model.kind == "view" else data
            source: Any = picture if is_large else model.prepare(picture)

        def predict() -> Prediction:
            with memory.hold(data, row.name, seconds=0.0):
                ((_, prediction),) = model.stream([source])  # a single picture has a single result
            if isinstance(prediction, InputError):
                raise prediction
            return prediction

        call: Future[Prediction] = self.inspector.judge.run_between(predict)
        try:
            return call.result(REDRAW_TIMEOUT)
        except TimeoutError:
            call.cancel()
            raise BusyError(REDRAW_TIMEOUT, "the pictures of the line go first") from None


def _read_map(path: Path) -> Prediction | None:
    """Read a map; None where there is none, or it cannot be read."""
    try:
        with np.load(path) as file:
            return Prediction.from_map(file["map"].astype(np.float32), json.loads(str(file["facts"])))
    except Exception:
        return None


def reduce_picture(data: bytes, name: str, side: int, memory: MemoryBudget) -> NDArray[np.uint8]:
    """Return a picture upright, the longer side at most `side` pixels, uint8 [H, W, 3].

    Raises:
        InputError: The picture is damaged.
    """
    with memory.hold(data, name):
        picture = load_displayed(data, name)
        scale = min(1.0, side / max(picture.size))
        width, height = (max(1, round(length * scale)) for length in picture.size)
        small = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small.convert("RGB"))


def load_displayed(data: bytes, name: str) -> Image.Image:
    """Open a picture for a person; if it has more than three channels, open the first group of them.

    A large picture is not decoded before it is resized.

    Raises:
        InputError: The picture is damaged.
    """
    try:
        picture = decoding.load_picture(data, name)
    except InputError:
        with suppress(InputError):  # `displayed` raises it for a damaged picture; the first error is reported
            return Image.fromarray(displayed(data))
        raise
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(decoding.to_eight_bits(decoding.decode(picture)))


def encode_webp(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture [H, W, 3] as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()


def encode_png(values: NDArray[Any]) -> bytes:
    """Encode a grey picture [H, W], uint8 or uint16, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
