"""The table of places and names of masks, as tools leave them: each mask is found and is its picture's, and
no picture is taken for one, wherever pictures are listed."""

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.cli.output import collect_inputs
from flawscope.cluster.listing import ListingInfo, _paths_of_spec
from flawscope.datasets import list_pictures, open_dataset
from flawscope.datasets.check import check
from flawscope.datasets.mask_remarks import good_remarks
from flawscope.datasets.seen_defects import list_seen
from flawscope.errors import InputError
from flawscope.pictures.listing import iter_inputs, list_inputs, refuse_masks

NFD = unicodedata.normalize("NFD", "bad/Gehäuse 7.png")
BESIDE = """a 1_mask.png|a 1-mask.png|a 1.mask.png|a 1 mask.png|a 1mask.png|a 1Mask.png|A 1_MASK.PNG
a 1_masks.bmp|a 1_gt.png|a 1_GT.tif|a 1.gt.png|a 1_groundtruth.png|a 1_ground_truth.png|a 1_label.png
a 1_labels.gif|a 1_seg.png|a 1-segmentation.png
a 1_annotation.png|a 1_anno.png|mask_a 1.png|gt_a 1.png|label-a 1.png|MASK a 1.png
a 1_mask_0.png|a 1_mask (1).png|a 1_mask_scratch.png|a 1.png_mask.png|a_1_mask.png|a 1_defect_mask.png
a 1_annotated_mask.png|a 1(mask).png|a 1_target.png|a 1_Maske.png|a 1_masque.png|a 1_gtFine_labelIds.png
Mask of a 1.png|a 1 [mask].png|a 1~mask.png|a 1+GT.png|a 1, seg.png"""
BELOW = "masks|mask|MASKS|labels|gt|ground_truth|annotations|label|Masken|Defektmasken"
PARALLEL = """images, labels|images, masks|img, masks_machine|imgs, gt|JPEGImages, SegmentationClass
JPEGImages, SegmentationObject|default, defaultannot|image, label|Images, Annotations|rgb, seg
pictures, ground truth|img_dir, ann_dir|scratch, scratch_masks|input, target|original, BinaryMasks"""
PLACES = {  # a defective picture, and its masks
    **{f"beside: {name}": ("bad/a 1.png", [f"bad/{name}"]) for name in re.split(r"[|\n]", BESIDE)},
    "beside: a name in brackets": ("bad/a (left).png", ["bad/a (left) - mask.png"]),
    "beside: two": ("bad/a.png", ["bad/a_mask_1.png", "bad/a_mask_2.png"]),
    "beside: the picture's name, another format": ("bad/a.jpg", ["bad/a.png"]),
    "beside: image and mask": ("bad/image_001.png", ["bad/mask_001.png"]),
    "beside: image and mask last": ("bad/001_image.png", ["bad/001_mask.png"]),
    "beside: image and mask alone": ("bad/1/image.png", ["bad/1/mask.png"]),
    "beside: img and label alone": ("bad/a_json/img.png", ["bad/a_json/label.png"]),
    "below: two of a number each": ("bad/a.png", ["bad/masks/a_1.png", "bad/masks/a_2.png"]),
    "below: in colour": ("bad/a.png", ["bad/segmentation_masks/a_color.png"]),
    "above: numbered": ("bad/a.png", ["masks/bad/a-001.png"]),
    "beside: kinds": ("bad/dent/a.png", ["bad/dent/a_mask.png"]),
    **{
        f"below: {folder}": ("bad/a.png", [f"bad/{folder}/a.png"])
        for folder in (*BELOW.split("|"), unicodedata.normalize("NFD", "Máscaras"))
    },
    **{
        f"parallel: {pictures}, {masks}": (f"bad/{pictures}/a.jpg", [f"bad/{masks}/a.png"])
        for pictures, masks in (pair.split(", ") for pair in re.split(r"[|\n]", PARALLEL))
    },
    "parallel: with a word in the name too": ("bad/images/a.png", ["bad/masks/a_mask.png"]),
    "parallel: below both": ("bad/images/deep/a.png", ["bad/labels/deep/a.png"]),
    "parallel: with a hash": ("bad/images/a_jpg.rf.0f1e2d.jpg", ["bad/masks/a.png"]),
    "parallel: with the suffix of the picture": ("bad/images/a.jpg", ["bad/masks/a.jpg.png"]),
    "above: masks": ("bad/a.png", ["masks/a.png"]),
    "above: masks, by folder": ("bad/dent/a.png", ["masks/dent/a.png"]),
    "above: masks, by all folders": ("bad/dent/a.png", ["masks/bad/dent/a.png"]),
    "above: several for a picture": ("bad/a.png", ["ground_truth/bad/a/0.png", "ground_truth/bad/a/1.png"]),
    "above: bad_masks": ("bad/a.png", ["bad_masks/a.png"]),
    "above: labels": ("bad/images/a.png", ["labels/bad/a.png"]),
    "accents": (NFD, [unicodedata.normalize("NFC", "masks/Gehäuse 7.png")]),
    "upper case": ("bad/IMG_7.JPG", ["masks/img_7.png"]),
    "upper case, in another folder": ("bad/Dent/IMG_7.jpg", ["masks/dent/img_7_mask.png"]),
}


