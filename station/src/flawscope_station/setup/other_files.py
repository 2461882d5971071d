"""Refuse files that are no pictures, even if they contain pictures.

A report of a defect, dropped among the pictures of good parts, would teach the defect as good.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Literal

from flawscope.errors import InputError
from flawscope.pictures import other_files

OtherKind = Literal["document", "video", "archive"]

ZIP_SUFFIX = ".zip"
_CODES: dict[other_files.OtherFile, OtherKind] = {
    other_files.DOCUMENT: "document",
    other_files.TABLE: "document",
    other_files.VIDEO: "video",
    other_files.ARCHIVE: "archive",
}
# files in a zip that show that it is a document or a package of a program, whatever its own name is
_MARKS: dict[str, OtherKind] = {
    "[Content_Types].xml": "document",  # Word, Excel, PowerPoint and others
    "mimetype": "document",  # OpenDocument, EPUB
    "META-INF/MANIFEST.MF": "archive",  # Java
    "AndroidManifest.xml": "archive",
}


class OtherFileError(InputError):
    """A file is no picture and no zip of pictures.

    Attributes:
        code: Kind of the file.
    """

    def __init__(self, name: str, kind: OtherKind):
        remedy = {
            "document": "is a document: store the pictures in it as PNG",
            "video": "is a video: take single pictures out of it",
            "archive": "packs other files than pictures: give the pictures, or a zip of them alone",
        }
        super().__init__(f"{name} {remedy[kind]}")
        self.code = kind


def other_kind(name: str) -> OtherKind | None:
    """Return the kind of a file that is no picture, by the suffix of its name.

    Return None where the file may be a picture, or the suffix is unknown.
    """
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    kind = other_files.by_suffix(suffix)
    return None if kind is None else _CODES.get(kind)


def check_zip_name(name: str) -> None:
    """Raise OtherFileError where a file that is a zip by its content has another suffix than `.zip`."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix not in ("", ZIP_SUFFIX):
        raise OtherFileError(name, other_kind(name) or "archive")


def check_zip_entries(name: str, entries: Collection[str]) -> None:
    """Raise OtherFileError where the files in a zip show that it is a document or a program's package.

    Args:
        name: Name of the zip.
        entries: Paths of the files in the zip.
    """
    for mark, kind in _MARKS.items():
        if mark in entries:
            raise OtherFileError(name, kind)
