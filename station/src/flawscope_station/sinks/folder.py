"""Folders: each inspection becomes files with one name, the JSON last."""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from typing_extensions import override

from flawscope.artefact import files
from flawscope.errors import InputError
from flawscope_station.settings.plugins import Plugin
from flawscope_station.sinks.delivery import MessagePictures, Sink, UndeliveredError, missing_picture_fields
from flawscope_station.sinks.outbox import INSPECTION, Message
from flawscope_station.store.files import DISK_FULL_ERRORS, rename_without_overwrite
from flawscope_station.store.records import iso

# a name or a size that the folder's file system does not take: other messages may be taken
_MESSAGE_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG)
MAX_NAME_LENGTH = 60  # characters of the sender's name


@dataclass(frozen=True)
class FolderSinkSettings:
    """Settings of a folder.

    Attributes:
        folder: Where files are written.
        picture: Pictures that are written beside the JSON.
    """

    folder: str
    picture: Literal["none", "picture", "overlay", "both"] = "both"

    @property
    def address(self) -> str:
        """Return the folder, which identifies the sink where it has no name."""
        return self.folder

    label = address


class FolderSink(Sink):
    """Sink that writes files into a folder, named by number and name of the inspection.

    An inspection is `DIR/2026-11-22/000017-name.json`, with `000017-name.png` and `000017-name-overlay.webp`
    beside it. The first is the picture as it came; a part in several views has a picture for each view, with
    the view's name. A verdict is `000017-name-verdict-5.json`. An existing file is never changed: a name that
    is taken by something else gets `-2`, `-3` and so on.
    """

    def __init__(self, settings: FolderSinkSettings, pictures: MessagePictures):
        self.settings = settings
        self.pictures = pictures
        self.folder = Path(settings.folder)

    @override
    def prepare(self, *, is_new: bool) -> None:
        """Make the folder, before the first message.

        One that is missing later may be a share that is away: it is not made.
        """
        try:
            if is_new:
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"sinks: cannot make the folder {self.folder}: {error.strerror}; choose another"
            ) from None

    @override
    def send(self, message: Message) -> None:
        """Write the files of a message; return when they are on the disk. UndeliveredError."""
        try:
            if not self.folder.is_dir():
                raise UndeliveredError("the folder is not there; it is written when it is back")
            day = self.folder / iso(message.at)[:10]
            if not day.is_dir():
                day.mkdir(exist_ok=True)
                files.sync_folder(self.folder)
            self._write_message(day, message)
            files.sync_folder(day)
        except OSError as error:
            is_of_message = error.errno in _MESSAGE_ERRORS
            raise UndeliveredError(_error_text(error), blames_message=is_of_message) from None

    def _write_message(self, day: Path, message: Message) -> None:
        for number in count(1):
            stem = _stem(message) + ("" if number == 1 else f"-{number}")
            record = day / f"{stem}.json"
            if _holds_message(record, message.id):
                return  # it was written before the station's end was noted
            if not record.exists() and self._write_files(day, stem, record, message):
                return

    def _write_files(self, day: Path, stem: str, record: Path, message: Message) -> bool:
        """Write the files of a message; return False where a name is taken by something else."""
        written: dict[str, str | None] = {}
        wanted = self.settings.picture if message.type == INSPECTION else "none"
        if wanted in ("picture", "both") and not self._write_pictures(day, stem, message, written):
            return False
        if wanted in ("overlay", "both"):
            written["overlay"] = self._write_overlay(day, stem, message)
        fields: dict[str, object] = {}
        if written:
            fields = {"files": written, **missing_picture_fields(message, written)}
        text = json.dumps(message.envelope(**fields), ensure_ascii=False, indent=1) + "\n"
        return _write_new_file(record, text.encode(), message.id) or _holds_message(record, message.id)

    def _write_pictures(self, day: Path, stem: str, message: Message, written: dict[str, str | None]) -> bool:
        """Write the pictures as they came; return False where a name is taken by something else.

        Args:
            day: folder of the message's day.
            stem: begins the names of the files.
            message: about an inspection.
            written: gets the name of each file, by what it shows; None: there is no picture.
        """
        views: list[str | None] = [view["view"] for view in message.data["views"]]
        for view in views or [None]:
            key = "picture" if view in (None, message.data["view"]) else f"picture of {view}"
            found = self.pictures.original(message, view)
            if found is None:
                written[key] = None
                continue
            data, suffix = found
            view_stem = stem if view is None else f"{stem}-{_in_file_name(view)}"
            written[key] = name = f"{view_stem}{suffix}"
            if not _write_new_file(day / name, data, message.id):
                return False
        return True

    def _write_overlay(self, day: Path, stem: str, message: Message) -> str | None:
        """Write the picture with heat map; return the name of its file, None where there is none."""
        drawn = self.pictures.overlay(message)
        if drawn is None:
            return None
        name = f"{stem}-overlay.webp"
        # one that exists was drawn before a restart, and is nearly the same
        _write_new_file(day / name, drawn, message.id)
        return name


def _stem(message: Message) -> str:
    several = len(message.data["views"]) > 1
    title = str(message.data["part"]) if several else Path(str(message.data["name"])).stem
    stem = "-".join(filter(None, (f"{message.number:06}", _in_file_name(title))))
    return stem if message.verdict is None else f"{stem}-verdict-{message.verdict}"


def _in_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:MAX_NAME_LENGTH]


def _holds_message(path: Path, id: str) -> bool:
    """Return whether a file holds this message."""
    try:
        return bool(json.loads(path.read_bytes())["id"] == id)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _write_new_file(path: Path, data: bytes, id: str) -> bool:
    """Write a whole file, flushed; return False where a file with other content is there. OSError.

    Args:
        path: of the file.
        data: its content.
        id: of the message; a file that a killed station had begun for it is overwritten.
    """
    temporary = path.parent / f".{path.name}.{id}{files.PARTIAL_SUFFIX}"
    try:
        if not path.exists():
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                rename_without_overwrite(temporary, path)
            except FileExistsError:
                pass  # somebody wrote a file of this name meanwhile: its content is compared below
            else:
                return True
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path.is_file() and path.read_bytes() == data


def _error_text(error: OSError) -> str:
    if error.errno in DISK_FULL_ERRORS:
        return "its disk is full; free some space"
    if error.errno == errno.EROFS:
        return "its disk is read-only"
    return f"it cannot be written: {error.strerror or error}"


PLUGIN = Plugin("folder", FolderSinkSettings, FolderSink, paths=("folder",))
