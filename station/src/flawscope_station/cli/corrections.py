"""`flawscope station corrections`: the pictures that people corrected at many stations, as one training set.

The pictures lie below `pictures`, in `good` and `bad`, or in `bad/KIND` where a person named the kind of
defect. A picture's name is the SHA-256 of its file; the mask that a person drew lies beside it. A picture
that people called both good and defective is left out. `corrections.csv` has the origin of each picture.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flawscope.artefact import files
from flawscope.errors import FlawscopeError, InputError
from flawscope_station.cli.rollout import StationAddress, open_client
from flawscope_station.client import Client
from flawscope_station.settings.values import redact_address
from flawscope_station.store.inspection import Inspection

GOOD = "good"  # a verdict, a decision and a folder
DEFECT = "defect"  # a verdict
BAD = "bad"  # the folder of the pictures whose verdict is `DEFECT`
PICTURES = "pictures"  # folder of all pictures; the table lies beside it, as it is no list of labels
TABLE = "corrections.csv"
COLUMNS = ("file", "station", "product", "inspection", "part", "view", "verdict", "kind", "by", "note")


@dataclass(frozen=True)
class ReviewedPicture:
    """Picture of an inspection that a person reviewed.

    Attributes:
        client: Client of the station that has the picture.
        product: Name of the product.
        inspection: Record of the inspection, with the person's verdict.
        view: View of the part that the picture shows; None: the part has one view.
        hash: SHA-256 of the picture's file.
    """

    client: Client
    product: str
    inspection: Inspection
    view: str | None
    hash: str

    @property
    def is_correction(self) -> bool:
        """Whether the person contradicts the model: a false alarm, or a missed defect."""
        is_good_by_model = self.inspection.decision == GOOD
        is_good_by_person = self.inspection.verdict == GOOD
        return is_good_by_model != is_good_by_person

    @property
    def folder(self) -> str:
        """Folder of the picture in the training set, such as `pictures/bad/scratch`."""
        if self.inspection.verdict == GOOD:
            return f"{PICTURES}/{GOOD}"
        kind = re.sub(r"[^\w.-]+", "-", self.inspection.kind or "").strip("-.")  # as a folder's name
        return f"{PICTURES}/{BAD}/{kind}" if kind else f"{PICTURES}/{BAD}"

    def row(self, file: str) -> tuple[object, ...]:
        """Return the picture's row of the table, in the order of `COLUMNS`.

        Args:
            file: Path of the picture, relative to the folder of the training set.
        """
        inspection = self.inspection
        values = (
            file,
            redact_address(self.client.url),
            self.product,
            inspection.id,
            inspection.part,
            self.view,
            inspection.verdict,
            inspection.kind,
            inspection.verdict_by,
            inspection.note,
        )
        return tuple("" if value is None else files.csv_cell(str(value)) for value in values)


PicturesByHash = dict[str, list[ReviewedPicture]]  # pictures with identical files, by the hash of the file


def collect(addresses: Iterable[StationAddress], target: Path, say: Callable[[str], None]) -> int:
    """Fetch the corrected pictures of all stations into a folder, and return their number.

    Identical files count as one picture.

    Args:
        addresses: Addresses of the stations.
        target: Folder for the training set, which is created.
        say: Prints a line for each station, and one on pictures that are left out.

    Raises:
        InputError: The folder is not empty.
        FlawscopeError: A station cannot be asked, or the folder cannot be written.
    """
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty: choose another folder")
    reviewed: PicturesByHash = defaultdict(list)
    with ExitStack() as stack:
        for address in addresses:
            client = stack.enter_context(open_client(address))
            station_pictures = list(_reviewed_pictures(client, address.product))
            for picture in station_pictures:
                reviewed[picture.hash].append(picture)
            correction_count = sum(picture.is_correction for picture in station_pictures)
            say(f"{redact_address(client.url)}: {correction_count} corrected pictures")
        corrected, contradictory_count = _undisputed_corrections(reviewed)
        if contradictory_count:
            say(f"{contradictory_count} pictures are called both good and defective, and are left out")
        try:
            _write(corrected, target)
        except OSError as error:
            raise FlawscopeError(f"cannot write {target}: {error.strerror}; choose another folder") from None
    return len(corrected)


def _undisputed_corrections(reviewed: PicturesByHash) -> tuple[PicturesByHash, int]:
    """Return the corrected pictures whose verdicts agree, and the number of those whose verdicts differ."""
    undisputed: PicturesByHash = {}
    contradictory_count = 0
    for digest, pictures in reviewed.items():
        if not any(picture.is_correction for picture in pictures):
            continue
        verdicts = {picture.inspection.verdict for picture in pictures}
        if len(verdicts) == 1:
            undisputed[digest] = pictures
        else:
            contradictory_count += 1
    return undisputed, contradictory_count


def _reviewed_pictures(client: Client, product: str | None) -> Iterator[ReviewedPicture]:
    """Yield the pictures on which a person gave a verdict.

    Pictures whose verdict confirms the model are yielded, too: the verdict may contradict a correction of an
    identical file.

    Args:
        client: Client of the station.
        product: Name of the product; None: all products of the station.
    """
    names = [product] if product is not None else [listed.name for listed in client.products()]
    for name in names:
        for verdict in (GOOD, DEFECT):
            for inspection in client.search(name, verdict=verdict):
                yield from _pictures_of(inspection, client, name)


def _pictures_of(inspection: Inspection, client: Client, product: str) -> Iterator[ReviewedPicture]:
    """Yield those pictures of an inspection that its verdict applies to; removed pictures are left out.

    If a part in several views is good, the verdict applies to the picture of each view. If the part has a
    defect, the verdict does not say in which view, and no picture is yielded.
    """
    if not inspection.views:
        if inspection.picture is not None:
            yield ReviewedPicture(client, product, inspection, inspection.view, inspection.picture)
        return
    if inspection.verdict != GOOD:
        return
    for view in inspection.views:
        if view.picture is not None:
            yield ReviewedPicture(client, product, inspection, view.view, view.picture)


def _write(corrected: PicturesByHash, target: Path) -> None:
    """Write pictures, masks and the table into the folder `target`."""
    rows: list[tuple[object, ...]] = []
    for pictures in corrected.values():
        # Only one of several identical files is written, if possible one whose kind of defect is known: the
        # kind is the name of its folder.
        pictures_with_kind = [picture for picture in pictures if picture.inspection.kind]
        preferred_picture = (pictures_with_kind or pictures)[0]
        file = _fetch(preferred_picture, target)
        rows += [picture.row(file) for picture in pictures if picture.is_correction]
    target.mkdir(parents=True, exist_ok=True)
    with open(target / TABLE, "w", encoding="utf-8-sig", newline="") as table:
        csv.writer(table).writerows([COLUMNS, *rows])


def _fetch(picture: ReviewedPicture, target: Path) -> str:
    """Fetch a picture, and its mask if a person drew one, and write both.

    Return the picture's path relative to `target`.
    """
    folder = target / picture.folder
    client = picture.client
    inspection_number = picture.inspection.id
    folder.mkdir(parents=True, exist_ok=True)
    picture_bytes, suffix = client.picture(inspection_number, picture.product, picture.view)
    if picture.inspection.has_mask and picture.view is None:
        with files.atomic_write(folder / f"{picture.hash}_mask.png") as file:
            file.write(client.mask(inspection_number, picture.product))
    name = f"{picture.hash}{suffix}"
    with files.atomic_write(folder / name) as file:
        file.write(picture_bytes)
    return f"{picture.folder}/{name}"
