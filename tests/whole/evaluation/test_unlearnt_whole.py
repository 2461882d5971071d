"""A split that is drawn tests no part that was learnt from."""

import pytest
from PIL import Image

import brightness
from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.evaluation.unlearnt import leave_out_learnt_parts
from near_copy_fits import part

PARTS, TWICE = 20, 8  # parts, of which the first so many are there in two pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """good/IMG_0000.png ...: the pictures of a part lie next to each other by no name."""
    root = tmp_path_factory.mktemp("own") / "part"
    (root / "good").mkdir(parents=True)
    (root / "bad").mkdir()
    shown = [*range(PARTS), *range(TWICE)]
    for number, of in enumerate(shown):
        view = number // PARTS
        Image.fromarray(part(of, view)).save(root / f"good/IMG_{number:04d}.png")
    Image.fromarray(255 - part(100)).save(root / "bad/IMG_9000.png")
    return root


def part_of(item):
    return int(item.path.stem.removeprefix("IMG_")) % PARTS


def test_near_copies_of_what_was_learnt_are_not_tested(folder):
    dataset = open_dataset(folder)
    good = [item for item in dataset.test if not item.anomalous]
    learnt = {*map(part_of, dataset.train)}
    apart = {part_of(item) for item in good} & learnt
    assert apart  # the draw puts pictures of one part on both sides
    model = brightness.model(seen={"train": [item.path for item in dataset.train]})
    hashes = {picture.hash for picture in model.manifest.pictures}
    found = leave_out_learnt_parts(model, dataset, hashes)
    tested = [item for item in found.test if not item.anomalous]
    assert not learnt & {*map(part_of, tested)}
    assert {item.path for item in good} - {item.path for item in tested} == {
        item.path for item in good if part_of(item) in apart
    }
    assert [item for item in found.test if item.anomalous] == [
        item for item in dataset.test if item.anomalous
    ]


def test_the_program_s_own_draw_is_no_fault_of_the_folder(folder, tmp_path):
    report = check(open_dataset(folder))
    assert not {one.code for one in report.findings} & {"nearly-in-two-splits", "in-two-splits"}


def test_an_exact_copy_is_told_once(folder):
    first = Image.open(folder / "good/IMG_0019.png")
    copies = [folder / f"good/IMG_{number}.png" for number in (1000, 1001, 1002, 1003)]
    for path in copies:  # some of them are kept back by the draw
        first.save(path)
    report = check(open_dataset(folder))
    for path in copies:
        path.unlink()
    told = [one for one in report.findings if "good/IMG_0019.png" in (one.subject, *one.others)]
    assert [(one.severity, one.code) for one in told] == [("warning", "copy")]
    assert "the same picture is 5 times in the folder" in told[0].message
    assert not [line for line in report.remarks if "IMG_0019" in line or "IMG_100" in line]
