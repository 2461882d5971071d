"""`flawscope station corrections`: the pictures that people corrected at many stations, as one training set.

Below `pictures` they lie in `good` and `bad`, or `bad/KIND` where a person named it, each called by the
SHA-256 of its file, with the mask that a person drew beside it. A picture that is called both good and
defective is left out. `corrections.csv` says of each where it came from.
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

# verdicts; the first is a decision and a folder, too
GOOD = "good"
DEFECT = "defect"
BAD = "bad"  # folder
PICTURES = "pictures"  # folder of all, beside the table, which is no list of labels
TABLE = "corrections.csv"
COLUMNS = ("file", "station", "product", "inspection", "part", "view", "verdict", "kind", "by", "note")


@dataclass(frozen=True)
class ReviewedPicture:
    """Picture of an inspection that a person reviewed.

    Attributes:
        view: That it shows; None: the part has one view.
    """

    client: Client
    product: str
    inspection: Inspection
    view: str | None
    hash: str

    @property
    def is_correction(self) -> bool:
        """Whether the person said otherwise than the model: a false alarm, or a missed defect."""
        return (self.inspection.decision == GOOD) == (self.inspection.verdict == DEFECT)

    @property
    def folder(self) -> str:
        """Folder of the picture, below that of all."""
        if self.inspection.verdict == GOOD:
            return f"{PICTURES}/{GOOD}"
        kind = re.sub(r"[^\w.-]+", "-", self.inspection.kind or "").strip("-.")
        return f"{PICTURES}/{BAD}/{kind}" if kind else f"{PICTURES}/{BAD}"

    def row(self, file: str) -> tuple[object, ...]:
        """Return the picture's row of the table."""
        inspection = self.inspection
        facts = (
            inspection.part,
            self.view,
            inspection.verdict,
            inspection.kind,
            inspection.verdict_by,
            inspection.note,
        )
        cells = (file, redact_address(self.client.url), self.product, inspection.id, *facts)
        return tuple("" if cell is None else files.csv_cell(str(cell)) for cell in cells)


Found = dict[str, list[ReviewedPicture]]  # by the hash of the file


def collect(addresses: Iterable[StationAddress], target: Path, say: Callable[[str], None]) -> int:
    """Fetch the corrections of all stations; return the number of pictures in the set.

    Raises:
        InputError: the folder is not empty.
        FlawscopeError: a station cannot be asked, or the folder cannot be written.
    """
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty: choose another folder")
    found: Found = defaultdict(list)
    with ExitStack() as stack:
        for address in addresses:
            client = stack.enter_context(open_client(address))
            pictures = list(_reviewed(client, address.product))
            for picture in pictures:
                found[picture.hash].append(picture)
            count = sum(picture.is_correction for picture in pictures)
            say(f"{redact_address(client.url)}: {count} corrected pictures")
        agreed, left_out = _agreed(found)
        if left_out:
            say(f"{left_out} pictures are called both good and defective, and are left out")
        try:
            _write(agreed, target)
        except OSError as error:
            raise FlawscopeError(f"cannot write {target}: {error.strerror}; choose another folder") from None
    return len(agreed)


def _agreed(found: Found) -> tuple[Found, int]:
    """Return the corrected pictures whose verdicts all agree, and the number of the others."""
    corrected = {digest: same for digest, same in found.items() if any(p.is_correction for p in same)}
    agreed = {digest: same for digest, same in corrected.items() if not _contradicts(same)}
    return agreed, len(corrected) - len(agreed)


def _contradicts(same: Iterable[ReviewedPicture]) -> bool:
    return len({picture.inspection.verdict for picture in same}) > 1


def _reviewed(client: Client, product: str | None) -> Iterator[ReviewedPicture]:
    """Yield the pictures on which a person gave a verdict.

    The right decisions are among them: they show where people do not agree.
    """
    names = [known.name for known in client.products()] if product is None else [product]
    for name in names:
        for verdict in (GOOD, DEFECT):
            for inspection in client.search(name, verdict=verdict):
                yield from _pictures_of(inspection, client, name)


def _pictures_of(inspection: Inspection, client: Client, product: str) -> Iterator[ReviewedPicture]:
    """Yield the pictures that are still there.

    Of a part in several views a verdict of good is of each; which of them shows a defect nobody said.
    """
    if not inspection.views:
        if inspection.picture is not None:
            yield ReviewedPicture(client, product, inspection, inspection.view, inspection.picture)
        return
    for view in inspection.views if inspection.verdict == GOOD else ():
        if view.picture is not None:
            yield ReviewedPicture(client, product, inspection, view.view, view.picture)


def _write(found: Found, target: Path) -> None:
    """Write pictures, masks and the table."""
    rows: list[tuple[object, ...]] = []
    for same in found.values():
        named = [picture for picture in same if picture.inspection.kind]
        file = _fetch((named or same)[0], target)
        rows += [picture.row(file) for picture in same if picture.is_correction]
    target.mkdir(parents=True, exist_ok=True)
    with open(target / TABLE, "w", encoding="utf-8-sig", newline="") as table:
        csv.writer(table).writerows([COLUMNS, *rows])


def _fetch(picture: ReviewedPicture, target: Path) -> str:
    """Write a picture, and its mask if a person drew one; return the picture's place below the target."""
    folder = target / picture.folder
    client = picture.client
    number = picture.inspection.id
    folder.mkdir(parents=True, exist_ok=True)
    data, suffix = client.picture(number, picture.product, picture.view)
    if picture.inspection.has_mask and picture.view is None:
        with files.atomic_write(folder / f"{picture.hash}_mask.png") as file:
            file.write(client.mask(number, picture.product))
    name = f"{picture.hash}{suffix}"
    with files.atomic_write(folder / name) as file:
        file.write(data)
    return f"{picture.folder}/{name}"
