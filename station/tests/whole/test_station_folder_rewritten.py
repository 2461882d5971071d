"""A camera that writes its pictures under a few names in turn, by renaming or in place, while the station
moves what it has inspected: what the writer did not overwrite itself is inspected, once."""

import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from sqlalchemy import select

from flawscope_station.store.schema import inspections
from folder_helpers import Line, files_of, line_fixture  # noqa: F401
from station_helpers import until

PICTURES, NAMES, SECONDS = 120, 20, 0.05  # pictures that are written, their names, seconds between two


def numbered_picture(number: int) -> bytes:
    """Return a picture of which no part can be read."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 7)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def by_renaming(path: Path, data: bytes) -> bool:
    """Write a picture under its name; return whether the name was free."""
    hidden = path.with_name(".new")
    hidden.write_bytes(data)
    try:
        os.link(hidden, path)
    except FileExistsError:
        hidden.replace(path)
        return False
    hidden.unlink()
    return True


def in_place(path: Path, data: bytes) -> bool:
    """Write a picture in two pieces; return whether the name was free."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        was_free = True
    except FileExistsError:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        was_free = False
    os.write(file, data[: len(data) // 2])
    os.write(file, data[len(data) // 2 :])
    os.close(file)
    return was_free


class Rewritten(NamedTuple):
    """What became of the pictures. taken: numbers of those that the station took from the writer's name.
    judged: how often each was. moved: how many files of each picture lie where inspected files are moved."""

    taken: set[int]
    judged: Counter[int]
    moved: Counter[int]


def rewrite(
    line: Line, target: Path, write: Callable[[Path, bytes], bool], pictures: int, names: int, seconds: float
) -> Rewritten:
    """Write pictures under a few names in turn while a folder is watched."""
    line.open(then=str(target), start=True)
    numbers = {hashlib.sha256(numbered_picture(k)).hexdigest(): k for k in range(pictures)}
    taken, due = set[int](), time.monotonic()
    for k in range(pictures):
        was_free = write(line.folder / f"image{k % names}.png", numbered_picture(k))
        if was_free and k >= names:
            taken.add(k - names)
        due += seconds
        time.sleep(max(0.0, due - time.monotonic()))
    until(lambda: not any(line.folder.iterdir()))
    taken |= {*range(pictures - names, pictures)}
    with line.store.database.reading() as connection:
        judged = Counter(numbers[one] for one in connection.execute(select(inspections.c.picture)).scalars())
    files = [(target / name).read_bytes() for name in files_of(target)]
    return Rewritten(taken, judged, Counter(numbers[hashlib.sha256(one).hexdigest()] for one in files))


@pytest.mark.parametrize("write", [by_renaming, in_place])
def test_of_pictures_whose_names_come_again_the_station_loses_none(line, tmp_path, write):
    found = rewrite(line, tmp_path / "done", write, PICTURES, NAMES, SECONDS)
    assert len(found.taken) > NAMES
    assert found.taken <= found.judged.keys(), "what the station took away is inspected"
    assert found.moved.keys() <= found.judged.keys(), "what it moved, too"
    assert {*found.judged.values(), *found.moved.values()} == {1}
