import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from flawscope.datasets import find_categories, layouts, open_dataset
from flawscope.errors import InputError


def names(dataset, split):
    """(path, kind, anomalous, masks) of every item, with paths relative to the category."""
    return [
        (dataset.relative(i.path), i.kind, i.anomalous, tuple(dataset.relative(m) for m in i.masks))
        for i in dataset.splits[split]
    ]


def refused(root, *args, **options):
    with pytest.raises(InputError) as caught:
        open_dataset(root, *args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_mvtec(mvtec, save):
    (mvtec / "ground_truth/bent/000_mask.png").unlink()  # the others stay
    dataset = open_dataset(mvtec)
    assert (dataset.layout, dataset.category, dataset.root) == ("mvtec", "widget", mvtec)
    assert len(dataset.train) == 20
    assert not any(item.anomalous for item in dataset.train)
    assert names(dataset, "test") == [
        ("test/bent/000.png", "bent", True, ()),
        ("test/bent/001.png", "bent", True, ("ground_truth/bent/001_mask.png",)),
        ("test/cut/000.png", "cut", True, ("ground_truth/cut/000_mask.png",)),
        ("test/cut/001.png", "cut", True, ("ground_truth/cut/001_mask.png",)),
        ("test/good/000.png", "good", False, ()),
        ("test/good/001.png", "good", False, ()),
    ]
    assert dataset.kinds == ("good", "bent", "cut")
    assert dataset.has_masks
    assert dataset.validation == ()
    shutil.rmtree(mvtec / "test")
    assert (open_dataset(mvtec).test, open_dataset(mvtec).has_masks) == ((), False)
    save(mvtec / "train/scratch/0.png")
    for options, words in (
        ({}, "which folders hold good pictures?"),
        *(({"test_share": share}, "test share") for share in (-0.1, 1.0, float("nan"))),
    ):
        assert words in refused(mvtec, **options)


def test_a_layout_is_one_row(mvtec, monkeypatch):
    """Also one with the folders train and test."""
    opener = partial(layouts._open_split, layout="own")
    row = layouts._Layout("own", lambda folder: (folder / "own").is_dir(), opener, needs_train=True)
    monkeypatch.setattr(layouts, "_LAYOUTS", (row, *layouts._LAYOUTS))
    assert open_dataset(mvtec).layout == "mvtec"
    (mvtec / "own").mkdir()
    assert (open_dataset(mvtec).layout, find_categories(mvtec.parent)) == ("own", ["widget"])
    assert "the own layout says which pictures are good" in refused(mvtec, good="good")
    shutil.rmtree(mvtec / "train")
    assert find_categories(mvtec.parent) == []


SPLIT_WORDS = [
    ("1_train", "2_val", "3_test"),
    ("train_set", "dev_set", "test_set"),
    ("Trainingsdaten", "Validierungsbilder", "Testdaten"),
    ("Train", "Valid", "Eval"),
]


@pytest.mark.parametrize("splits", SPLIT_WORDS)
def test_splits_are_known_by_their_words(tmp_path, save, splits):
    for split, count in zip(splits, SPLIT_KINDS.values(), strict=True):
        for kind in ("iO", "niO"):
            for k in range(count):
                save(tmp_path / "parts" / split / kind / f"{k}.png")
    found = open_dataset(tmp_path / "parts")
    assert (len(found.train), len(found.validation)) == (6, 2)
    assert [item.anomalous for item in found.test].count(False) == 3
    assert [item.anomalous for item in found.test].count(True) == 11


SPLIT_KINDS = {"train": 6, "valid": 2, "test": 3}  # pictures of each kind
SPLIT_TREES = {  # folders of pictures, as exports for classification have them; --good, if nobody knows else
    "beside each other": (("good", "defect"), "{split}/{kind}", None),
    "kinds of defects": (("good", "scratch", "dent"), "{split}/{kind}", None),
    "in another language": (("gut", "schlecht"), "{split}/{kind}", None),
    "other words for the splits": (("ok", "nok"), "{split}ing/{kind}", None),
    "kinds above the splits": (("good", "bad"), "{kind}/{split}", None),
    "numbers": (("class0", "class1"), "{split}/{kind}", "class0"),
    "numbers above the splits": (("class0", "class1"), "{kind}/{split}", "class0"),
}


@pytest.mark.parametrize("tree", SPLIT_TREES)
def test_exports_for_classification_keep_their_split(tmp_path, save, tree):
    kinds, place, good = SPLIT_TREES[tree]
    splits = {"train": 6, "test": 3} if "ing" in place else SPLIT_KINDS
    for split, count in splits.items():
        for kind in kinds:
            for k in range(count):
                save(tmp_path / "parts" / place.format(split=split, kind=kind) / f"{k}.png")
    if good is not None:
        text = refused(tmp_path / "parts")
        assert "which folders hold good pictures? class0" in text
        assert "--good NAME" in text
    found = open_dataset(tmp_path / "parts", good=good)
    assert len(found.train) == 6
    assert len(found.validation) == splits.get("valid", 0)
    assert sum(not item.anomalous for item in found.test) == 3
    defects = [item.kind for item in found.test if item.anomalous]
    assert {kind: defects.count(kind) for kind in defects} == dict.fromkeys(kinds[1:], sum(splits.values()))
    assert not any(item.anomalous for item in (*found.train, *found.validation))


def test_a_kind_to_learn_from_that_nobody_knows_is_a_question_with_an_answer(mvtec, save):
    save(mvtec / "train/type_a/0.png")
    assert "good (22, good by its name), type_a (1): name them with --good" in refused(mvtec)
    found = open_dataset(mvtec, good="good,type_a")
    assert len(found.train) == 21
    assert [item.kind for item in open_dataset(mvtec, good="good").test].count("type_a") == 1


LOCO = [f"ground_truth/logical_anomalies/000/{k}.png" for k in ("000", "001", "010")]
TREES = {  # pictures; masks; layout, kinds; defective pictures with their masks
    "the class is the folder, not a part of its name": (
        ["train/good/testgood.png", "test/not_good/good_test.png", "test/good/bad.png"],
        ["ground_truth/not_good/good_test.png"],
        ("mvtec", ("good", "not_good")),
        [("test/not_good/good_test.png", ("ground_truth/not_good/good_test.png",))],
    ),
    "suffixes may differ and shout": (
        ["train/good/1.JPG", "test/dent/a.1.JPEG", "test/dent/b.BMP"],
        ["ground_truth/dent/a.1_mask.PNG", "ground_truth/dent/b.tif"],
        ("mvtec", ("dent",)),
        [
            ("test/dent/a.1.JPEG", ("ground_truth/dent/a.1_mask.PNG",)),
            ("test/dent/b.BMP", ("ground_truth/dent/b.tif",)),
        ],
    ),
    "BTAD": (
        ["train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp"],
        ["ground_truth/ko/0000.png"],
        ("btad", ("ok", "ko")),
        [("test/ko/0000.bmp", ("ground_truth/ko/0000.png",))],
    ),
    "LOCO": (
        [f"{split}/good/000.png" for split in ("train", "validation", "test")]
        + ["test/logical_anomalies/000.png"],
        LOCO,
        ("loco", ("good", "logical_anomalies")),
        [("test/logical_anomalies/000.png", tuple(LOCO))],
    ),
    "MVTec AD 2, whose private test sets are nobody's": (
        [
            *("train/good/0.png", "validation/good/1.png", "test_public/good/0.png"),
            *("test_public/bad/0.png", "test_private/0.png", "test_private_mixed/0.png"),
        ],
        ["test_public/ground_truth/bad/0_mask.png"],
        ("mvtec2", ("good", "bad")),
        [("test_public/bad/0.png", ("test_public/ground_truth/bad/0_mask.png",))],
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_other_data_sets_of_the_same_shape(tmp_path, save, mask, name):
    pictures, masks, expected, bad = TREES[name]
    root = tmp_path / "home/tester/goods/test/good/bad/part"
    for path in pictures:
        save(root / path)
    for path in masks:
        save(root / path, mask)
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.kinds) == expected
    assert [(path, found) for path, _, anomalous, found in names(dataset, "test") if anomalous] == bad
    assert (len(dataset.train), len(dataset.validation)) == (
        1,
        any("validation" in path for path in pictures),
    )
    assert find_categories(root.parent) == ["part"]


@pytest.fixture
def visa(tmp_path, save, mask):
    root = tmp_path / "VisA"
    for k in range(10):
        save(root / f"candle/Data/Images/Normal/{k:04}.JPG")
    for k in range(3):
        save(root / f"candle/Data/Images/Anomaly/{k:03}.JPG")
        save(root / f"candle/Data/Masks/Anomaly/{k:03}.png", mask)
    save(root / "pcb1/Data/Images/Normal/0000.JPG")
    return root


def table(root, *rows):
    (root / "split_csv").mkdir(exist_ok=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(("object,split,label,image,mask", *rows)) + "\n")


def test_visa_without_table_is_split_by_seed(visa):
    dataset = open_dataset(visa, "candle", seed=3)
    assert dataset.layout == "visa"
    assert (len(dataset.train), len(dataset.test)) == (8, 5)
    assert dataset.kinds == ("Normal", "Anomaly")
    assert [dataset.relative(m) for i in dataset.test for m in i.masks] == [
        f"Data/Masks/Anomaly/00{k}.png" for k in range(3)
    ]


def test_visa_table_decides(visa):
    table(
        visa,
        "candle,train,normal,candle/Data/Images/Normal/0003.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/001.JPG,candle/Data/Masks/Anomaly/001.png",
        "candle,test,normal,candle/Data/Images/Normal/0000.JPG,",
        "pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,",
    )
    expected = [("Data/Images/Normal/0003.JPG", "Normal", False, ())]
    for dataset in (open_dataset(visa, "candle"), open_dataset(visa / "candle")):
        assert names(dataset, "train") == expected
        assert names(dataset, "test") == [
            ("Data/Images/Normal/0000.JPG", "Normal", False, ()),
            ("Data/Images/Anomaly/001.JPG", "Anomaly", True, ("Data/Masks/Anomaly/001.png",)),
        ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("candle,train,normal,candle/Data/Images/Normal/9999.JPG,", "there is no"),
        ("candle,train,normal,candle/../../etc/passwd.png,", "does not lie in candle/"),
        ("candle,train,normal,/etc/passwd.png,", "does not lie in candle/"),
        ("candle,train,anomaly,candle/Data/Images/Anomaly/001.JPG,", "an anomalous picture to train on"),
        ("candle,training,normal,candle/Data/Images/Normal/0000.JPG,", "not a split of visa"),
        ("pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,", "lists no training pictures"),
    ],
)
def test_visa_table_with_a_fault(visa, row, reason):
    table(visa, row)
    assert reason in refused(visa, "candle")


def test_kinds_and_masks_of_a_folder(tmp_path, save, mask):
    save(tmp_path / "good/0.png")
    for name in ("plain", "inside", "scratch/7", "scratch/deep/8", "dent/7", "a/9", "b/9"):
        save(tmp_path / f"bad/{name}.png")
    for name in ("plain_mask.png", "scratch/7.png", "8.bmp", "bad/dent/7.png", "9.png"):
        save(tmp_path / "masks" / name, mask)
    save(tmp_path / "bad/masks/inside.png", mask)
    assert names(open_dataset(tmp_path, test_share=0), "test") == [
        ("bad/a/9.png", "a", True, ()),  # a bare name that means two pictures
        ("bad/b/9.png", "b", True, ()),
        ("bad/dent/7.png", "dent", True, ("masks/bad/dent/7.png",)),
        ("bad/inside.png", "bad", True, ("bad/masks/inside.png",)),
        ("bad/plain.png", "bad", True, ("masks/plain_mask.png",)),
        ("bad/scratch/7.png", "scratch", True, ("masks/scratch/7.png",)),
        ("bad/scratch/deep/8.png", "scratch", True, ("masks/8.bmp",)),
    ]


@pytest.mark.parametrize("name", ["bad/1.png", "shift1/Defect/1.png", "test/dent/1.png", "a/train/1.png"])
def test_signs_of_defects_are_refused_not_ignored(tmp_path, save, name):
    save(tmp_path / "bare/0.png")
    save(tmp_path / "bare" / name)
    assert re.search("known layout|which folders hold good pictures", refused(tmp_path / "bare"))
    save(tmp_path / "part/good/0.png")
    save(tmp_path / "part/scratch/0.png")
    assert "scratch" in refused(tmp_path / "part")


def test_the_split_depends_on_names_and_seed_alone(tmp_path, save):
    for place in ("here", "elsewhere/deeper"):
        for k in range(40):
            save(tmp_path / place / f"good/{k}.png")
        save(tmp_path / place / "bad/0.png")
    one, other = open_dataset(tmp_path / "here"), open_dataset(tmp_path / "elsewhere/deeper")
    assert names(one, "test") == names(other, "test")
    assert names(one, "test") != names(open_dataset(tmp_path / "here", seed=1), "test")
    # golden: the eight smallest blake2b-128 of "0:NAME"
    good = [item.path.stem for item in one.test if not item.anomalous]
    assert good == ["4", "7", "8", "11", "14", "24", "26", "37"]


@pytest.fixture
def several(tmp_path, save):
    for name in ("wood2", "wood10", "bolt"):
        save(tmp_path / name / "train/good/0.png")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_categories_are_listed_and_chosen_by_name(several, monkeypatch):
    assert find_categories(several) == ["bolt", "wood2", "wood10"]
    assert refused(several) == (
        f"several categories in {several}: bolt, wood2, wood10; choose one with --category"
    )
    assert open_dataset(several, "bolt").category == "bolt"
    assert refused(several, "blot").endswith("no category 'blot'; did you mean bolt?")
    assert refused(several, "xyz").endswith("known: bolt, wood2, wood10")
    assert "no category '../x'" in refused(several, "../x")
    assert find_categories(several / "bolt") == ["bolt"]
    assert open_dataset(several / "bolt", "bolt").category == "bolt"
    assert "is itself one category" in refused(several / "bolt", "wood2")
    monkeypatch.chdir(several / "bolt")
    assert open_dataset(".").category == "bolt"


def test_pictures_beside_the_only_data_set_are_not_passed_over(tmp_path, save):
    for name in ("line2/ok/0.png", "line2/nok/0.png", "line1/Gutteile/0.png"):
        save(tmp_path / name)
    assert "line2 is a data set by its folders, beside pictures in line1" in refused(tmp_path)
    assert open_dataset(tmp_path, "line2").category == "line2"
    found = open_dataset(tmp_path, good="ok,Gutteile", test_share=0)
    assert (len(found.train), len(found.test)) == (2, 1)


def test_missing_empty_and_no_folder(tmp_path, save):
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "the folder is empty" in refused(tmp_path)
    (tmp_path / "readme.txt").touch()
    assert "no pictures and no known layout" in refused(tmp_path)
    assert "a file, not a folder" in refused(tmp_path / "readme.txt")
    (tmp_path / "clip.mp4").touch()
    assert "take single pictures out of it" in refused(tmp_path / "clip.mp4")
    (tmp_path / "train/good").mkdir(parents=True)
    assert re.search(r"train.good: no pictures to train on", refused(tmp_path))


def test_an_unreadable_folder_is_one_line(mvtec, monkeypatch):
    real = os.scandir

    def scandir(path):
        if Path(path).parts[-2:] == ("test", "cut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    expected = f"{mvtec / 'test/cut'}: the folder cannot be read (Permission denied); check its permissions"
    assert refused(mvtec) == expected


def test_loops_of_links_end(mvtec):
    before = open_dataset(mvtec)
    (mvtec / "train/good/loop").symlink_to(mvtec / "train/good")
    (mvtec / "train/good/up").symlink_to(mvtec)
    (mvtec / "train/good/self").symlink_to("self")
    train = [item.path.relative_to(mvtec).as_posix() for item in open_dataset(mvtec).train]
    real = [item.path.relative_to(mvtec).as_posix() for item in before.train]
    assert set(real) <= set(train)
    assert not any("loop" in name or "up/train/good" in name for name in train)


@pytest.fixture
def realiad(tmp_path, save, mask):
    """Five views of three good parts and of one defective part, whose defect two views show."""
    root = tmp_path / "Real-IAD/realiad_1024/mint"
    for part in range(1, 4):
        for view in range(1, 6):
            save(root / f"OK/S{part:04}/mint_{part:04}_OK_C{view}_2023.jpg")
    for view in (1, 2):
        path = save(root / f"NG/AK/S0009/mint_0009_AK_C{view}_2023.jpg")
        save(path.with_suffix(".png"), mask)
    return root


def test_realiad_without_its_split_keeps_parts_together(realiad):
    dataset = open_dataset(realiad.parent, "mint")
    assert (dataset.layout, len(dataset.train), len(dataset.test)) == ("realiad", 10, 7)
    assert len({item.path.parent for item in dataset.train}) == 2
    bad = [item for item in dataset.test if item.anomalous]
    assert [(i.kind, i.path.suffix, i.masks) for i in bad] == [
        ("AK", ".jpg", (i.path.with_suffix(".png"),)) for i in bad
    ]


def test_realiad_by_its_split(realiad):
    table = realiad.parents[1] / "realiad_jsons/realiad_jsons/mint.json"
    table.parent.mkdir(parents=True)
    good, bad = "OK/S0001/mint_0001_OK_C1_2023.jpg", "NG/AK/S0009/mint_0009_AK_C1_2023"
    ok = {"category": "mint", "anomaly_class": "OK", "image_path": good, "mask_path": None}
    ng = {"category": "mint", "anomaly_class": "AK", "image_path": f"{bad}.jpg", "mask_path": f"{bad}.png"}
    document = {"meta": {"prefix": "mint/", "normal_class": "OK"}, "train": [ok], "test": [ng]}
    table.write_text(json.dumps(document))
    dataset = open_dataset(realiad)
    assert [dataset.relative(item.path) for item in dataset.train] == [good]
    assert names(dataset, "test") == [(f"{bad}.jpg", "AK", True, (f"{bad}.png",))]
    for wrong, reason in (
        ({**document, "train": [ng]}, "an anomalous picture to train on"),
        ({**document, "train": [{**ok, "image_path": "../x.jpg"}]}, "does not lie in"),
        ({**document, "test": [{**ok, "image_path": "OK/none.jpg"}]}, "there is no .*none.jpg"),
        ([], "not a split of realiad"),
    ):
        table.write_text(json.dumps(wrong))
        assert re.search(reason, refused(realiad))
