"""Reads the pictures of an update once: their rows, and the parts that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flawscope.artefact.model_file import Artefact
from flawscope.artefact.parts import stored_part_reader
from flawscope.fitting.update_evaluation import ReviewedPicture
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.table import UPDATE, Picture, PictureTable
from flawscope.pictures.units import units_of
from flawscope.progress import ProgressCallback, Say


@dataclass(frozen=True)
class UpdatePictures:
    """Pictures of an update.

    Attributes:
        table: All pictures of the update, by their places in the list.
        places: First place of each digest.
        copies: The model's row of which a new picture is a near-duplicate, by the digest of the new picture.
    """

    table: PictureTable
    places: Mapping[str, int]
    copies: Mapping[str, Picture]

    @classmethod
    def read(
        cls, pictures: Sequence[ReviewedPicture], old: Artefact, step: ProgressCallback
    ) -> UpdatePictures:
        """Read the pictures; their rows have no units yet (`with_units`)."""
        decoded = DecodedPictures([picture.source for picture in pictures], old.manifest.preprocess.channels)
        table = PictureTable.read(decoded, [picture.name for picture in pictures], UPDATE, step)
        # reversed, so that the first of several places with the same hash is kept
        places = {table.rows[place].hash: place for place in reversed(table.distinct())}
        return cls(table, places, copies={})

    def with_units(self, digests: Sequence[str], old: Artefact, say: Say) -> UpdatePictures:
        """Return the pictures with units for these digests.

        Pictures that the model knows keep their units in the model.

        Args:
            digests: Digests of the pictures that need a unit.
            old: The trained model.
            say: Gets remarks on the parts that new pictures show.
        """
        unit_by_hash = {row.hash: row.unit for row in old.manifest.pictures}
        new_digests = [digest for digest in dict.fromkeys(digests) if digest not in unit_by_hash]
        new_rows = [self.table.rows[self.places[digest]] for digest in new_digests]
        new_units = units_of(new_rows, old.manifest.pictures, stored_part_reader(old.manifest))
        for line in new_units.remarks:
            say(line)
        unit_by_hash |= {row.hash: row.unit for row in new_units.rows}
        copies = {new_rows[place].hash: known_row for place, known_row in new_units.copies.items()}
        rows = {
            place: replace(row, unit=unit_by_hash.get(row.hash, row.unit))
            for place, row in self.table.rows.items()
        }
        return replace(self, table=replace(self.table, rows=rows), copies=copies)

    def place(self, picture: ReviewedPicture) -> int:
        """Return the place of a readable picture; if several have the same pixels, the first place."""
        return self.places[picture.digest]

    def row(self, picture: ReviewedPicture) -> Picture:
        """Return the row of a picture that can be read."""
        return self.table.rows[self.place(picture)]
