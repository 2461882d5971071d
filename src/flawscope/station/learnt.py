"""Which pictures of the station its model versions were learnt from, and those of other stations."""

from __future__ import annotations

from sqlalchemy import select

from flawscope.errors import InputError
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import read_manifest
from flawscope.station.database import Database
from flawscope.station.files import PICTURES, Files
from flawscope.station.schema import learnt_pixels, versions


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
            InputError: the model file of a version cannot be read.
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

    def _refresh(self) -> None:
        unread = versions.c.id.not_in(self._read)
        own = versions.c.product_id.in_(self.database.own())
        ours = select(versions.c.id, versions.c.file).where(unread, own)
        theirs = select(versions.c.id).where(unread, ~own)
        with self.database.reading() as connection:
            new, others = connection.execute(ours).all(), set(connection.execute(theirs).scalars())
            foreign = select(learnt_pixels.c.pixels).where(learnt_pixels.c.version_id.in_(others))
            self._pixels |= set(connection.execute(foreign).scalars())
        self._read |= others
        for number, file in new:
            self._pixels |= {picture.hash for picture in read_manifest(self.files.folder / file).pictures}
            self._read.add(number)
