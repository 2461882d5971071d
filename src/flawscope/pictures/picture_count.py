"""Counts the pictures in a file: of several, only one would be judged."""

from __future__ import annotations

from typing import IO

from PIL import Image
from PIL.MpoImagePlugin import MpoImageFile

from flawscope.pictures import tiff

_ENTRIES = 0xB002  # of the pictures in a multi-picture JPEG
_GAIN_MAPS = (b"hdr-gain-map", b"iso:ts:21496")  # names in a JPEG that brings one along


def describe_several(image: Image.Image) -> str:
    """Describe a file other than a TIFF that holds several pictures; empty where it is one.

    Pictures that a phone stores beside a photograph, such as a preview, depths or a map of its lights, do not
    count. `image` is the first picture, opened and not loaded yet.
    """
    if image.format == "TIFF":
        return ""
    count = (
        _count_photographs(image) if isinstance(image, MpoImageFile) else int(getattr(image, "n_frames", 1))
    )
    return f"it holds {count} pictures" if count > 1 else ""


def describe_pages(stream: IO[bytes]) -> str:
    """Describe a TIFF that holds several pictures, or begins with a preview; empty for others.

    A picture with smaller copies of itself is one picture; files other than TIFF are not described.
    """
    pages = [page.is_preview for page in tiff.read_pages(stream)]
    if pages.count(False) > 1:
        return f"it holds {pages.count(False)} pictures"
    return "its first picture is a preview" if len(pages) > 1 and pages[0] else ""


def _count_photographs(image: MpoImageFile) -> int:
    """Return the number of pictures in a multi-picture JPEG that are no copies of others.

    A picture without a kind counts where it is as large as the first.
    """
    assert image.mpinfo is not None
    assert image.fp is not None  # it is open
    kinds = [entry["Attribute"]["MPType"] for entry in image.mpinfo[_ENTRIES]]
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    has_map = any(name in data for name in _GAIN_MAPS)
    image.fp.seek(place)
    count = 1
    for number, kind in enumerate(kinds[1:], start=1):
        if kind.startswith("Multi-Frame"):
            count += 1
        elif kind in ("Undefined", "Unknown", "Baseline MP Primary Image") and not has_map:
            count += _looks_like_first(image, number)
    return count


def _looks_like_first(image: Image.Image, number: int) -> bool:
    first = image.size, image.mode
    try:
        image.seek(number)
        return (image.size, image.mode) == first
    except Exception:  # a picture that cannot be opened does not count
        return False
    finally:
        image.seek(0)
