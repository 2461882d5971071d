"""Removal of files that no record needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from sqlalchemy import select

from flawscope.station.store.database import Database
from flawscope.station.store.files import MAPS, MASKS, MODELS, PICTURES, Files
from flawscope.station.store.schema import inspections, pictures, verdicts, versions

YOUNG = 3600.0  # seconds for which a new file may have no record yet
TOGETHER = 500  # files of one query


class Strays:
    """Removes files that no record needs. rest: called with the seconds that a piece of work took."""

    def __init__(self, database: Database, files: Files, rest: Callable[[float], None]):
        self.database, self.files, self.rest = database, files, rest

    def discard(self, kind: str, digest: str, suffix: str) -> bool:
        """Remove a picture with its maps, or a mask. False where a record needs the file by now."""
        return self._remove(kind, self.files.path(kind, digest, suffix), digest)

    def sweep(self) -> int:
        """Remove all files, and folders of models, that no record needs; return their number."""
        removed = 0
        for kind in (MODELS, PICTURES, MASKS, MAPS):
            found = self._old(kind)
            while group := list(islice(found, TOGETHER)):
                begun = time.monotonic()
                known = self.needed(kind, sorted({digest for _, digest in group}))
                left = [(path, digest) for path, digest in group if digest not in known]
                removed += sum(self._remove(kind, path, digest) for path, digest in left)
                self.rest(time.monotonic() - begun)
        return removed

    def _remove(self, kind: str, path: Path, digest: str) -> bool:
        try:
            removed = self.files.discard(path, digest, lambda: not self.needed(kind, [digest]))
            if removed and kind == PICTURES:
                for cached in self.files.path(MAPS, digest, "").parent.glob(f"{digest}.*"):
                    cached.unlink(missing_ok=True)
            return removed
        except OSError:  # the next sweep tries again
            return False

    def _old(self, kind: str) -> Iterator[tuple[Path, str]]:
        """Path and hash of each file that is not young. Models are folders, named by part of a hash."""
        youngest, of_model = time.time() - YOUNG, kind == MODELS
        for path in (self.files.folder / kind).glob("*" if of_model else "*/*"):
            digest = path.name if of_model else path.name.partition(".")[0]
            with suppress(OSError):
                is_ours = path.is_dir() if of_model else len(digest) == 64
                if is_ours and path.stat().st_mtime < youngest:
                    yield path, digest

    def needed(self, kind: str, digests: list[str]) -> set[str]:
        """Hashes of the files that a record of this station names, and whose picture was not removed."""
        own = self.database.own()
        if kind == MODELS:
            query = select(versions.c.file).where(versions.c.product_id.in_(own))
        elif kind == MASKS:
            query = select(verdicts.c.mask).join(inspections).where(verdicts.c.mask.in_(digests))
            query = query.where(inspections.c.product_id.in_(own))
        else:
            query = select(pictures.c.hash).where(pictures.c.hash.in_(digests))
            query = query.where(pictures.c.product_id.in_(own), pictures.c.removed_at.is_(None))
        with self.database.reading() as connection:
            found = set(connection.execute(query).scalars())
        return {Path(file).parent.name for file in found} & set(digests) if kind == MODELS else found
