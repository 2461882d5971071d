"""Which pictures of the station its model versions were learnt from, and those of other stations."""

from __future__ import annotations

import json

from sqlalchemy import Connection, exists, select

from flawscope.artefact.model_file import Manifest
from flawscope.errors import InputError
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import read_manifest
from flawscope.station.store.database import Database
from flawscope.station.store.files import PICTURES, Files
from flawscope.station.store.schema import learnt_pixels, products, stations, versions


def tell_learnt(connection: Connection, version: int, manifest: Manifest) -> None:
    """Write down for other stations what a version was learnt from, in the transaction that adds it."""
    rows = [
        {"version_id": version, "pixels": one}
        for one in sorted({picture.hash for picture in manifest.pictures})
    ]
    if rows:
        connection.execute(learnt_pixels.insert(), rows)


class Learnt:
    """By decoded pixels, which every model names: it may have been fitted elsewhere, with copies of the
    pictures. Pictures are decoded as they are asked for; what is found is remembered."""

    def __init__(self, database: Database, files: Files):
        self.database, self.files = database, files
        self._read: set[int] = set()  # versions
        self._pixels: set[str] = set()
        self._pictures: set[str] = set()

    def knows(self, digest: str, suffix: str) -> bool:
        """Whether a version of any product was learnt from a picture with the same pixels.

        Raises:
            InputError: what a version was learnt from cannot be read, or another station has not told it.
        """
        if digest in self._pictures:
            return True
        self._refresh()
        if not self._pixels:
            return False
        try:
            found = pixel_hash(decode(self.files.path(PICTURES, digest, suffix))) in self._pixels
        except InputError:  # it is not there, or nobody can learn from it
            return False
        if found:
            self._pictures.add(digest)
        return found

    def tell(self) -> list[str]:
        """Write down for other stations what versions were learnt from that an earlier flawscope added.

        Returns:
            A line for each model file that cannot be read.
        """
        if self.database.is_sqlite:  # there are no others
            return []
        told = exists().where(learnt_pixels.c.version_id == versions.c.id)
        query = select(versions).where(versions.c.product_id.in_(self.database.own()), ~told)
        with self.database.reading() as connection:
            rows = [row for row in connection.execute(query) if _learnt_from(row.facts)]
        lines = []
        for row in rows:
            try:
                manifest = read_manifest(self.files.folder / row.file)
            except InputError as error:
                lines.append(f"{error}; other stations remove no pictures until then")
                continue
            with self.database.writing() as connection:
                tell_learnt(connection, row.id, manifest)
        return lines

    def _refresh(self) -> None:
        unread = versions.c.id.not_in(self._read)
        own = versions.c.product_id.in_(self.database.own())
        ours = select(versions.c.id, versions.c.file).where(unread, own)
        theirs = (
            select(versions.c.id, versions.c.facts, stations.c.name)
            .join_from(versions, products, products.c.id == versions.c.product_id)
            .join(stations)
            .where(unread, ~own)
        )
        with self.database.reading() as connection:
            new, others = connection.execute(ours).all(), connection.execute(theirs).all()
            told = select(learnt_pixels).where(learnt_pixels.c.version_id.in_([row.id for row in others]))
            foreign = connection.execute(told).all() if others else []
        self._pixels |= {row.pixels for row in foreign}
        known = {row.version_id for row in foreign}
        for number, facts, name in others:
            if number not in known and _learnt_from(facts):
                raise InputError(
                    f"what version {number} of the station {name} was learnt from is not known here: start "
                    "that station once with this flawscope"
                )
            self._read.add(number)
        for number, file in new:
            self._pixels |= {picture.hash for picture in read_manifest(self.files.folder / file).pictures}
            self._read.add(number)


def _learnt_from(facts: str) -> int:
    """How many pictures a version was learnt from, of its row."""
    return sum(json.loads(facts).get("pictures", {}).values())
