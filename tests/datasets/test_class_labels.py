"""Defects are not learnt as good in silence where names, lists or tools' labels of whole pictures call them
so, and nothing is asked where all is plain."""

import importlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from flawscope.cli import output
from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.datasets.mask_remarks import marked_good
from flawscope.datasets.seen_defects import list_seen
from flawscope.errors import InputError
from flawscope.evaluation.trials import _parse_word, _reference_folder
from flawscope.pictures.name_words import read_names
from flawscope.results.region import Region
from flawscope.results.result_workbook import ResultWorkbook

BENCH = Path(__file__).parents[2] / "bench"
NAMES = [f"{k}.png" for k in range(1, 7)]  # the last two are defective


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        return importlib.import_module("class_labels")


def build(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (8, 8), (len(name), 9 * len(files), 5)).save(path)
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def opened(root, **options):
    """Numbers learnt and of defects; or the question."""
    try:
        dataset = open_dataset(root, test_share=0, **options)
    except InputError as error:
        return str(error).replace("\n", "LINES")
    return len(dataset.train), sum(item.anomalous for item in dataset.test)


@pytest.mark.parametrize("way", range(20))
def test_each_way_in_a_language(bench, tmp_path, way):
    name, plain, files, bad = [*bench.layouts()][20 * (way % 6) + way]
    found = bench.measure_layout(tmp_path, plain, files, bad)
    assert (found["defects learnt"], bool(found["asked"])) == (0, not plain), name
    assert found["learnt"] == (bench.GOOD if plain else 0), name


def test_good_pictures_are_not_asked_about_by_chance(bench):
    assert {
        pattern: asked for pattern, names in bench.schemes().items() if (asked := bench.asks(names[:99]))
    } == {}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("IMG_1_conforme IMG_2_non_conforme", "good bad"),
        ("nicht_gut_1 nicht_schlecht_2", "bad good"),
        ("OK_1 ej_ok_2", "good unclear"),  # a "not" of a language that is not known
        ("OK12_1 NG12_1 OK12_2 NG12_2", "good bad good bad"),
        ("NG200_1 NG200_2 AX3_1", "- - -"),
        ("IMG_NG12_1 IMG_NG12_2 IMG_0003", "bad bad -"),
        ("P1C2S3OK P1C2S4OK P1C3S4NG", "good good bad"),
        ("3f0bad12 5e1def99 00aa11bb", "- - -"),
        ("p1_normal p1_bright p2_normal p2_dark", "- - - -"),
        ("part_ok_and_bad_1 part_ok_2", "unclear -"),
    ],
)
def test_what_names_say_beside_each_other(names, said):
    words = {"good": "GOOD", "bad": "BAD", "unclear": "UNCLEAR", "-": "UNKNOWN"}
    assert [one.picture_class.name for one in read_names(names.split())] == [
        words[one] for one in said.split()
    ]


def rows(header, *columns):
    return "\n".join(
        [header, *(",".join(row) for row in zip(NAMES, *(c.split() for c in columns), strict=True))]
    )


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        (rows("file,label", "0 0 0 0 1 1"), {}, "0 (4, by l.csv), 1 (2, by l.csv): name them with --good"),
        (rows("file,label", "0 0 0 0 1 1"), {"good": "0"}, (4, 2)),
        (rows("file,is_defective", "0 0 0 0 1 1"), {}, (4, 2)),
        (rows("file,iO", "ja ja ja ja nein nein"), {}, (4, 2)),
        (rows("file,defects", "0 0 0 0 1 3"), {}, (4, 2)),
        (rows("file,label,defect_type", "0 0 0 0 1 1", "none none none none dent rust"), {}, (4, 2)),
        (rows("file,defect", "- - - - dent rust"), {}, (4, 2)),
        (rows("file,defect", "- - - - dent rust").replace("-", ""), {}, "nothing is said"),
        (rows("file,category", "good good good good dent rust"), {}, "dent (1, by l.csv), good (4, good by"),
        (rows("file,score", ".1 .1 .2 .1 .9 .8"), {}, "score (6, by l.csv)"),
        (rows("filename,Good,Dent,Rust", "1 1 1 1 0 0", "0 0 0 0 1 0", "0 0 0 0 0 1"), {}, (4, 2)),
        (rows("filename,Dent,Rust", "0 0 0 0 1 0", "0 0 0 0 0 1"), {}, "nothing is said"),
        (rows("file,operator,exposure,px", "A B A B A B", "1 2 3 4 5 6", ".1 .2 .3 .1 .2 .3"), {}, (6, 0)),
        (rows("path,decision,p_value", "good good good good anomalous good", "1 1 1 1 0 1"), {}, (6, 0)),
        (rows("file,label", "x x x x x x"), {}, (6, 0)),
        ("other.png,NG\nelse.png,OK", {}, (6, 0)),
        (rows("file,result", "OK OK OK OK NG OK"), {"good": "all"}, (6, 0)),
    ],
)  # fmt: skip
def test_what_a_list_says(tmp_path, text, options, found):
    root = build(tmp_path / "part", {**dict.fromkeys(NAMES), "l.csv": text})
    said = opened(root, **options)
    assert (found in said) if isinstance(found, str) else said == found


