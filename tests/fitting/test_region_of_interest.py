"""A region of interest has the shape of the pictures, and the picture that it names is found."""

import shutil
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.fitting.region import check_region
from small_network import SMALL_NETWORK

QUICK = {"size": 32, "check": False, "samples": 0, "device": "cpu", **SMALL_NETWORK}
BOX = "0.1,0.1,0.9,0.9"


@pytest.fixture
def folder(drawn, tmp_path):
    """good/000.png ..., 96 x 72."""
    root = tmp_path / "part"
    (root / "good").mkdir(parents=True)
    for path in sorted((drawn / "plate/train/good").glob("*.png")):
        Image.open(path).crop((0, 0, 96, 72)).save(root / "good" / path.name)
    return root


@pytest.fixture
def call(folder, tmp_path, run):
    """`call(roi)`: exit code and stderr of a fit with this region."""
    words = ("fit", "--data", folder, "--size", 32, "--out", tmp_path / "m.safetensors", "--align", "shift")
    return lambda roi: run(*words, "--force", "--roi", roi)[::2]


def test_the_picture_is_named_as_data_check_prints_it(folder, call, monkeypatch):
    path = folder / "good/003.png"
    for named in ("003.png", "good/003.png", str(path)):
        sources = sorted((folder / "good").glob("*.png"))
        check_region(f"{BOX}@{named}", sources, [one.name for one in sources], [(72, 96)] * len(sources))
    begun = Mock(side_effect=InputError("the work began: well"))
    monkeypatch.setattr("flawscope.fitting.preparation.look_first", begun)
    assert "the work began" in call(f"{BOX}@good/003.png")[1]


@pytest.mark.parametrize("named", ["good/909.png", "bad/000.png", "00.png"])
def test_a_wrong_name_is_told_before_the_pictures_are_compared(call, named, monkeypatch):
    monkeypatch.setattr("flawscope.fitting.preparation.look_first", lambda *_: pytest.fail("the work began"))
    code, said = call(f"{BOX}@{named}")
    assert (code, f"there is no picture {named}" in said) == (2, True)


@pytest.mark.parametrize("size", [(256, 256), (96, 96), (72, 96), (320, 100)])  # width, height
def test_a_mask_of_another_shape_is_refused_before_the_work(folder, tmp_path, call, size, monkeypatch):
    monkeypatch.setattr("flawscope.fitting.preparation.look_first", lambda *_: pytest.fail("the work began"))
    mask = tmp_path / "roi.png"
    shape = size[::-1]
    upper = np.zeros(shape, np.uint8)
    upper[:40] = 255
    Image.fromarray(upper).save(mask)
    code, said = call(mask)
    assert code == 2
    assert f"{size[0]} x {size[1]} pixels, and pictures have 96 x 72" in said
    assert ("not as it is stored" in said) == (size == (72, 96))
    for roi in (np.ones(shape, bool), f"0,0,{size[0]},{size[1]}@{size[0]}x{size[1]}"):
        with pytest.raises(InputError, match="draw it on a picture"):
            fit(folder, roi=roi, **QUICK)


@pytest.mark.parametrize("spec", ["0.2,0.2,0.8", "0,2;0,2;0,8;0,9", "10,10,40", "0.1 0.2 0.8 0.9"])
def test_numbers_that_are_no_box_are_told_how_to_write_one(spec):
    with pytest.raises(
        InputError, match="give four numbers with points and commas between them, x0,y0,x1,y1"
    ):
        check_region(spec, ["a"], ["a"], [(72, 96)])


def test_a_box_in_pixels_is_of_the_pictures(folder):
    in_pixels, said = fit(folder, roi="0,0,48,36", **QUICK), []
    in_shares = fit(folder, roi="0,0,0.5,0.5", say=said.append, **QUICK)
    region = in_shares.artefact.tensors["roi"]
    np.testing.assert_array_equal(in_pixels.artefact.tensors["roi"], region)
    with pytest.raises(InputError, match="is empty or leaves the picture"):
        fit(folder, roi="0,0,97,36", **QUICK)


@pytest.mark.parametrize("light", ["200%", "0", "ten"])
def test_a_range_of_light_that_is_none_is_told(folder, light):
    with pytest.raises(InputError, match=r"light '.*' is no range of light: .* up to 30%, such as 10%"):
        fit(folder, light=light, **QUICK)


def test_stored_pixels_of_turned_pictures_are_no_region(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (folder / "good").glob("*.png"):
        Image.open(path).save(path, exif=exif)
    with pytest.raises(InputError, match="not as it is stored"):
        fit(folder, roi=np.ones((72, 96), bool), **QUICK)
    check_region(np.ones((96, 72), bool), ["a"], ["a"], [(96, 72)])


def test_a_mask_of_the_same_shape_may_be_smaller(folder, tmp_path):
    half = np.zeros((36, 48), bool)
    half[:, :24] = True
    found = fit(folder, roi=half, **QUICK)
    assert found.artefact.tensors["roi"][:, :15].all()
    assert not found.artefact.tensors["roi"][:, 17:].any()


def test_pictures_of_one_name_are_told_apart(folder):
    shutil.copytree(folder, folder / "second")
    sources = [folder / "good/000.png", folder / "second/good/000.png"]
    with pytest.raises(InputError, match="names 2 pictures"):
        check_region(f"{BOX}@good/000.png", sources, ["a", "b"], [(72, 96)] * 2)


def test_fit_says_how_threads_are_set(folder):
    with pytest.raises(InputError, match="set_num_threads"):
        fit(folder, threads=1, **QUICK)
