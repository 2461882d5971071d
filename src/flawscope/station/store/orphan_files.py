"""Files that nobody needs: what was cut off before a file was removed, or known."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, or_, select

from flawscope.station.store.database import Database
from flawscope.station.store.files import MAPS, MASKS, MODELS, PART, PICTURES, Files
from flawscope.station.store.schema import inspections, learnt, pictures, verdicts, versions

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
                return not self._needed(connection, kind, [digest])

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
        removed = self._models(at)
        for kind in (PICTURES, MASKS, MAPS):
            names = self._names(kind, at)
            while True:
                begun = time.monotonic()
                group = list(islice(names, TOGETHER))
                if not group:
                    break
                with self.database.reading() as connection:
                    known = self._needed(connection, kind, sorted({digest for _, digest, _ in group}))
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

    def _models(self, at: int) -> int:
        """Folders of models that were never added, for it was cut off."""
        known = self._known_models()
        folders = [one for one in (self.files.folder / MODELS).iterdir() if one.is_dir()]
        left = [one for one in folders if one.name not in known and not _is_young(one, at)]
        return sum(
            self.files.discard_model(one, lambda one=one: one.name not in self._known_models())  # type: ignore[misc]
            for one in left
        )

    def _known_models(self) -> set[str]:
        """Names of their folders."""
        query = select(versions.c.file).where(versions.c.product_id.in_(self.database.own()))
        with self.database.reading() as connection:
            return {Path(file).parent.name for file in connection.execute(query).scalars()}

    def _forget(self, digest: str) -> None:
        """A picture that no record names leaves no row behind."""
        row = and_(pictures.c.product_id.in_(self.database.own()), pictures.c.hash == digest)
        with self.database.writing() as connection:
            connection.execute(select(pictures.c.hash).where(row).with_for_update()).all()
            connection.execute(delete(pictures).where(row, ~named()))

    def _needed(self, connection: Connection, kind: str, hashes: list[str]) -> set[str]:
        """Those of the files that a record of this station names, and whose picture was not removed."""
        own = self.database.own()
        if kind == MASKS:
            query = select(verdicts.c.mask).join(inspections).where(verdicts.c.mask.in_(hashes))
            return set(connection.execute(query.where(inspections.c.product_id.in_(own))).scalars())
        there = pictures.c
        query = select(there.hash).where(there.hash.in_(hashes), there.product_id.in_(own))
        return set(connection.execute(query.where(there.removed_at.is_(None), named())).scalars())

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


def named() -> ColumnElement[bool]:
    """A picture stands in a record, or in what a model was learnt from."""
    return or_(
        *(
            exists().where(where.c.picture == pictures.c.hash, where.c.product_id == pictures.c.product_id)
            for where in (inspections, learnt)
        )
    )


def _is_young(path: Path, at: int) -> bool:
    try:
        return at / 1e6 - path.stat().st_mtime < YOUNG
    except OSError:
        return True