def test_answers_to_questions_about_names(tmp_path):
    root = build(
        tmp_path / "a", dict.fromkeys(["1.png", "2.png", "NG_3.png", "sub/ok_1.png", "sub/dent_2.png"])
    )
    assert [opened(root, good=good) for good in (".,ok", ".", "all", "NG")] == [
        (3, 2),
        (2, 3),
        (5, 0),
        (1, 4),
    ]
    assert "--good nk: no pictures there; known: ., dent, ng, ok, sub" in opened(root, good="nk")
    assert "which pictures are good? ng (2, not good by name)" in opened(
        build(tmp_path / "b", dict.fromkeys(["NG_1.png", "NG_2.png"]))
    )


def test_a_folder_of_good_ones_with_one_that_is_called_otherwise(tmp_path):
    root = build(tmp_path, dict.fromkeys(["good/1.png", "good/2.png", "good/NG_3.png", "bad/4.png"]))
    assert "NG_3.png: not good by its name, within good; move it, or name good with --good" in opened(root)
    assert opened(root, good="good") == (3, 1)
    build(root, {"good/NG_3.png": None, "good/l.csv": "f,label\n1.png,scrap\n2.png,ok"})
    assert "1.png: not good by good/l.csv" in opened(root)


def test_defects_of_any_split_are_for_the_test(tmp_path):
    names = [f"{split}/{kind}/1.png" for split in ("train", "valid", "test") for kind in ("good", "defect")]
    dataset = open_dataset(build(tmp_path, dict.fromkeys(names)))
    counts = {name: [item.anomalous for item in items] for name, items in dataset.splits.items()}
    assert counts == {"train": [False], "validation": [False], "test": [True, True, True, False]}


def coco(path, names, kinds):
    """A COCO file; kinds: of the mark in each picture, None: it has none."""
    words = sorted({*kinds} - {None})
    images = [{"id": k, "file_name": name, "width": 8, "height": 8} for k, name in enumerate(names)]
    marks = [
        {"id": k, "image_id": k, "category_id": words.index(kind), "bbox": [1, 1, 3, 3], "area": 9}
        for k, kind in enumerate(kinds)
        if kind is not None
    ]
    categories = [{"id": k, "name": word} for k, word in enumerate(words)]
    path.write_text(json.dumps({"images": images, "annotations": marks, "categories": categories}))


@pytest.mark.parametrize("splits", [("",), ("train", "valid", "test")])
def test_pictures_of_all_kinds_in_one_folder_are_a_question(tmp_path, save, splits):
    """By the marks of a labelling tool: what is marked is no good picture, unless its kind says so."""
    root, kinds = tmp_path / "parts", ["scratch", "dent", None, None, None]
    for split in splits:
        names = [f"{split}{k}.png" for k in range(len(kinds))]
        for name in names:
            save(root / split / name)
        coco(root / split / "_annotations.coco.json", names, kinds)
    count = len(splits)
    with pytest.raises(InputError) as asked:
        open_dataset(root)
    for words in (f"dent ({count}, not good by _annotations", f"unmarked ({3 * count}, nothing is said)"):
        assert words in str(asked.value)
    found = open_dataset(root, good="unmarked")
    assert {item.kind for item in found.test if item.anomalous} == {"scratch", "dent"}
    assert all(item.masks for item in found.test if item.anomalous)
    assert len(found.train) + len(found.validation) + sum(not i.anomalous for i in found.test) == 3 * count
    assert len(found.validation) == (3 if count == 3 else 0)
    every = open_dataset(root, good="all").splits.values()
    assert [len(one) for one in every] == ([5, 5, 5] if count == 3 else [5, 0, 0])
    assert not any(item.anomalous for one in every for item in one)


