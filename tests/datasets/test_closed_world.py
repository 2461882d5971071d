"""What is learnt unasked is known to be good, in every life of a picture: layouts, names, lists and label
files of `bench/closed_world.py`, with defects among them and plain ones."""

import importlib
from functools import partial
from pathlib import Path

import pytest

from flawscope.datasets import open_dataset
from flawscope.datasets.layouts import open_defects
from flawscope.datasets.own_folders import refuse_unknown, refuse_unknown_names
from flawscope.errors import InputError
from flawscope.evaluation.trials import _reference_folder
from flawscope.pictures.listing import pictures_in

BENCH = Path(__file__).parents[2] / "bench"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCH)
    corpus, bench = importlib.import_module("closed_layouts"), importlib.import_module("closed_world")

DEFECTIVE, MIXED_UP, PLAIN = dict(corpus.defective()), dict(corpus.mixed_up()), dict(corpus.plain())


def test_there_are_enough_of_each():
    assert len(DEFECTIVE) >= 200
    assert len(PLAIN) >= 120


@pytest.mark.parametrize("name", DEFECTIVE)
def test_no_defect_is_learnt_unasked(tmp_path, name):
    assert bench.open_layout(tmp_path, DEFECTIVE[name])["defects learnt"] == 0


@pytest.mark.parametrize("name", MIXED_UP)
def test_what_may_be_mixed_up_is_asked(tmp_path, name):
    asked = bench.open_layout(tmp_path, MIXED_UP[name])["asked"]
    assert "which folders hold good pictures" in asked
    assert "unclear by its name" in asked


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_is_asked_where_all_is_plain(tmp_path, name):
    found = bench.open_layout(tmp_path, PLAIN[name])
    assert (found["asked"], found["defects learnt"], found["good ones lost"]) == ("", 0, 0)


def asked_of_a_zip(layout):
    """The question of a station that is sent the files; empty for none."""
    read = {path: partial(bytes, content) for path, content in layout.files.items()}
    try:
        refuse_unknown_names("all.zip", layout.files, read)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "name", [name for name, one in DEFECTIVE.items() if not any("../" in f for f in one.files)]
)
def test_a_station_asks_the_same_of_a_zip(name):
    assert "which " in asked_of_a_zip(DEFECTIVE[name])


@pytest.mark.parametrize("name", [name for name, one in PLAIN.items() if not one.bad])
def test_a_station_asks_nothing_of_a_plain_zip(name):
    has_splits = any(word in name for word in ("train", "masks"))
    assert has_splits or asked_of_a_zip(PLAIN[name]) == ""


@pytest.mark.parametrize("name", [*DEFECTIVE][::9])
def test_calibration_and_export_ask_the_same(tmp_path, name):
    root = bench.write(tmp_path / "part", DEFECTIVE[name].files)
    with pytest.raises(InputError, match=r"which (pictures|folders)"):
        refuse_unknown(root, pictures_in(root))


def test_agreement_asks_where_words_say_how_a_decision_was_wrong(tmp_path):
    bench.write(tmp_path, dict.fromkeys(("true_ok/1.png", "false_ok/2.png", "true_ng/3.png"), corpus.PICTURE))
    with pytest.raises(InputError, match="call their folders good and defective"):
        _reference_folder(tmp_path)


def listed(folder, header, rows):
    names = [f"{k:04}.png" for k in range(len(rows))]
    files = {**dict.fromkeys(names, corpus.PICTURE), "list.csv": "\n".join([header, *rows]).encode()}
    return bench.write(folder, files)


