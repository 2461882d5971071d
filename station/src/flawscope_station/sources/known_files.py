"""Files of a folder that need no inspection: the store has their keys and their content.

A file's key is its path, time of change and size. If another file had the same key, the content is added to
the key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from sqlalchemy import select

from flawscope_station.sources.arrivals import FileStamp
from flawscope_station.sources.moved_files import is_unchanged
from flawscope_station.sources.source import to_utf8
from flawscope_station.store.insert import is_at_address
from flawscope_station.store.inspection import FOLDER
from flawscope_station.store.records import Store
from flawscope_station.store.removed_files import find_file_keys, forget_file_keys, keep_given_up
from flawscope_station.store.schema import inspections, removed_files

MAX_KEY_LENGTH = 200  # characters
LOOKUP_BATCH = 256  # keys that are looked up at once
MAX_NAMES = 100  # most inspections with the same content whose names are compared


class KnownFiles:
    """Files of a folder that were inspected, or given up, by the store's records."""

    def __init__(self, store: Store, product_id: int, folder: Path):
        self.store = store
        self.product_id = product_id
        self.folder = folder
        folder_hash = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self._prefix = f"{FOLDER}@{folder_hash}:"

    def name(self, path: Path) -> str:
        """Return a picture's name: its path below the folder."""
        return to_utf8(path.relative_to(self.folder).as_posix())

    def key(self, path: Path, stamp: FileStamp, digest: bytes = b"") -> str:
        """Return the key of a picture.

        Args:
            path: Path of the picture.
            stamp: Stamp of the picture.
            digest: SHA-256 of the content, to tell the picture from another one with the same name, time and
                size; b"": the content is not part of the key.
        """
        name = self.name(path)
        exact_name = path.relative_to(self.folder).as_posix()  # may have characters that UTF-8 lacks
        suffix = _ending(stamp)
        key = f"{self._prefix}{name}{suffix}"
        if len(key) <= MAX_KEY_LENGTH and name == exact_name and not digest:
            return key
        return f"{self._prefix}#{hashlib.sha256(os.fsencode(exact_name) + digest).hexdigest()}{suffix}"

    def match(self, stamps: Mapping[Path, FileStamp]) -> Iterator[tuple[Path, tuple[int, str] | None]]:
        """Yield each path with number and picture hash of the record under its key; None: there is none."""
        paths = list(stamps)
        for first in range(0, len(paths), LOOKUP_BATCH):
            keys = {path: self.key(path, stamps[path]) for path in paths[first : first + LOOKUP_BATCH]}
            records = self.store.known_files(self.product_id, list(keys.values()))
            yield from ((path, records.get(key)) for path, key in keys.items())

    def has(self, path: Path, stamp: FileStamp, digest: bytes) -> bool:
        """Return whether a picture with this name, time, size and content was inspected or given up."""
        keys = [self.key(path, stamp), self.key(path, stamp, digest)]
        records = self.store.known_files(self.product_id, keys)
        return digest.hex() in {picture for _, picture in records.values()}

    def was_moved(self, stamp: FileStamp, digest: bytes) -> bool:
        """Return whether a file was inspected under another name, and is not there under that name any more.

        For example, a program sorts files into folders.
        """
        query = select(inspections.c.key).where(
            is_at_address(self.product_id),
            inspections.c.picture == digest.hex(),
            inspections.c.source == FOLDER,
        )
        database = self.store.database
        removed_rows = find_file_keys(database, self.product_id, removed_files.c.picture == digest.hex())
        with database.reading() as connection:
            keys = [str(key) for key in connection.execute(query.limit(MAX_NAMES)).scalars()]
        keys += [str(row.key) for row in removed_rows]
        prefix = self._prefix  # as `key` puts it before the name
        suffix = _ending(stamp)  # as `key` puts it after the name
        keys_with_stamp = [key for key in keys if key.startswith(prefix) and key.endswith(suffix)]
        earlier_names = [key[len(prefix) : -len(suffix)] for key in keys_with_stamp]
        # a name that begins with # is a hash: the file is not found by it
        readable_names = [name for name in earlier_names if not name.startswith("#")]
        return any(not is_unchanged(self.folder / name, stamp) for name in readable_names)

    def give_up(self, path: Path, stamp: FileStamp, digest: bytes) -> None:
        """Record that a file is not to be inspected, not even after a restart."""
        key = self.key(path, stamp)
        if key in self.store.known_files(self.product_id, [key]):
            key = self.key(path, stamp, digest)
        keep_given_up(self.store.database, self.product_id, key, digest.hex())

    def forget(self, present_stamps: Collection[FileStamp]) -> None:
        """Forget the keys of files that are gone and have no record any more, or never had one.

        Args:
            present_stamps: Stamps of the files in the folder, whatever their names: a file that was renamed
                is not forgotten.
        """
        endings = {_ending(stamp) for stamp in present_stamps}
        forget_file_keys(self.store.database, self.product_id, self._prefix, endings)


def _ending(stamp: FileStamp) -> str:
    """Return the end of a file's key: time of change and size."""
    return f":{stamp.modified_ns}:{stamp.size}"