def test_a_list_without_a_header_tells_by_its_only_words(tmp_path, save):
    for k in range(6):
        save(tmp_path / f"parts/{k}.png")
    rows = [f"scratch,2,2,{k}.png,8,8" for k in range(2)]
    (tmp_path / "parts/labels_my-project-name.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"scratch \(2, by labels_my"):
        open_dataset(tmp_path / "parts")
    found = open_dataset(tmp_path / "parts", good=".")
    assert [item.kind for item in found.test if item.anomalous] == ["scratch"] * 2


def test_marks_of_a_split_set_are_no_question_where_a_list_tells_each(tmp_path, save):
    for split in ("train", "valid"):
        for k in range(4):
            save(tmp_path / "parts" / split / f"{split}{k}.png")
        rows = [f"{split}{k}.png, {int(k == 0)}, {int(k > 0)}" for k in range(4)]
        (tmp_path / "parts" / split / "_classes.csv").write_text("\n".join(["filename, dent, good", *rows]))
    found = open_dataset(tmp_path / "parts")
    assert [len(one) for one in found.splits.values()] == [3, 3, 2]
    (tmp_path / "video").mkdir()
    (tmp_path / "video/a.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only 1 \.mp4; .*take single pictures out of videos"):
        open_dataset(tmp_path / "video")


def test_marks_whose_kind_says_good_tell_too(tmp_path, save):
    names = [f"{k}.png" for k in range(8)]
    for name in names:
        save(tmp_path / "parts" / name)
    coco(tmp_path / "parts/labels.json", names, ["good"] * 6 + ["scratch"] * 2)
    labels = json.loads((tmp_path / "parts/labels.json").read_text())
    labels["annotations"].append({**labels["annotations"][0], "id": 8, "image_id": 6})  # beside a scratch
    (tmp_path / "parts/labels.json").write_text(json.dumps(labels))
    found = open_dataset(tmp_path / "parts")
    assert [item.kind for item in found.test if item.anomalous] == ["scratch"] * 2
    assert not [*marked_good(found)]
    assert all(len(item.masks) == 1 for item in found.test if item.anomalous)


def test_a_kind_of_marks_may_be_named_as_that_of_good_parts(tmp_path, save):
    """An export with a box around each part, and one around the defect."""
    names = [f"{k}.png" for k in range(8)]
    for name in names:
        save(tmp_path / "parts" / name)
    path = tmp_path / "parts/labels.json"
    coco(path, names, ["cap"] * 7 + ["scratch"])
    labels = json.loads(path.read_text())
    labels["annotations"].append({**labels["annotations"][0], "id": 8, "image_id": 7})
    path.write_text(json.dumps(labels))
    with pytest.raises(InputError, match=r"cap \(7, not good by labels.json\)"):
        open_dataset(tmp_path / "parts")
    found = open_dataset(tmp_path / "parts", good="cap")
    assert [(item.path.name, item.kind) for item in found.test if item.anomalous] == [("7.png", "scratch")]
    assert len(found.train) + len(found.test) == 8
    assert not [*marked_good(found)]


def test_good_ones_in_a_folder_and_in_one_below_are_good(tmp_path, save):
    for name in ("Gut/1.png", "Gut/2.png", "Gut/Gut/3.png"):
        save(tmp_path / "bilder" / name)
    assert len(open_dataset(tmp_path / "bilder").train) == 3
    save(tmp_path / "bilder/4.png")  # which says nothing
    with pytest.raises(InputError, match="which folders hold good pictures"):
        open_dataset(tmp_path / "bilder")


@pytest.mark.parametrize("name", ["network.xml", "export.txt", "notes.csv", "data.json"])
def test_a_file_beside_the_pictures_that_is_no_list_takes_no_time(tmp_path, save, name):
    """As a network's XML, or what a program stores in one long line."""
    for k in range(3):
        save(tmp_path / "parts" / f"{k}.png")
    (tmp_path / "parts" / name).write_text("x9" * 100_000)
    assert len(open_dataset(tmp_path / "parts").train) == 3


def test_a_list_has_the_ending_of_a_list(tmp_path, save):
    for k in range(3):
        save(tmp_path / "parts" / f"{k}.png")
    (tmp_path / "parts/list.xml").write_text("0.png,good\n1.png,good\n2.png,scratch\n")
    assert len(open_dataset(tmp_path / "parts").train) == 3


def test_a_list_of_excel_is_read(tmp_path, bench):
    files = {**dict.fromkeys(bench.NAMES), "l.xlsx": bench.sheet(["ok"] * 20 + ["nok"] * 12)}
    assert opened(build(tmp_path, files)) == (20, 12)


def test_a_workbook_of_results_is_no_ground_truth(tmp_path):
    root = build(tmp_path, dict.fromkeys(f"{k}.png" for k in range(8)))
    book = ResultWorkbook(("path", "decision", "largest_px", "kinds"))
    for path in sorted(root.glob("*.png")):
        row = {"path": path.name, "decision": "anomalous", "largest_px": 3.0, "kinds": "scratch"}
        book.add(row, [(path.name, Region((0, 0, 3, 3), 9, 1.0, (1.5, 1.5), ("scratch",)))])
    with open(root / "results.xlsx", "wb") as file:
        book.save(file, ())
    assert opened(root) == (8, 0)


def test_seen_defects_are_none_that_are_called_good(tmp_path, mask, save):
    for name in ("OK_1", "NG_2", "NG_3"):
        save(tmp_path / f"set/seen/{name}.png")
        save(tmp_path / f"set/seen/masks/{name}.png", mask)
    assert [item.path.stem for item in list_seen(tmp_path / "set/seen")] == ["NG_2", "NG_3"]


def test_the_check_names_good_ones_that_are_called_otherwise(tmp_path):
    root = build(tmp_path, dict.fromkeys(["OK_1.png", "OK_2.png", "dent_3.png"]))
    found = [
        one
        for one in check(open_dataset(root, good="all"), near=False).findings
        if one.code == "called-otherwise"
    ]
    assert [one.subject for one in found] == ["dent_3.png"]
    text = json.dumps([{"file": name, "label": "ok"} for name in NAMES])
    read = check(build(tmp_path / "b", {**dict.fromkeys(NAMES), "l.json": text}), near=False).findings
    assert [one.message for one in read if one.code == "labels"] == [
        "1 file of list: 0 marks in 0 pictures; of whole pictures: ok 6"
    ]
    assert not [one for one in read if one.code == "beside"]


@pytest.mark.parametrize("names", ["ok/1 nok/2", "iO/1 niO/2", "Gutteile/1 Kratzer/2", "iO_1 niO_2"])
def test_agreement_knows_the_words_that_fit_knows(tmp_path, names):
    build(tmp_path, {f"{name}.png": None for name in names.split()})
    found = _reference_folder(tmp_path)
    assert [found[name] for name in sorted(found, key=lambda name: name[-1])] == [False, True]
    assert [_parse_word(word, "") for word in ("iO", "n.i.O.", "1", "0", "rebut", "Pass")] == [
        False, True, False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("coded", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_paths_keeps_its_first_line(coded):
    stream = io.BufferedReader(io.BytesIO("a.png\r\nb ä.png\n".encode(coded)))  # type: ignore[arg-type]
    assert [*output._read_stdin(stream).sources] == [Path("a.png"), Path("b ä.png")]


@pytest.mark.parametrize(
    ("name", "asked"),
    [("{k:04}.png", True), ("lot41/{k:04}.png", True), ("lot42/{k:04}.png", False)],
    ids=["names alone", "another lot", "this lot"],
)
def test_a_list_above_the_folder_that_may_be_of_another_lot_decides_nothing(tmp_path, name, asked):
    lot = tmp_path / "lot42"
    lot.mkdir()
    for k in range(12):
        Image.new("RGB", (8, 8), (k, 2 * k, 3 * k)).save(lot / f"{k:04}.png")
    rows = [f"{name.format(k=k)},{'OK' if k < 9 else 'NG'}" for k in range(12)]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *rows]))
    if asked:
        with pytest.raises(
            InputError, match=r"which pictures are good\? NG \(3, unclear by list.csv one folder"
        ):
            open_dataset(lot)
        found = open_dataset(lot, good="OK")
    else:
        found = open_dataset(lot)
    bad = {item.path.name for item in found.test if item.anomalous}
    assert bad == {"0009.png", "0010.png", "0011.png"}