def test_a_split_in_a_list_is_kept(tmp_path):
    splits = ["train"] * 6 + ["test"] * 3 + ["val"] * 2 + ["test"] * 2
    rows = [f"{k:04}.png,{'OK' if k < 11 else 'NG'},{split}" for k, split in enumerate(splits)]
    found = open_dataset(listed(tmp_path / "a", "file,label,split", rows))
    assert [len(found.splits[split]) for split in ("train", "validation", "test")] == [6, 2, 5]
    named = open_dataset(tmp_path / "a", good="OK")
    assert [len(named.splits[split]) for split in ("train", "validation", "test")] == [6, 2, 5]
    of_folders = {f"{folder}/{k}.png": corpus.PICTURE for folder in ("good", "bad") for k in range(9)}
    table = "\n".join(["path,split", *(f"good/{k}.png,{'train' if k < 7 else 'test'}" for k in range(9))])
    found = open_dataset(bench.write(tmp_path / "b", {**of_folders, "list.csv": table.encode()}))
    assert (len(found.train), len(found.test)) == (7, 11)


@pytest.mark.parametrize("marks", [{"labels/0003.txt": b"0 .5 .5 .2 .2"}, {"masks/0003.png": corpus.MASK}])
def test_marks_beside_the_folder_that_is_given_count_too(tmp_path, marks):
    root = "images"
    pictures = {f"{root}/{k:04}.png": corpus.PICTURE for k in range(8)}
    bench.write(tmp_path, {**pictures, **marks})
    with pytest.raises(InputError, match=r"marked \(7, nothing is said\)"):
        open_dataset(tmp_path / root)
    assert len(open_dataset(tmp_path / root, good="unmarked", test_share=0).train) == 7


@pytest.mark.parametrize(("value", "told"), [("", "none (5)"), ("unused", "unused (5)")])
def test_a_split_of_some_is_a_question(tmp_path, value, told):
    rows = [f"{k:04}.png,{'train' if k < 7 else value}" for k in range(12)]
    with pytest.raises(InputError, match="which good pictures are to learn from") as asked:
        open_dataset(listed(tmp_path, "file,split", rows))
    assert told in str(asked.value)
    assert "train (7)" in str(asked.value)


def test_marks_in_mask_files_are_answered_by_unmarked(tmp_path):
    root = bench.write(tmp_path, corpus.DEFECTIVE_TOOLS["images and masks"].files)
    found = open_dataset(root, good="unmarked", test_share=0)
    assert (len(found.train), sum(item.anomalous for item in found.test)) == (corpus.GOOD, corpus.BAD)
    assert all(item.masks for item in found.test)


def test_kinds_need_no_good_pictures(tmp_path):
    folders = ("gut", "Delle", "Kratzer", "Fehldruck")
    files = {f"{folder}/{k}.png": corpus.PICTURE for folder in folders for k in range(3)}
    found = open_defects(bench.write(tmp_path / "a", files))
    assert [item.kind for item in found] == ["Delle"] * 3 + ["Fehldruck"] * 3 + ["Kratzer"] * 3
    nested = {f"niO/{kind}/{k}.png": corpus.PICTURE for kind in ("Delle", "Riss") for k in range(2)}
    assert {item.kind for item in open_defects(bench.write(tmp_path / "b", nested))} == {"Delle", "Riss"}


def test_a_question_names_what_folders_say():
    layout = corpus.names("Gut/{k}.png", "Schlecht/{k}.png", "Gut/NIO_{k}.png")
    asked = asked_of_a_zip(layout)
    assert "Gut (12, good by its name)" in asked
    assert "Schlecht (4, not good by its name)" in asked


@pytest.mark.parametrize(
    "form",
    [
        "camera1-2026-11-30T00-42-{:02d}.{:03d}Z.png",
        "20261130_0042{:02d}_{:03d}.png",
        "2026.11.30 00.42.{:02d} {:03d}.png",
        "part_2026-11-30_00_42_{:02d}_{:03d}.png",
    ],
)
def test_seconds_of_a_time_of_day_are_no_classes(form):
    """Those of four pictures that a camera took around the first second of a minute."""
    times = [(0, 758), (0, 878), (0, 998), (1, 118)]
    refuse_unknown_names("zip", [form.format(*time) for time in times])
