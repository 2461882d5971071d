"""Pictures that appear in a folder: each once, none lost, and nobody else harmed."""

import hashlib
import os
import re
import signal
import subprocess
import sys

import pytest
from sqlalchemy import select

from flawscope_station.inspecting.ticket import ModelError
from flawscope_station.store.database import StoreError
from flawscope_station.store.schema import PASSED_OVER, UNREADABLE, inspections
from flawscope_station.store.search import trends
from folder_helpers import (
    MINUTE,
    files_of,
    line_fixture,  # noqa: F401
    picture,
)
from station_helpers import everything, until


def test_names_that_a_data_base_cannot_take(line):
    deep = "/".join(["a long name of a folder"] * 12) + "/a.png"
    line.put(deep, picture(1))
    (line.folder / os.fsdecode(b"\xe9.png")).write_bytes(picture(2))
    line.open()
    line.until(lambda: len(line.names()) == 2)
    line.sources.pop().stop()
    line.tried.clear()
    line.open()
    line.run(MINUTE)
    assert line.tried == []
    assert deep in line.names()
    with line.store.database.reading() as connection:
        assert all(len(key) <= 200 for key in connection.execute(select(inspections.c.key)).scalars())


@pytest.mark.parametrize("error", [StoreError("full", "disk_full"), ModelError("it failed"), OSError("odd")])
def test_what_is_not_the_pictures_fault_is_tried_until_it_works(line, error):
    broken = [True]
    line.hurdle = lambda one: error if broken else None
    for k in range(3):
        line.put(f"{k}.png", picture(k), age=10 - k)
    line.open()
    line.until(lambda: "folder_waits" in line.problems)
    line.run(MINUTE)
    assert line.names() == []
    assert line.texts(UNREADABLE) == []
    broken.clear()
    line.until(lambda: sorted(line.names()) == ["0.png", "1.png", "2.png"])
    line.until(lambda: line.problems == {})


# As cameras, scanners, programs and people name pictures, and other files that lie beside them
STEMS_TEXT = (
    "IMG_0001|DSC00042|DSCN1234|P1010001|100_0815|_MG_2210|20240501_101530|2024-05-01 10.15.30|Scan 1|"
    "scan0001|Image_20240501101530123|Basler_acA1300_0001|cam1-000123|frame_000001|000001|1|a|x_gt|"
    "q1_seg1|4712_gt|GOPR0042|WIN_20240501_10_15_30_Pro|Screenshot 2024-05-01|PXL_20240501_101530|"
    "Snap_00012|Bild 3|Bild_003_links|vlcsnap-2024|IMAGE0001_01|A12-7_top|A12-7_bottom|pcb1_mask_top|"
    "pcb7_soldermask|part_label|a_mask|mask|mask_7|target_3|truth|ground truth 4|seg_1|annotated|maske|"
    "masque 2|Bild (1)|Bild - Kopie|Prüfteil 7|pièce n°3|pieza ñ|部品1|деталь|ok|nok|niO 4|defekt|"
    "schlecht_1|#1|50%|a&b|a+b|a,b|[1]|{1}|a'b|~temp|$1|@1|-dash|--all|a..b|trailing.|UPPER|e\u0301|"
    "overlay|results|map_1|depth_2|thumb|copy of 7"
)
STEMS = STEMS_TEXT.split("|")
ENDINGS = ("png", "PNG", "Png", "masks.png")
PICTURE_NAMES = [f"{stem}.{ENDINGS[k % len(ENDINGS)]}" for k, stem in enumerate(STEMS)] + [
    *("masks/9.png", "mask/1.png", "ground_truth/1.png", "SegmentationClass/2.png", "labels/3.png"),
    *("images/1.png", "bad/1.png", "good/1.png", "gt/5.png", "train/masks/7.png", "a_masks/1.png"),
]
OTHER_NAMES = (
    *("notes.txt", "labels.json", "IMG_0001.xml", "IMG_0001.CR2.xmp", "table.csv", "video.mp4", "scan.pdf"),
    *("raw.dng", "a.png.part", "b.png.tmp", "c.png~", "noending", "archive.zip", ".hidden.png", "x.svg"),
    *(
        "d.png.crdownload",
        "e.png_old",
        "f.png 1",
        "g.docx",
        "h.psd",
        ".i.png.x7Gq",
        ".~lock.j.png#",
        ".nfs0001",
    ),
    *(
        "~$k.xlsx",
        "l.jpg.filepart",
        "m.jpg!ut",
        "Unconfirmed 1.download",
        "n",
        "o.",
        ".p",
        "q.png.",
        "r.png ",
    ),
)
# Of these only the name counts: systems write them again and again
SYSTEM_NAMES = ("Thumbs.db", "sub/Thumbs.db", "desktop.ini", ".DS_Store", "._alone.png")
UNSEEN_FOLDERS = ("@eaDir", ".trash", "$RECYCLE.BIN", "__MACOSX")


