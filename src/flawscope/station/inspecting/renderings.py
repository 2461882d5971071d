"""Pictures of an inspection as people look at them: the file, its view, overlay, map and mask."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import FlawscopeError
from flawscope.pictures.decoding import decode, load_picture, to_eight_bits
from flawscope.pictures.geometry import Geometry
from flawscope.pictures.part_views import PartPose
from flawscope.results import drawing
from flawscope.results.found_parts import FoundParts
from flawscope.results.prediction import Prediction
from flawscope.station.inspecting.capacity import MemoryBudget
from flawscope.station.inspecting.worker import Inspector
from flawscope.station.inspecting.writer import RecordedInspection
from flawscope.station.store.files import MASK_SUFFIX, MASKS, PICTURES
from flawscope.station.store.records import NotFoundError, PictureRecord, Store

CACHE_SIZE = 64  # predictions in memory: people look at the latest
WEBP_QUALITY = 82  # of WebP, 0..100
PREDICTION_TIMEOUT = 60.0  # seconds to wait for a picture to be judged again
_SAVED_FIELDS = ("score_threshold", "mask_threshold", "outline", "nearby")  # fields in a map's file


class InspectionRenderer:
    """Renders pictures of inspections. Maps to be reviewed are kept as files, others computed again."""

    def __init__(self, store: Store, inspector: Inspector):
        self.store, self.inspector = store, inspector
        self.versions, self.files = inspector.versions, inspector.files
        self._recent: OrderedDict[tuple[str, int], Prediction] = OrderedDict()
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "maps")

    def close(self) -> None:
        self._writer.shutdown()

    # ---- as inspections come

    def keep_map(self, recorded: RecordedInspection) -> None:
        """Keep the map in memory for a while, and as a file where the picture is to be reviewed."""
        taken, prediction = recorded.inspection, recorded.prediction
        if prediction is None:
            return
        with self._lock:
            self._recent[taken.picture, taken.version_id] = prediction
            while len(self._recent) > CACHE_SIZE:
                self._recent.popitem(last=False)
        if taken.anomalous or taken.near:
            self._writer.submit(self._write_map, taken.picture, taken.version_id, prediction)

    def _write_map(self, picture: str, version: int, prediction: Prediction) -> None:
        facts = {name: getattr(prediction, name) for name in _SAVED_FIELDS}
        facts |= {"colour_range": prediction.colour_range, "geometry": prediction.geometry.to_dict()}
        facts |= {"part_pose": prediction.part_pose and prediction.part_pose.to_dict()}
        facts |= {"found_parts": prediction.found_parts and prediction.found_parts.to_dict()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, map=prediction.map.astype(np.float16), facts=np.array(json.dumps(facts)))
        with suppress(FlawscopeError):  # it can be computed again
            self.files.write(self.files.map_path(picture, version), buffer.getvalue(), durable=False)

    # ---- as somebody looks

    def picture(self, product_id: int, number: int) -> tuple[bytes, str, str]:
        """Return the file as it came, its ending and the name that its sender gave it.

        Raises:
            NotFoundError: there is no such inspection, or its picture was removed.
        """
        row = self._row(product_id, number)
        return self.files.read(PICTURES, row.hash, row.suffix), row.suffix, row.name

    def view(self, product_id: int, number: int, side: int) -> bytes:
        """Return WebP of the picture, the longer side at most `side` pixels. NotFoundError as above."""
        return encode_webp(self._reduced_picture(self._row(product_id, number), side))

    def overlay(self, product_id: int, number: int, side: int) -> bytes:
        """Return WebP of the picture with heat map, outlines and part's square. NotFoundError as above."""
        row = self._row(product_id, number)
        prediction, picture = self._prediction(product_id, row), self._reduced_picture(row, side)
        return encode_webp(drawing.contour(*prediction.over(picture)))

    def map(self, product_id: int, number: int) -> tuple[bytes, float, float]:
        """Return the map as 16-bit PNG at the network's size, and the values of its black and white."""
        row = self._row(product_id, number)
        values = self._prediction(product_id, row).map.astype(np.float32)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
        return encode_png(np.round(share * 65535).astype(np.uint16)), low, high

    def mask(self, product_id: int, number: int) -> bytes:
        """Return PNG at the picture's size, 255 at the defect, as a person drew it, else as the model did."""
        row = self._row(product_id, number)
        if drawn := self.store.mask_hash(number):
            return self.files.read(MASKS, drawn, MASK_SUFFIX)
        mask = self._prediction(product_id, row).picture_mask()
        return encode_png(mask.astype(np.uint8) * np.uint8(255))

    def _row(self, product_id: int, number: int) -> PictureRecord:
        row = self.store.picture(product_id, number)
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
            held = self._recent.get((row.hash, row.version))
        if held is None:
            held = _read_map(self.files.map_path(row.hash, row.version))
        if held is None:
            data = self.files.read(PICTURES, row.hash, row.suffix)
            model = self.versions.open(product_id, row.version)
            with self.inspector.memory.hold(data, row.name):
                held = self.inspector.run_between(lambda: model.predict(data)).result(PREDICTION_TIMEOUT)
            with self._lock:
                self._recent[row.hash, row.version] = held
        return held


def _read_map(path: Path) -> Prediction | None:
    """Read a map; None where there is none, or it cannot be read."""
    try:
        with np.load(path) as file:
            values, facts = file["map"].astype(np.float32), json.loads(str(file["facts"]))
        return Prediction(
            score=0.0,  # not used here
            p_value=0.0,
            severity=0.0,
            is_anomalous=False,
            map=values,
            geometry=Geometry.from_dict(facts["geometry"]),
            colour_range=tuple(facts["colour_range"]),
            part_pose=(pose := facts.get("part_pose")) and PartPose(**pose),
            found_parts=(found := facts.get("found_parts")) and FoundParts.from_dict(found),
            **{name: facts[name] for name in _SAVED_FIELDS},
        )
    except Exception:
        return None


def reduce_picture(data: bytes, name: str, side: int, memory: MemoryBudget) -> NDArray[np.uint8]:
    """Return a picture upright, the longer side at most `side` pixels. InputError where it is damaged."""
    with memory.hold(data, name):
        picture = load_picture(data, name)  # a large one stays encoded until it is resized
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(to_eight_bits(decode(picture)))
        share = min(1.0, side / max(picture.size))
        width, height = (max(1, round(length * share)) for length in picture.size)
        small = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small.convert("RGB"))


def encode_webp(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()


def encode_png(values: NDArray[Any]) -> bytes:
    """Encode a grey picture [H, W], uint8 or uint16."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
