"""Files that nobody needs: what was cut off before a file was removed, or known."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, delete, exists, or_, select

from flawscope.station.database import Database
from flawscope.station.files import MAPS, MASKS, PART, PICTURES, Files
from flawscope.station.schema import inspections, learnt, pictures, verdicts

YOUNG = 3600.0  # seconds in which a file may become known
TOGETHER = 500  # files that are looked up at once
_NAME = re.compile(r"([0-9a-f]{64})((?:\.\w+)+)")


class Stray:
    """rest: is called with the seconds that a piece of work took."""

    def __init__(self, database: Database, files: Files, rest: Callable[[float], None]):
        self.database, self.files, self.rest = database, files, rest

    def discard(self, kind: str, digest: str, suffix: str) -> bool:
        """Remove a picture or a mask, unless somebody needs it by now."""

        def settle() -> bool:
            with self.database.reading() as connection:
                return not needed(connection, kind, [digest])

        try:
            removed = self.files.discard(kind, digest, suffix, settle)
        except OSError:  # the next sweep tries again
            return False
        if removed and kind == PICTURES:
            folder = self.files.path(MAPS, digest, "").parent
            for cached in folder.glob(f"{digest}.*"):
                with suppress(OSError):
                    cached.unlink()
        return removed

    def sweep(self, at: int) -> int:
        """Look through all files; how many were removed.

        Args:
            at: microseconds since 1970, now.
        """
        removed = 0
        for kind in (PICTURES, MASKS, MAPS):
            names = self._names(kind, at)
            while True:
                begun = time.monotonic()
                group = list(islice(names, TOGETHER))
                if not group:
                    break
                with self.database.reading() as connection:
                    known = needed(connection, kind, sorted({digest for _, digest, _ in group}))
                for path, digest, suffix in group:
                    if digest in known or _is_young(path, at):
                        continue
                    if kind == MAPS:
                        with suppress(OSError):
                            path.unlink()
                            removed += 1
                    elif self.discard(kind, digest, suffix):
                        removed += 1
                        if kind == PICTURES:
                            self._forget(digest)
                self.rest(time.monotonic() - begun)
        return removed

    def _forget(self, digest: str) -> None:
        """A picture that no record names leaves no row behind."""
        row = pictures.c.hash == digest
        named = (inspections.c.picture == digest, learnt.c.picture == digest)
        with self.database.writing() as connection:
            connection.execute(select(pictures.c.hash).where(row).with_for_update()).all()
            connection.execute(delete(pictures).where(row, *(~exists().where(one) for one in named)))

    def _names(self, kind: str, at: int) -> Iterator[tuple[Path, str, str]]:
        """Files by content. What was being written and left is removed."""
        for folder, _, names in os.walk(self.files.folder / kind):
            for name in names:
                path = Path(folder, name)
                if found := _NAME.fullmatch(name):
                    yield path, found[1], found[2]
                elif name.endswith(PART) and not _is_young(path, at):
                    with suppress(OSError):
                        path.unlink()


def needed(connection: Connection, kind: str, hashes: list[str]) -> set[str]:
    """Those of the files that a record names, and whose picture was not removed."""
    if kind == MASKS:
        return set(connection.execute(select(verdicts.c.mask).where(verdicts.c.mask.in_(hashes))).scalars())
    query = select(pictures.c.hash).where(
        pictures.c.hash.in_(hashes),
        pictures.c.removed_at.is_(None),
        or_(
            exists().where(inspections.c.picture == pictures.c.hash),
            exists().where(learnt.c.picture == pictures.c.hash),
        ),
    )
    return set(connection.execute(query).scalars())


def _is_young(path: Path, at: int) -> bool:
    try:
        return at / 1e6 - path.stat().st_mtime < YOUNG
    except OSError:
        return True
