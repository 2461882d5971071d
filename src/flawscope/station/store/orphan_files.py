"""Files that nobody needs: what was cut off before a file was removed, or known."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select

from flawscope.station.store.database import Database
from flawscope.station.store.files import MAPS, MASKS, MODELS, PICTURES, Files
from flawscope.station.store.schema import inspections, learnt, pictures, verdicts, versions

YOUNG = 3600.0  # seconds in which a file may become known
TOGETHER = 500  # files that are looked up at once
_NAME = re.compile(r"([0-9a-f]{64})((?:\.\w+)+)")


class Orphans:
    """rest: is called with the seconds that a piece of work took."""

    def __init__(self, database: Database, files: Files, rest: Callable[[float], None]):
        self.database, self.files, self.rest = database, files, rest

    def discard(self, kind: str, digest: str, suffix: str) -> bool:
        """Remove a picture, with its maps, or a mask, unless somebody needs it by now."""
        try:
            removed = self.files.discard(kind, digest, suffix, lambda: not self._needed(kind, [digest]))
        except OSError:  # the next sweep tries again
            return False
        if removed and kind == PICTURES:
            for cached in self.files.path(MAPS, digest, "").parent.glob(f"{digest}.*"):
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
            found = self._files(kind)
            while group := list(islice(found, TOGETHER)):
                begun = time.monotonic()
                known = self._needed(kind, sorted({digest for _, digest, _ in group}))
                for path, digest, suffix in group:
                    if digest not in known and not _is_young(path, at):
                        removed += self._remove(kind, path, digest, suffix)
                self.rest(time.monotonic() - begun)
        return removed

    def _remove(self, kind: str, path: Path, digest: str, suffix: str) -> bool:
        if kind == MAPS:
            with suppress(OSError):
                path.unlink()
                return True
            return False
        removed = self.discard(kind, digest, suffix)
        if removed and kind == PICTURES:  # no row is left of a picture that no record names
            row = and_(pictures.c.product_id.in_(self.database.own()), pictures.c.hash == digest)
            with self.database.writing() as connection:
                connection.execute(select(pictures.c.hash).where(row).with_for_update()).all()
                connection.execute(delete(pictures).where(row, ~named()))
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

    def _needed(self, kind: str, hashes: list[str]) -> set[str]:
        """Those of the files that a record of this station names, and whose picture was not removed."""
        own = self.database.own()
        if kind == MASKS:
            query = select(verdicts.c.mask).join(inspections).where(verdicts.c.mask.in_(hashes))
            query = query.where(inspections.c.product_id.in_(own))
        else:
            query = select(pictures.c.hash).where(pictures.c.hash.in_(hashes), pictures.c.product_id.in_(own))
            query = query.where(pictures.c.removed_at.is_(None), named())
        with self.database.reading() as connection:
            return set(connection.execute(query).scalars())

    def _files(self, kind: str) -> Iterator[tuple[Path, str, str]]:
        """Path, hash and ending of each."""
        for folder, _, names in os.walk(self.files.folder / kind):
            for name in names:
                if found := _NAME.fullmatch(name):
                    yield Path(folder, name), found[1], found[2]


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
