"""Parts to be inspected, with their pictures, as they come."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope.pictures import decoding
from flawscope.predictor import PartCollector
from flawscope_station.settings.station import Limits
from flawscope_station.store.inspection import KeyedRequest, RefusalError, make_label
from flawscope_station.store.purposes import PRODUCTION

SUFFIXES = {
    **{"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "DIB": ".bmp"},
    **{"WEBP": ".webp", "GIF": ".gif", "PPM": ".ppm", "JPEG2000": ".jp2", "AVIF": ".avif", "HEIF": ".heic"},
}


class TooLargeError(RefusalError):
    """A picture has more pixels, or bytes, than are accepted."""

    status = 422
    code = "too_many_pixels"


@dataclass(frozen=True)
class Picture:
    """Picture of a part, as it came.

    Attributes:
        data: Bytes of the file.
        name: Name from the sender.
        view: View of the part; None: the picture's name says it, or the part has a single picture.
        key: Key of a folder's file; None: it comes from no folder.
        hash: SHA-256 of the data; "": not computed yet.
    """

    data: bytes = field(repr=False)
    name: str
    view: str | None = None
    key: str | None = None
    hash: str = ""

    def decoding_error(self, error: InputError) -> InputError:
        """Return an error of decoding that names the picture as its sender does."""
        return InputError(str(error).replace(f"({len(self.data)} bytes)", self.name))


@dataclass(frozen=True)
class Part:
    """Part to be inspected, as it came, in one or more pictures: the unit of all work.

    Attributes:
        product_id: Number of the product, or of an entry that finds the product.
        pictures: Pictures of the part.
        source: Where it came from, such as http, folder or camera.
        number: Number of the part, from its sender.
        batch: Batch of the part, from its sender.
        key: Key of the part; a part with the same key is taken once.
        request: Request with the sender's key; None: the part came without a key.
        triggers: Number of triggers that the part's frames answer; None: it came without a trigger.
        due: Deadline of the answer, as `time.monotonic` counts.
        purpose: Purpose of the inspection: production, or trial.
    """

    product_id: int
    pictures: tuple[Picture, ...]
    source: str
    number: str | None = None
    batch: str | None = None
    key: str | None = None
    request: KeyedRequest | None = None
    triggers: int | None = None
    due: float = math.inf
    purpose: str = PRODUCTION

    @property
    def name(self) -> str:
        """Name for people: the part's number, else the name of its first picture."""
        return self.number or self.pictures[0].name

    @property
    def size(self) -> int:
        """Bytes of the part's pictures."""
        return sum(len(picture.data) for picture in self.pictures)

    def without_data(self) -> Part:
        """Return the part without its pictures' bytes."""
        return replace(self, pictures=tuple(replace(picture, data=b"") for picture in self.pictures))


def with_views(part: Part, collector: PartCollector | None) -> Part:
    """Return a copy of a part with number and views, from the sender, or else from the pictures' names.

    Args:
        part: Part as it came.
        collector: Collector that decides on parts in views; None: the model judges single pictures.

    Raises:
        InputError: The pictures do not show each view of the same part once. Or the model judges single
            pictures, and the part has several pictures or a picture with a view.
    """
    if collector is None:
        _check_single(part)
        return part
    labels = [label_of(part, picture, collector) for picture in part.pictures]
    numbers = sorted({number for number, _ in labels})
    views = [view for _, view in labels]
    if len(numbers) > 1:
        raise InputError(
            f"the pictures show parts {', '.join(numbers):.100}: send those of one part together"
        )
    (number,) = numbers
    _check_views(number, views, collector)
    pictures = tuple(replace(picture, view=view) for picture, view in zip(part.pictures, views, strict=True))
    # `make_label` brings the number into the form that is recorded
    return replace(part, pictures=pictures, number=make_label(number, None).part)


def _check_single(part: Part) -> None:
    """Raise InputError if a part has several pictures, or a picture with a view."""
    view = next((picture.view for picture in part.pictures if picture.view is not None), None)
    if view is not None:
        raise InputError(
            f"{part.name}: the model judges single pictures: leave view={view:.60} out, or use a model that "
            "was fitted with --part"
        )
    if len(part.pictures) > 1:
        raise InputError(f"{part.name}: the model judges single pictures: send each by itself")


def _check_views(number: str, views: Sequence[str], collector: PartCollector) -> None:
    """Raise InputError unless the pictures of a part show each view once."""
    view_sets = _views_of_products(collector)  # products of a joint model may have views of their own
    expected = view_sets[0]  # where no product has these views, the error names the first product's
    for view_set in view_sets:
        if set(view_set) == set(views):
            expected = view_set
            break
    if missing := [view for view in expected if view not in views]:
        raise InputError(
            f"part {number} lacks {', '.join(missing)}: send the pictures of all its views together"
        )
    if len(views) > len(expected):
        raise InputError(f"part {number} has a view twice: send each once")


def label_of(part: Part, picture: Picture, collector: PartCollector) -> tuple[str, str]:
    """Return the part's number and the view that a picture shows.

    Raises:
        InputError: The number or the view is not known.
    """
    number = part.number
    view = picture.view
    if part.source != "camera":  # else the name is the station's own, and says neither number nor view
        number, view = _label_by_name(picture, collector, number, view)
    if number is None or view is None:
        view_names = ", ".join(collector.views)
        raise InputError(
            f"{picture.name}: it shows no known part: send its `part`, and as `view` one of {view_names}"
        )
    if not any(view in views for views in _views_of_products(collector)):
        collector.check_view(picture.name, view)  # raises the error that names the views
    return number, view


def _label_by_name(
    picture: Picture, collector: PartCollector, number: str | None, view: str | None
) -> tuple[str | None, str | None]:
    """Return number and view; what is None is taken from the picture's name, if the name has it."""
    with suppress(InputError):  # the name does not have both
        parsed_name = collector.pattern.parse(picture.name)
        number = number or parsed_name.part
        view = view or parsed_name.view
    stem = PurePosixPath(picture.name).stem
    if not view and any(stem in views for views in _views_of_products(collector)):
        view = stem
    return number, view or None


def _views_of_products(collector: PartCollector) -> list[Sequence[str]]:
    """Return the views of each product that a model judges."""
    return [calibration.views for calibration in collector.calibrations.values()]


def base_name(name: str) -> str:
    """Return the last part of a sender's path, without characters that cannot be shown."""
    file_name = re.split(r"[/\\]", name)[-1]
    # categories of control, format and unassigned characters begin with C
    return "".join(
        character for character in file_name if not unicodedata.category(character).startswith("C")
    )


def check_picture(data: bytes, name: str, limits: Limits) -> tuple[str, decoding.Header]:
    """Return the suffix under which a picture's file is kept, and its header; nothing is decoded.

    Raises:
        InputError: The data is no picture.
        TooLargeError: The picture has too many pixels.
    """
    try:
        header = decoding.read_picture_header(data, name)
    except FlawscopeError:
        raise
    except Exception as error:  # an unforeseen error is the picture's fault, not the station's
        raise InputError(f"{name}: it could not be read (unexpected {message_with_type(error)})") from None
    if (pixels := header.height * header.width) > limits.pixels:
        raise TooLargeError(
            f"{name} has {pixels / 1e6:.0f} megapixels, {limits.pixels / 1e6:.0f} are accepted: make "
            "it smaller, or raise `limits: pixels`"
        )
    return SUFFIXES.get(header.format, ".bin"), header