@pytest.fixture
def place(tmp_path, save, mask):
    """place(pictures, masks) makes a data set of three good pictures and these."""

    def make(pictures, masks):
        root = tmp_path / "masks of labels/part"  # folders above say nothing
        for k in range(3):
            save(root / f"good/{k}.png")
        for name in pictures:
            save(root / name)
        for name in masks:
            save(root / name, mask)
        return root

    return make


def below(root, paths):
    return {unicodedata.normalize("NFC", path.relative_to(root).as_posix()) for path in paths}


@pytest.mark.parametrize("name", PLACES)
def test_masks_are_found_and_no_pictures(name, place):
    picture, masks = PLACES[name]
    others = [str(Path(picture).with_stem("another")), "bad/unmasked_3.png", "bad/mask_8.png"]
    root = place([picture, *others], masks)
    dataset = open_dataset(root, test_share=0)
    defects = {item.path: item.masks for item in dataset.test}
    assert below(root, [*defects]) == {unicodedata.normalize("NFC", name) for name in (picture, *others)}
    assert set(defects[root / picture]) == {root / mask for mask in masks}
    assert not any(defects[root / other] for other in others)
    expected = {*defects, *(item.path for item in dataset.train)}
    assert {*list_pictures(root)} == {*list_pictures(f"{root}/**")} == expected
    inputs, beside = list_inputs(root)
    assert ({*inputs}, {*beside}) == (expected, {root / mask for mask in masks})
    assert {path for path, aside in iter_inputs(root) if not aside} == expected
    assert {*_paths_of_spec(str(root), ListingInfo())} == {*map(str, expected)}
    assert {item.path for item in list_seen(root / "bad")} == {root / picture}
    codes = {finding.code for finding in check(root, near=False).findings}
    assert not codes & {"mask-stray", "unused", "mask-empty", "good-marked", "beside"}


