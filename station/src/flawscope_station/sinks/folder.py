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

# errors of a name or a size that the folder's file system does not take: it may take other messages
_MESSAGE_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG)
MAX_NAME_LENGTH = 60  # characters of the sender's name


@dataclass(frozen=True)
class FolderSinkSettings:
    """Settings of a folder.

    Attributes:
        folder: Folder into which files are written.
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

    An inspection is `DIR/2026-11-22/000017-name.json`. Beside it are the picture as it came,
    `000017-name.png`, and `000017-name-overlay.webp`; a part in several views has a picture for each view,
    with the view's name. A verdict is `000017-name-verdict-5.json`. An existing file is never changed: if
    another file has the name, `-2`, `-3` and so on are added.
    """

    def __init__(self, settings: FolderSinkSettings, pictures: MessagePictures):
        self.settings = settings
        self.pictures = pictures
        self.folder = Path(settings.folder)

    @override
    def prepare(self, *, is_new: bool) -> None:
        """Make the folder, before the first message.

        A folder that is missing later is not made again: it may be on a network share that cannot be reached.

        Raises:
            InputError: The folder cannot be made.
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
        """Write the files of a message; return when they are on the disk.

        Raises:
            UndeliveredError: The files cannot be written.
        """
        try:
            if not self.folder.is_dir():
                raise UndeliveredError("the folder is not there; it is written when it is back")
            day_folder = self.folder / iso(message.at)[:10]
            if not day_folder.is_dir():
                day_folder.mkdir(exist_ok=True)
                files.sync_folder(self.folder)
            self._write_message(day_folder, message)
            files.sync_folder(day_folder)
        except OSError as error:
            is_of_message = error.errno in _MESSAGE_ERRORS
            raise UndeliveredError(_error_text(error), blames_message=is_of_message) from None

    def _write_message(self, day: Path, message: Message) -> None:
        """Write the files of a message under the first name that is free in the folder of its day."""
        for number in count(1):
            suffix = "" if number == 1 else f"-{number}"
            stem = f"{_stem(message)}{suffix}"
            record_path = day / f"{stem}.json"
            if _holds_message(record_path, message.id):
                return  # the message was written earlier, and the station ended before it saved its cursor
            if record_path.exists():
                continue
            is_written = self._write_files(day, stem, record_path, message)
            if is_written:
                return

    def _write_files(self, day: Path, stem: str, record_path: Path, message: Message) -> bool:
        """Write the files of a message, the JSON last; return False if one of the names is not free."""
        file_names: dict[str, str | None] = {}
        picture_kinds = self.settings.picture if message.type == INSPECTION else "none"
        if picture_kinds in ("picture", "both"):
            # adds to `file_names`
            are_pictures_written = self._write_pictures(day, stem, message, file_names)
            if not are_pictures_written:
                return False
        if picture_kinds in ("overlay", "both"):
            file_names["overlay"] = self._write_overlay(day, stem, message)
        fields: dict[str, object] = {}
        if file_names:
            fields = {"files": file_names, **missing_picture_fields(message, file_names)}
        text = json.dumps(message.envelope(**fields), ensure_ascii=False, indent=1) + "\n"
        is_written = _write_new_file(record_path, text.encode(), message.id)
        # a file with this message but with other content is from an earlier attempt, and is as good
        return is_written or _holds_message(record_path, message.id)

    def _write_pictures(
        self, day: Path, stem: str, message: Message, file_names: dict[str, str | None]
    ) -> bool:
        """Write the pictures as they came; return False if one of the names is not free.

        Args:
            day: Folder of the message's day.
            stem: Beginning of the files' names.
            message: Message about an inspection.
            file_names: Gets the name of each picture's file, by its key in the message; None: there is no
                picture.
        """
        views: list[str | None] = [view["view"] for view in message.data["views"]]
        for view in views or [None]:  # None: the only picture
            is_main_picture = view is None or view == message.data["view"]
            key = "picture" if is_main_picture else f"picture of {view}"
            picture = self.pictures.original(message, view)
            if picture is None:
                file_names[key] = None
                continue
            data, suffix = picture
            view_stem = stem if view is None else f"{stem}-{_in_file_name(view)}"
            name = f"{view_stem}{suffix}"
            file_names[key] = name
            if not _write_new_file(day / name, data, message.id):
                return False
        return True

    def _write_overlay(self, day: Path, stem: str, message: Message) -> str | None:
        """Write the picture with heat map; return the name of its file, None where there is none."""
        overlay = self.pictures.overlay(message)
        if overlay is None:
            return None
        name = f"{stem}-overlay.webp"
        # An existing file was written before a restart. It is kept, though it may differ a little.
        _write_new_file(day / name, overlay, message.id)
        return name


def _stem(message: Message) -> str:
    """Return the stem of a message's file names: `NUMBER-TITLE-verdict-NUMBER`.

    The title is the picture's name; if the part has several views, it is the part's name.
    """
    is_multi_view = len(message.data["views"]) > 1
    title = str(message.data["part"]) if is_multi_view else Path(str(message.data["name"])).stem
    number = f"{message.number:06}"
    file_title = _in_file_name(title)
    stem = f"{number}-{file_title}" if file_title else number
    return stem if message.verdict is None else f"{stem}-verdict-{message.verdict}"


def _in_file_name(text: str) -> str:
    """Return a text with characters that every file system takes; "" where none is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:MAX_NAME_LENGTH]


def _holds_message(path: Path, id: str) -> bool:
    """Return whether a file holds the message with this id."""
    try:
        return bool(json.loads(path.read_bytes())["id"] == id)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _write_new_file(path: Path, data: bytes, id: str) -> bool:
    """Write a file and flush it to the disk; an existing file is not changed.

    Args:
        path: Path of the file.
        data: Content of the file.
        id: Id of the message, part of the name of the temporary file. A temporary file that a killed station
            left for the same message is overwritten.

    Returns:
        Whether the file has this content; False: another file has the name.

    Raises:
        OSError: The file cannot be written or read.
    """
    temporary_path = path.parent / f".{path.name}.{id}{files.PARTIAL_SUFFIX}"
    try:
        if not path.exists():
            with open(temporary_path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                rename_without_overwrite(temporary_path, path)
            except FileExistsError:
                pass  # another program wrote a file of this name meanwhile: its content is compared below
            else:
                return True
    finally:
        with suppress(OSError):
            temporary_path.unlink(missing_ok=True)
    return path.is_file() and path.read_bytes() == data


def _error_text(error: OSError) -> str:
    """Return an error of writing, for people."""
    if error.errno in DISK_FULL_ERRORS:
        return "its disk is full; free some space"
    if error.errno == errno.EROFS:
        return "its disk is read-only"
    return f"it cannot be written: {error.strerror or error}"


PLUGIN = Plugin("folder", FolderSinkSettings, FolderSink, paths=("folder",))
