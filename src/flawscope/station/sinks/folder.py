"""Folders: each inspection becomes files with one name, the JSON last."""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from flawscope.artefact.files import PART, sync_folder
from flawscope.errors import InputError
from flawscope.station.settings.sinks import SinkSettings
from flawscope.station.sinks.delivery import Pictures, Sink, UndeliveredError, lack
from flawscope.station.sinks.outbox import DECIDED, INSPECTION, Message
from flawscope.station.store.files import give_name
from flawscope.station.store.records import iso

MOST_NAME = 60  # characters of the sender's name


class FolderSink(Sink):
    """Writes `DIR/2026-11-22/000017-name.json`, with `.png` (the picture as it came) and `-overlay.webp`
    beside it; for a verdict `000017-name-verdict-5.json`, for a part `part-000005-4711.json`. An existing
    file is never changed: a name that is taken by something else gets `-2`, `-3` and so on."""

    kind = "folder"

    def __init__(self, settings: SinkSettings, pictures: Pictures):
        assert settings.folder is not None
        self.settings, self.pictures = settings, pictures
        self.label = settings.label
        self.folder = Path(settings.folder)

    def make(self) -> None:
        """Make the folder before the first message; later a missing folder is away, such as a share.
        InputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"sinks: cannot make the folder {self.folder}: {error.strerror}; choose another"
            ) from None

    def send(self, message: Message) -> None:
        try:
            if not self.folder.is_dir():
                raise UndeliveredError("the folder is not there; it is written when it is back")
            day = self.folder / iso(message.at)[:10]
            if not day.is_dir():
                day.mkdir(exist_ok=True)
                sync_folder(self.folder)
            self._write(day, message)
            sync_folder(day)
        except OSError as error:
            raise UndeliveredError(_reason(error)) from None

    def _write(self, day: Path, message: Message) -> None:
        for place in count(1):
            stem = _stem(message) + ("" if place == 1 else f"-{place}")
            record = day / f"{stem}.json"
            if _is_of(record, message.id):
                return  # it was written before the station's end was noted
            if not record.exists() and self._fill(day, stem, record, message):
                return

    def _fill(self, day: Path, stem: str, record: Path, message: Message) -> bool:
        """Write the files of a message; return False where a name is taken by something else."""
        files: dict[str, str | None] = {}
        wanted = self.settings.pictures if message.type == INSPECTION else "none"
        if wanted in ("picture", "both"):
            found = self.pictures.original(message)
            files["picture"] = None if found is None else f"{stem}{found[1]}"
            if found is not None and not _put(day / f"{stem}{found[1]}", found[0], message.id):
                return False
        if wanted in ("overlay", "both"):
            drawn = self.pictures.overlay(message)
            files["overlay"] = None if drawn is None else f"{stem}-overlay.webp"
            if drawn is not None:  # an existing one was drawn before a restart, and is nearly the same
                _put(day / f"{stem}-overlay.webp", drawn, message.id)
        more: dict[str, Any] = {"files": files, **lack(message, files)} if files else {}
        text = json.dumps(message.envelope(**more), ensure_ascii=False, indent=1) + "\n"
        return _put(record, text.encode(), message.id) or _is_of(record, message.id)


def _stem(message: Message) -> str:
    called = str(message.data["part"]) if message.type == DECIDED else Path(str(message.data["name"])).stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", called).strip("._-")[:MOST_NAME]
    stem = "-".join(filter(None, ("part" if message.type == DECIDED else "", f"{message.number:06}", name)))
    return stem if message.verdict is None else f"{stem}-verdict-{message.verdict}"


def _is_of(path: Path, id: str) -> bool:
    """Whether the file holds this message."""
    try:
        return bool(json.loads(path.read_bytes())["id"] == id)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _put(path: Path, data: bytes, id: str) -> bool:
    """Write a whole file, flushed; return False where another one is there. id: of the message: what a killed
    station had begun is overwritten. OSError."""
    temporary = path.parent / f".{path.name}.{id}{PART}"
    try:
        if not path.exists():
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                give_name(temporary, path)
                return True
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path.is_file() and path.read_bytes() == data


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "its disk is full; free some space"
    if error.errno == errno.EROFS:
        return "its disk is read-only"
    return f"it cannot be written: {error.strerror or error}"
