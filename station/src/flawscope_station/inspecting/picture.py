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
        view: View of the part; None: its name says it, or the part has a single picture.
        key: Key of a folder's file; None: it comes from no folder.
        hash: SHA-256 of the data; "": not computed yet.
    """

    data: bytes = field(repr=False)
    name: str
    view: str | None = None
    key: str | None = None
    hash: str = ""

    def decoding_error(self, error: InputError) -> InputError:
        """Return an error of decoding with the sender's name of the picture."""
        return InputError(str(error).replace(f"({len(self.data)} bytes)", self.name))


@dataclass(frozen=True)
class Part:
    """Part to be inspected, as it came, in one or several pictures: the unit of all work.

    Attributes:
        product_id: Number of the product, or of an entry that finds the product.
        pictures: Pictures of the part.
        source: Where it came from, such as http, folder or camera.
        number: Number of the part, from its sender.
        batch: Batch of the part, from its sender.
        key: Key of the part; a part with the same key is taken once.
        request: Request with the sender's key; None: it has none.
        triggers: Number of triggers that its frames answer; None: it came without a trigger.
        due: Deadline of the answer, as `time.monotonic` counts.
        purpose: production, or trial.
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
        """Name by which a person calls it: its number, else the name of its picture."""
        return self.number or self.pictures[0].name

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(len(picture.data) for picture in self.pictures)

    def without_data(self) -> Part:
        """Return the part without its pictures' bytes."""
        return replace(self, pictures=tuple(replace(picture, data=b"") for picture in self.pictures))


def with_views(part: Part, judge: PartCollector | None) -> Part:
    """Return a part with its number and its pictures' views: the sender's, else those in the names.

    Raises:
        InputError: the pictures are not exactly the views of a part, or the model judges single pictures.
    """
    if judge is None:
        _check_single(part)
        return part
    labels = [label_of(part, picture, judge) for picture in part.pictures]
    numbers = sorted({number for number, _ in labels})
    seen = [view for _, view in labels]
    if len(numbers) > 1:
        raise InputError(
            f"the pictures show parts {', '.join(numbers):.100}: send those of one part together"
        )
    _check_whole(numbers[0], seen, judge)
    pictures = tuple(replace(picture, view=view) for picture, view in zip(part.pictures, seen, strict=True))
    return replace(part, pictures=pictures, number=make_label(numbers[0], None).part)


def _check_single(part: Part) -> None:
    """Raise InputError for a part that is not one picture without a view."""
    view = next((picture.view for picture in part.pictures if picture.view is not None), None)
    if view is not None:
        raise InputError(
            f"{part.name}: the model judges single pictures: leave view={view:.60} out, or use a model that "
            "was fitted with --part"
        )
    if len(part.pictures) > 1:
        raise InputError(f"{part.name}: the model judges single pictures: send each by itself")


def _check_whole(number: str, seen: Sequence[str], judge: PartCollector) -> None:
    """Raise InputError where the pictures of a part do not show each view once."""
    view_sets = _known_views(judge)  # products of a joint model may have views of their own
    expected = next((views for views in view_sets if {*views} == {*seen}), view_sets[0])
    if missing := [view for view in expected if view not in seen]:
        raise InputError(
            f"part {number} lacks {', '.join(missing)}: send the pictures of all its views together"
        )
    if len(seen) > len(expected):
        raise InputError(f"part {number} has a view twice: send each once")


def label_of(part: Part, picture: Picture, judge: PartCollector) -> tuple[str, str]:
    """Return the number of the part and the view that a picture shows.

    Raises:
        InputError: they are not known.
    """
    number = part.number
    view = picture.view
    if part.source != "camera":  # whose pictures the station names
        number, view = _label_by_name(picture, judge, number, view)
    if number is None or view is None:
        known = ", ".join(judge.views)
        raise InputError(
            f"{picture.name}: it shows no known part: send its `part`, and as `view` one of {known}"
        )
    if not any(view in views for views in _known_views(judge)):
        judge.check_view(picture.name, view)
    return number, view


def _label_by_name(
    picture: Picture, judge: PartCollector, number: str | None, view: str | None
) -> tuple[str | None, str | None]:
    """Return number and view; the picture's name gives those that are None."""
    with suppress(InputError):  # the name does not tell both
        found = judge.pattern.parse(picture.name)
        number = number or found.part
        view = view or found.view
    stem = PurePosixPath(picture.name).stem
    if not view and any(stem in views for views in _known_views(judge)):
        view = stem
    return number, view or None


def _known_views(judge: PartCollector) -> list[Sequence[str]]:
    """Return the views of each product that a model judges."""
    return [calibration.views for calibration in judge.calibrations.values()]


def base_name(name: str) -> str:
    """Return the last part of a sender's path, without characters that cannot be shown."""
    return "".join(c for c in re.split(r"[/\\]", name)[-1] if unicodedata.category(c)[0] != "C")


def check_picture(data: bytes, name: str, limits: Limits) -> tuple[str, decoding.Header]:
    """Return the suffix for the kept file, and the picture's header; nothing is decoded.

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
