"""Files that are no pictures, though some hold pictures.

Each is refused by its own name, and nothing in it is learnt. A report of a defect, dropped among the pictures
of good parts, would teach the defect.
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
# files at the top of a zip by which programs know their own documents and packages, whatever they are called
_MARKS = {
    "[Content_Types].xml": "document",  # Word, Excel, PowerPoint and others
    "mimetype": "document",  # OpenDocument, EPUB
    "META-INF/MANIFEST.MF": "archive",  # Java
    "AndroidManifest.xml": "archive",
}


class OtherFileError(InputError):
    """A file is no picture and no zip of pictures.

    Attributes:
        code: its kind.
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
    """Return what a file is by its name, if it is no picture; None: nobody knows."""
    kind = other_files.by_suffix(PurePosixPath(name.replace("\\", "/")).suffix.lower())
    return None if kind is None else _CODES.get(kind)


def check_zip_name(name: str) -> None:
    """Raise OtherFileError for a file that begins like a zip and is called otherwise."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix not in ("", ZIP_SUFFIX):
        raise OtherFileError(name, other_kind(name) or "archive")


def check_zip_entries(name: str, entries: Collection[str]) -> None:
    """Raise OtherFileError for a zip that is a document or a package of a program, by the names in it."""
    for mark, kind in _MARKS.items():
        if mark in entries:
            raise OtherFileError(name, "document" if kind == "document" else "archive")
