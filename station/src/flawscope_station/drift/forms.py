"""Size and form of the pictures: other than the model learnt from, or than the camera gave at first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from sqlalchemy import select

from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.records import Store
from flawscope_station.store.schema import inspections, pictures
from flawscope_station.store.search import text_condition

OTHER_FORM = "other_form"  # code of the library's finding
MANY = 3  # pictures in a row of another form, which are a problem
_CAMERA = re.compile(r"camera(\d+)-")  # begins the names of a camera's pictures
Size = tuple[int, int]  # width, height


class FormCheck:
    """Checks each new picture's size and form.

    Args:
        names: of the products that are checked, by number, which may grow.
        report: reports a problem, as `Problems.report`.
    """

    def __init__(self, store: Store, names: Mapping[int, str], report: Callable[[str, str | None], None]):
        self.store, self.names, self.report = store, names, report
        self._in_row: Counter[int] = Counter()  # pictures of another form, by product
        self._sizes: dict[tuple[int, int, str], Size] = {}  # of the first picture, by version and camera

    def observe(self, recorded: RecordedInspection) -> None:
        found = recorded.inspection
        if found.product_id not in self.names:
            return
        self._check_form(found)
        if found.source == "camera" and (camera := _CAMERA.match(found.name)):
            self._check_size(found, camera[1])

    def _check_form(self, found: NewInspection) -> None:
        product_id = found.product_id
        words = next((one.words for one in found.findings if one.code == OTHER_FORM), None)
        self._in_row[product_id] = 0 if words is None else self._in_row[product_id] + 1
        if words is None or self._in_row[product_id] >= MANY:
            why = words and f"{self.names[product_id]}: {MANY} pictures in a row: {words}"
            self.report(f"{OTHER_FORM}_{product_id}", why)

    def _check_size(self, found: NewInspection, camera: str) -> None:
        """Compare a frame with the first one that the camera gave this version: its binning or its region was
        changed where their sizes differ."""
        key, size = (found.product_id, found.version_id, camera), (found.width, found.height)
        if key not in self._sizes:
            self._sizes[key] = self._first_size(found, camera) or size
        first, why = self._sizes[key], None
        if size != first:
            why = f"{self.names[found.product_id]}: camera {camera} gives {size[0]} x {size[1]} pixels, and "
            why += f"gave {first[0]} x {first[1]}: look at its binning and its region"
        self.report(f"camera_size_{found.product_id}_{camera}", why)

    def _first_size(self, found: NewInspection, camera: str) -> Size | None:
        column = inspections.c
        query = select(pictures.c.width, pictures.c.height).join_from(inspections, pictures)
        of_camera = column.source == found.source, text_condition("name", f"camera{camera}-*")
        place = column.product_id == found.product_id, column.version_id == found.version_id
        with self.store.database.reading() as connection:
            row = connection.execute(query.where(*place, *of_camera).order_by(column.id).limit(1)).first()
        return None if row is None else (row.width, row.height)