def test_names_of_cameras_scanners_and_people_are_inspected_or_told(line):
    """A picture is inspected whatever its name: masks are for learning."""
    for k, name in enumerate(PICTURE_NAMES):
        path = line.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(k % 256) + bytes(k))
    for name in (*OTHER_NAMES, *SYSTEM_NAMES, *(f"{folder}/1.png" for folder in UNSEEN_FOLDERS)):
        (line.folder / name).parent.mkdir(exist_ok=True)
        (line.folder / name).write_bytes(b"no picture")
    (line.folder / "._a.png").write_bytes(b"what macOS notes beside a picture that is inspected")
    (line.folder / "lost.png").symlink_to(line.folder / "nowhere")
    line.open()
    line.run(2 * MINUTE)
    assert sorted(line.names()) == sorted(PICTURE_NAMES)
    told = [re.split(r" of 20|: it is", text)[0] for text in line.texts(PASSED_OVER)]
    wanted = [*OTHER_NAMES, *SYSTEM_NAMES, *UNSEEN_FOLDERS, "lost.png"]
    assert sorted(told) == sorted(wanted)
    line.sources.pop().stop()
    for name in SYSTEM_NAMES[:4]:
        (line.folder / name).write_bytes(b"written anew by the system")
    line.open()
    line.run(2 * MINUTE)  # nothing is told twice
    assert len(line.texts(PASSED_OVER)) == len(wanted)
    assert trends(line.store.database, line.product)["totals"]["not_inspected"] == len(wanted)


WRITER = """
import os, pathlib, sys, time
folder, source, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
for number in range(count):
    data = source + b"%d" % number  # what follows a PNG is not read
    name = folder / f"{number:04d}.png"
    if number % 3 == 0:  # slowly, under its own name
        with open(name, "wb", buffering=0) as file:
            for start in range(0, len(data), max(1, len(data) // 4)):
                file.write(data[start : start + len(data) // 4])
                time.sleep(0.005)
    else:  # under another one first
        hidden = folder / f".{number}"
        hidden.write_bytes(data)
        hidden.rename(name)
    print(number, flush=True)
    time.sleep(0.01)
with open(folder / "half.png", "wb", buffering=0) as file:
    file.write(source[: len(source) // 2])
    print("half", flush=True)
    time.sleep(60)
"""


def test_another_process_writes_while_the_station_is_killed(serve, model_file, parts, tmp_path):
    """It writes slowly, renames, and is killed half-way: nothing is lost, nothing is twice, and no file goes
    that was not inspected."""
    folder, count = tmp_path / "camera", 60
    folder.mkdir()
    (tmp_path / "part").write_bytes(parts[0])
    served = serve({"model": str(model_file), "sources": [{"folder": "camera", "then": "./done"}]})
    command = [sys.executable, "-c", WRITER, str(folder), str(tmp_path / "part"), str(count)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            served.start()
            until(lambda: len(everything(served.url)) > 20)
            assert served.kill() == -signal.SIGKILL
        assert any(said == "half\n" for said in writer.stdout)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    served.start()
    until(lambda: files_of(folder) == ["half.png"])
    found = {one["name"]: one["picture"] for one in everything(served.url)}
    assert len(everything(served.url)) == len(found) == count
    for number in range(count):
        data = parts[0] + b"%d" % number
        assert found[f"{number:04d}.png"] == hashlib.sha256(data).hexdigest()
    assert files_of(tmp_path / "done") == [f"{number:04d}.png" for number in range(count)]
