"""Pictures to be inspected, and the records made of them."""

from __future__ import annotations

import math
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath

from flawscope import Prediction
from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope.pictures import decoding
from flawscope.predictor import PartCollector
from flawscope_station.inspecting.part_set import PartSet
from flawscope_station.settings.station import Limits
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import KeyedRequest, RefusalError, make_label
from flawscope_station.store.open_models import ProductModel

SUFFIXES = {
    **{"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "DIB": ".bmp"},
    **{"WEBP": ".webp", "GIF": ".gif", "PPM": ".ppm", "JPEG2000": ".jp2", "AVIF": ".avif", "HEIF": ".heic"},
}


class TooLargeError(RefusalError):
    """A picture has more pixels, or bytes, than are accepted."""

    status, code = 422, "too_many_pixels"


@dataclass(frozen=True)
class Picture:
    """Picture to be inspected, as it came.

    product_id: number of the product, or of an entry that finds the product.
    key: a picture with the same key is taken once. part, batch, view: of the part that it shows.
    request: where its sender gave a key. hash: SHA-256 of the data, where it is known.
    triggers: number that the frame answers. due: deadline of the answer, as `time.monotonic` counts.
    set: of the pictures of its part, where it shows one of several views.
    """

    product_id: int
    data: bytes = field(repr=False)
    name: str
    source: str
    key: str | None = None
    part: str | None = None
    batch: str | None = None
    view: str | None = None
    request: KeyedRequest | None = None
    hash: str = ""
    triggers: int | None = None
    due: float = math.inf
    set: PartSet | None = field(default=None, repr=False, compare=False)

    def decoding_error(self, error: InputError) -> InputError:
        """Error of decoding, with the sender's name of the picture."""
        return InputError(str(error).replace(f"({len(self.data)} bytes)", self.name))


_RECORDED = {one.name for one in fields(NewInspection)} - {"product_id"}
# of the library's answer: columns, and words that a station uses otherwise
_SAID_OTHERWISE = {*_RECORDED, "path", "product", "decision", "is_anomalous"}
_COPIED_FIELDS = _RECORDED & {one.name for one in fields(Picture)}


def new_inspection(
    picture: Picture,
    suffix: str,
    at: int,
    product: ProductModel,
    result: Prediction,
    near: float,
    parts: PartCollector | None = None,
    tolerances: dict[str, str] | None = None,
) -> NewInspection:
    """Record of a judged picture, whose file is still being written.

    Args:
        product: product and version that judged.
        near: multiple of the false-alarm rate up to which a good one's p-value is near the threshold.
        parts: decides on the part that the picture shows; None: the picture is judged alone.
        tolerances: version and sha256 of the rules in force; None: none are.

    Raises:
        InputError: as `with_part_and_view`.
    """
    picture = with_part_and_view(picture, parts)
    if parts is not None and picture.view is not None:  # cameras may have changed places
        result = parts.compare(picture.view, result)
    height, width = result.geometry.picture_size
    near *= product.predictor.calibration.expected_rate
    own = {
        "shows": product.name and (product.name if result.product else result.NO_PRODUCT_NAME),
        "triggers": picture.triggers,
        "tolerances": tolerances,
    }
    record = {name: value for name, value in result.to_dict().items() if name not in _SAID_OTHERWISE}
    return NewInspection(
        **{name: getattr(picture, name) for name in _COPIED_FIELDS},
        product_id=product.product_id,
        version_id=product.number,
        picture="",
        suffix=suffix,
        bytes=len(picture.data),
        width=width,
        height=height,
        at=at,
        score=result.score,
        p_value=result.p_value,
        severity=result.severity,
        score_threshold=result.score_threshold,
        anomalous=result.is_anomalous,
        near=not result.is_anomalous and result.p_value <= near,
        record=record | {name: value for name, value in own.items() if value},
        brightness=result.brightness,
        request_hash=None if picture.request is None else picture.request.hash,
        tolerated=result.is_tolerated,
        address=picture.product_id,
    )


def with_part_and_view(picture: Picture, parts: PartCollector | None) -> Picture:
    """Return a picture with its part and view: the sender's, else those in the picture's name.

    Raises:
        InputError: part or view is unknown, the model knows no such view, or it judges single pictures.
    """
    if parts is None:
        if picture.view is None:
            return picture
        raise InputError(
            f"{picture.name}: the model judges single pictures: leave view={picture.view:.60} out, or use a "
            "model that was fitted with --part"
        )
    part, view, stem = picture.part, picture.view, PurePosixPath(picture.name).stem
    if picture.source != "camera":  # whose pictures the station names
        with suppress(InputError):  # the name does not tell both
            found = parts.pattern.parse(picture.name)
            part, view = part or found.part, view or found.view
        view = view or (stem if stem in parts.calibration.views else None)
    if part is None or view is None:
        known = ", ".join(parts.calibration.views)
        raise InputError(
            f"{picture.name}: it shows no known part: send its `part`, and as `view` one of {known}"
        )
    parts.check_view(picture.name, view)
    return replace(picture, **make_label(part, picture.batch, view)._asdict())


def base_name(name: str) -> str:
    """Return the last part of what a sender calls a picture, without characters that cannot be shown."""
    return "".join(c for c in re.split(r"[/\\]", name)[-1] if unicodedata.category(c)[0] != "C")


def check_picture(data: bytes, name: str, limits: Limits) -> tuple[str, decoding.Header]:
    """Return the ending of the kept file, and the picture's header; nothing is decoded.

    Raises:
        InputError: the data is no picture.
        TooLargeError: it has too many pixels.
    """
    try:
        about = decoding.read_picture_header(data, name)
    except FlawscopeError:
        raise
    except Exception as error:  # what no reader foresees says nothing about the station
        raise InputError(f"{name}: it could not be read (unexpected {message_with_type(error)})") from None
    if (pixels := about.height * about.width) > limits.pixels:
        raise TooLargeError(
            f"{name} has {pixels / 1e6:.0f} megapixels, {limits.pixels / 1e6:.0f} are accepted: make "
            "it smaller, or raise `limits: pixels`"
        )
    return SUFFIXES.get(about.format, ".bin"), about