PICTURES = {  # none of these is a mask
    "of masks": ["bad/mask_7.png", "bad/mask_8.png", "bad/mask.png"],
    "unmasked": ["bad/3.png", "bad/unmasked_3.png", "bad/masked_3.png"],
    "of labels": ["bad/label_1.png", "bad/labels 2.png", "bad/segment1.png", "bad/annotated.png"],
    "photographs in a folder of a mask's name": ["bad/label/0.png", "bad/dent/0.png"],
    "masks of a board": ["bad/mask/0.png", "bad/dent/0.png"],
    "solder masks": ["bad/solder_mask/0.png", "bad/dent/0.png"],
    "beside, but a photograph": ["bad/a.png", "bad/a_label.png"],
    "binary pictures in two formats": ["bad/001.gif", "bad/001.tif"],
    "two formats": ["bad/001.bmp", "bad/001.png"],
    "a mask of another number": ["bad/part1.png", "bad/part1_2_label.png"],
    "numbers": ["bad/part1.png", "bad/part10.png", "bad/part1_2.png"],
    "a folder of pictures alone": ["bad/gt/1.png", "bad/gt/2.png"],
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_name_alone_makes_no_mask(name, place):
    root = place(PICTURES[name], [])
    assert below(root, [item.path for item in open_dataset(root, test_share=0).test]) == {*PICTURES[name]}
    assert len(list_pictures(root)) == 3 + len(PICTURES[name])


BINARY = {  # of pictures that look like masks, as those of backlit parts: what is a mask by its words
    "kinds": (["bad/label/0.png", "bad/dent/0.png", "bad/mask/7.png", "bad/truth/0.png"], []),
    "views": (["bad/0.png", "bad/0_label.png", "bad/1.png", "bad/1_target.png"], []),
    "masks": (["bad/0.png", "bad/images/1.png"], ["bad/0_mask.png", "bad/labels/1.png"]),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_pictures_are_masks_by_plain_words_alone(name, tmp_path, save):
    pictures, masks = BINARY[name]
    for number, path in enumerate([*(f"good/{k}.png" for k in range(3)), *pictures, *masks]):
        pixels = np.full((48, 48), 255, np.uint8)
        pixels[5 + number : 20, 9:40] = 0
        save(tmp_path / path, pixels)
    dataset = open_dataset(tmp_path, test_share=0)
    assert below(tmp_path, [item.path for item in dataset.test]) == {*pictures}
    assert {mask for item in dataset.test for mask in item.masks} == {tmp_path / mask for mask in masks}


@pytest.mark.parametrize("name", ["bad/a_bin.png", "bad/matte/a.png", "bad/a_1.png", "bad/掩码/a.png"])
def test_masks_by_words_that_nobody_knows_are_told(name, place):
    root = place(["bad/a.png", "bad/b.png", "bad/b_2.png"], [name])
    found = [f.subject for f in check(root, near=False).findings if f.code == "mask-unpaired"]
    assert found == [name]
    (line,) = good_remarks(open_dataset(root))
    assert line == f"count as pictures, but look like masks: {name}; the mask of a.png is a_mask.png [FS-G58]"


def test_bright_pictures_with_black_print_do_not_look_like_masks(place, save):
    root = place(["bad/a.png"], [])
    label = np.full((48, 48, 3), (250, 250, 240), np.uint8)
    label[10:20, 10:30] = 0
    save(root / "bad/dent/0.png", label)
    assert not [f for f in check(root, near=False).findings if f.code == "mask-unpaired"]


def test_black_masks_of_good_pictures_are_not_learnt_from(place, save):
    root = place([], [])
    save(root / "good/0_mask.png", np.zeros((48, 48), np.uint8))
    save(root / "good/masks/1.png", np.zeros((48, 48), np.uint8))
    assert len(open_dataset(root).train) == len(open_dataset(root / "good").train) == 3
    assert not [f for f in check(root, near=False).findings if f.code == "good-marked"]


def test_masks_without_pictures_are_none_of_the_pictures(place):
    stray = ["bad/gone_mask.png", "masks/elsewhere.png"]
    root = place(["bad/a.png"], ["bad/a_mask.png", *stray])
    assert [item.path.name for item in open_dataset(root, test_share=0).test] == ["a.png"]
    found = [f.subject for f in check(root, near=False).findings if f.code == "mask-stray"]
    assert found == stray


def test_masks_that_are_named_like_no_picture_are_told(place):
    """Label Studio's names are none of a picture's; of others nobody can be sure."""
    studio = "bad/task-1-annotation-2-by-3-tag-dent-0.png"
    root = place(["bad/a.png", "bad/mask_7.png"], [studio, "bad/b_mask.png"])
    dataset = open_dataset(root, test_share=0)
    assert [item.path.name for item in dataset.test] == ["a.png", "b_mask.png", "mask_7.png"]
    found = {f.code: f.subject for f in check(root, near=False).findings}
    assert (found["mask-stray"], found["mask-unpaired"]) == (studio, "bad/b_mask.png")
    (line,) = good_remarks(dataset)
    assert (
        line
        == "count as pictures, but look like masks: bad/b_mask.png; the mask of a.png is a_mask.png [FS-G58]"
    )


def test_a_list_with_masks_is_refused(place):
    root = place(["bad/a.png"], ["bad/a_mask.png"])
    with pytest.raises(InputError, match=r"a_mask\.png is the mask of .*a\.png, no picture: leave masks out"):
        refuse_masks([str(root / "bad/a_mask.png"), root / "bad/a.png", np.zeros((4, 4, 3), np.uint8)])
    refuse_masks([root / "bad/a.png", root / "good/0.png"])


def test_a_mask_that_may_be_of_several_is_of_none(place):
    root = place(["bad/x/1.png", "bad/y/1.png"], ["masks/1.png"])
    dataset = open_dataset(root, test_share=0)
    assert [(item.kind, item.masks) for item in dataset.test] == [("x", ()), ("y", ())]
    assert [f.subject for f in check(root, near=False).findings if f.code == "mask-stray"] == ["masks/1.png"]


def test_files_named_outright_obey_the_rule(place):
    """As a shell expands bad/*.png."""
    root = place(["bad/a.png", "bad/mask_7.png"], ["bad/a_mask.png"])
    every = sorted((root / "bad").iterdir())
    assert [path.name for path in list_pictures(every)] == ["a.png", "mask_7.png"]
    inputs = collect_inputs([*map(str, every)])
    assert [Path(str(path)).name for path in inputs.sources] == ["a.png", "mask_7.png"]
    assert inputs.side_files == [str(root / "bad/a_mask.png")]
    assert list_pictures(root / "bad/a_mask.png") == [root / "bad/a_mask.png"]  # it alone is meant


def test_a_mask_of_a_mask_is_one_and_a_folder_of_images_is_no_kind(place):
    root = place(
        ["bad/mask_7.png", "bad/images/a.png", "bad/dent/images/b.png"],
        ["bad/mask_7_mask.png", "bad/labels/a.png", "bad/dent/labels/b.png", "masks/a.png"],
    )
    items = {item.path.stem: item for item in open_dataset(root, test_share=0).test}
    assert {name: item.kind for name, item in items.items()} == {"a": "bad", "b": "dent", "mask_7": "bad"}
    assert [Path(mask).name for mask in items["mask_7"].masks] == ["mask_7_mask.png"]
    with pytest.raises(InputError, match="a folder of masks"):
        open_dataset(root / "masks")


def test_masks_that_cannot_be_read_are_no_pictures(place):
    root = place(["bad/a.png"], [])
    (root / "bad/a_mask.png").write_bytes(b"")
    (item,) = open_dataset(root, test_share=0).test
    assert item.masks == (root / "bad/a_mask.png",)
    assert {f.code for f in check(root, near=False).findings} >= {"mask-unreadable"}


def test_the_layout_of_a_benchmark_with_masks_beside(mvtec, mask):
    clean = {item.path: len(item.masks) for item in open_dataset(mvtec).test}
    for path in sorted((mvtec / "ground_truth").rglob("*.png")):
        path.rename(mvtec / "test" / path.parent.name / path.name)
    (mvtec / "train/masks").mkdir()
    Image.fromarray(mask * 0).save(mvtec / "train/masks/000.png")
    dataset = open_dataset(mvtec)
    assert {item.path: len(item.masks) for item in dataset.test} == clean
    assert len(dataset.train) == 20
