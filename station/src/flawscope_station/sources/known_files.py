"""Files of a folder that need no inspection: the store has their key, and their content.

A file's key is its path, time of change and size. A file whose key another file has gets a key by its
content.
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
            digest: SHA-256 of its content, where another picture has its name, time and size.
        """
        name = self.name(path)
        exact = path.relative_to(self.folder).as_posix()
        ends = _ending(stamp)
        key = f"{self._prefix}{name}{ends}"
        if len(key) <= MAX_KEY_LENGTH and name == exact and not digest:
            return key
        return f"{self._prefix}#{hashlib.sha256(os.fsencode(exact) + digest).hexdigest()}{ends}"

    def match(self, found: Mapping[Path, FileStamp]) -> Iterator[tuple[Path, tuple[int, str] | None]]:
        """Yield each picture with the record under its key: the record's number and its picture's hash.

        None in their place where the store does not have the key.
        """
        paths = list(found)
        for first in range(0, len(paths), LOOKUP_BATCH):
            keys = {path: self.key(path, found[path]) for path in paths[first : first + LOOKUP_BATCH]}
            known = self.store.known_files(self.product_id, list(keys.values()))
            yield from ((path, known.get(key)) for path, key in keys.items())

    def has(self, path: Path, stamp: FileStamp, digest: bytes) -> bool:
        """Return whether a picture of this name, time, size and content was inspected or given up."""
        keys = [self.key(path, stamp), self.key(path, stamp, digest)]
        known = self.store.known_files(self.product_id, keys)
        return digest.hex() in {picture for _, picture in known.values()}

    def was_moved(self, stamp: FileStamp, digest: bytes) -> bool:
        """Return whether a file was inspected under another name, where it is no more.

        Programs sort files into folders.
        """
        query = select(inspections.c.key).where(
            is_at_address(self.product_id),
            inspections.c.picture == digest.hex(),
            inspections.c.source == FOLDER,
        )
        database = self.store.database
        removed = find_file_keys(database, self.product_id, removed_files.c.picture == digest.hex())
        with database.reading() as connection:
            keys = [str(key) for key in connection.execute(query.limit(100)).scalars()]
        keys += [str(row.key) for row in removed]
        begins = self._prefix
        ends = _ending(stamp)
        moved_keys = [key for key in keys if key.startswith(begins) and key.endswith(ends)]
        before = [key[len(begins) : -len(ends)] for key in moved_keys]
        return any(
            not name.startswith("#") and not is_unchanged(self.folder / name, stamp) for name in before
        )

    def give_up(self, path: Path, stamp: FileStamp, digest: bytes) -> None:
        """Record that a file is not to be inspected, also not after a restart."""
        key = self.key(path, stamp)
        if key in self.store.known_files(self.product_id, [key]):
            key = self.key(path, stamp, digest)
        keep_given_up(self.store.database, self.product_id, key, digest.hex())

    def forget(self, there: Collection[FileStamp]) -> None:
        """Forget the keys of files that went away after their records did, or without a record.

        Args:
            there: Stamps of the files that are there; a file that was moved is there.
        """
        endings = {_ending(stamp) for stamp in there}
        forget_file_keys(self.store.database, self.product_id, self._prefix, endings)


def _ending(stamp: FileStamp) -> str:
    return f":{stamp.modified_ns}:{stamp.size}"
