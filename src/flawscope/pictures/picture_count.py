"""Counts the pictures in a file. Files with several pictures are refused, since one alone would be judged."""

from __future__ import annotations

from typing import IO

from PIL import Image
from PIL.MpoImagePlugin import MpoImageFile

from flawscope.pictures import tiff

_ENTRIES = 0xB002  # tag with an entry for each picture of a multi-picture JPEG
_GAIN_MAPS = (b"hdr-gain-map", b"iso:ts:21496")  # names in a JPEG that also holds a gain map for HDR screens


def describe_several(image: Image.Image) -> str:
    """Describe a file other than a TIFF that holds several pictures; empty where it holds one.

    Pictures that a phone stores beside a photograph, such as a preview, a depth map or a gain map, do not
    count.

    Args:
        image: First picture of the file, opened and not loaded yet.
    """
    if image.format == "TIFF":
        return ""
    if isinstance(image, MpoImageFile):
        count = _count_photographs(image)
    else:
        count = int(getattr(image, "n_frames", 1))
    return f"it holds {count} pictures" if count > 1 else ""


def describe_pages(stream: IO[bytes]) -> str:
    """Describe a TIFF that holds several pictures, or begins with a preview; empty for other files.

    Smaller copies of a picture (previews) are not counted.
    """
    are_previews = [page.is_preview for page in tiff.read_pages(stream)]
    picture_count = are_previews.count(False)
    if picture_count > 1:
        return f"it holds {picture_count} pictures"
    begins_with_preview = len(are_previews) > 1 and are_previews[0]
    return "its first picture is a preview" if begins_with_preview else ""


def _count_photographs(image: MpoImageFile) -> int:
    """Return the number of photographs in a multi-picture JPEG.

    A picture whose kind is not stated counts if it has the size and mode of the first picture, unless the
    file has a gain map.
    """
    assert image.mpinfo is not None
    assert image.fp is not None  # the file is open
    kinds = [entry["Attribute"]["MPType"] for entry in image.mpinfo[_ENTRIES]]
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    has_gain_map = any(name in data for name in _GAIN_MAPS)
    image.fp.seek(position)
    count = 1
    for number, kind in enumerate(kinds[1:], start=1):
        if kind.startswith("Multi-Frame"):
            count += 1
        elif kind in ("Undefined", "Unknown", "Baseline MP Primary Image") and not has_gain_map:
            count += 1 if _looks_like_first(image, number) else 0
    return count


def _looks_like_first(image: Image.Image, number: int) -> bool:
    """Whether a picture of a file has the size and mode of the first picture, which is the current one."""
    first_form = (image.size, image.mode)
    try:
        image.seek(number)
        return (image.size, image.mode) == first_form
    except Exception:  # a picture that cannot be opened does not count
        return False
    finally:
        image.seek(0)
