"""What the student and the autoencoder see: other colours, pictures of other things, simulated defects."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from flawscope.errors import InputError
from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.training.efficientad.record import RECEPTIVE_FIELD, STRIDE
from flawscope.methods.training.efficientad.training_pictures import (
    MIDDLE_SIDE,
    DefectSimulator,
    GeneratedPictures,
    NaturalPictures,
    natural_pictures,
    outputs_seeing,
    recolour,
)
from flawscope.progress import ignore_progress


@pytest.mark.parametrize(("kind", "enhance"), [(0, "Brightness"), (1, "Contrast"), (2, "Color")])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_recoloured_as_pillow_does_it(shots, kind, enhance, factor):
    for image in (shots[0], torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(1))):
        eight = torch.round(image * 255)
        picture = Image.fromarray(eight.byte().permute(1, 2, 0).numpy())
        expected = np.asarray(getattr(ImageEnhance, enhance)(picture).enhance(factor)).astype(float)
        found = recolour(eight / 255, kind, factor).permute(1, 2, 0).numpy() * 255
        assert np.abs(found - expected).max() < 2
        assert np.abs(found - eight.permute(1, 2, 0).numpy()).max() < 1e-3 if factor == 1 else True


@pytest.mark.parametrize("side", [(41, 53), (285, 285), (600, 41)])
def test_photographs_are_cut_at_512_pixels(tmp_path, side):
    """A ramp says how large the part is: 512 pixels across all of it, or more where the window is larger."""
    ramp = np.zeros((64, 256, 3), np.uint8)
    ramp[:, :, 0] = np.arange(256)
    ramp[:, :, 1] = 4 * np.arange(64)[:, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    natural = NaturalPictures(tmp_path)
    rng, colourless, large = np.random.default_rng(0), 0, max(512, *side)
    lefts = set()
    for _ in range(40):
        part = natural.draw(side, rng)
        assert part.shape == (*side, 3)
        if (part[..., 0] == part[..., 1]).all():
            colourless += 1
            continue
        row, column = part[side[0] // 2, :, 0].astype(int), part[:, side[1] // 2, 1].astype(int)
        assert row[-1] - row[0] == pytest.approx(256 * side[1] / large, abs=4)
        assert column[-1] - column[0] == pytest.approx(256 * side[0] / large, abs=12)
        lefts.add(int(row[0]))
    assert 4 <= colourless <= 20  # 12 of 40 expected
    assert len(lefts) > 10 or side[1] == large


def test_a_folder_of_photographs_is_named_and_what_cannot_be_read_is_passed_over(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(np.full((20, 30 + k, 3), 40 * k, np.uint8)).save(folder / f"{k}.png")
    found = natural_pictures(str(folder))
    assert isinstance(found, NaturalPictures)
    assert found.name.startswith("3 pictures of folder photographs (")
    assert str(tmp_path) not in found.name
    (folder / "2.png").unlink()
    assert natural_pictures(str(folder)).name != found.name
    assert natural_pictures("none") is None
    assert isinstance(natural_pictures("generated"), GeneratedPictures)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:4000])  # its header is whole
    cut = NaturalPictures(folder)
    assert all(cut.draw((41, 41), np.random.default_rng(k)).shape == (41, 41, 3) for k in range(8))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "broken.png").write_bytes(b"no picture")
    for wrong in (empty, tmp_path / "nowhere"):
        with pytest.raises(InputError):
            natural_pictures(str(wrong))


@pytest.mark.parametrize("border", [0, 8])
def test_an_output_is_on_a_defect_that_it_sees(border):
    rng = np.random.default_rng(border)
    defects = torch.from_numpy(rng.random((61, 73)) < 0.0006)
    found = outputs_seeing(defects, border)
    seen = np.pad(defects.numpy(), border, mode="reflect")
    edge = (RECEPTIVE_FIELD - MIDDLE_SIDE) // 2
    for (i, j), anywhere in np.ndenumerate(found.anywhere.numpy()):
        field = seen[STRIDE * i :, STRIDE * j :][:RECEPTIVE_FIELD, :RECEPTIVE_FIELD]
        assert field.shape == (RECEPTIVE_FIELD, RECEPTIVE_FIELD)
        assert anywhere == field.any()
        assert bool(found.within[i, j]) == field[edge:-edge, edge:-edge].any()
    assert found.anywhere.any()
    assert not found.anywhere.all()


def test_defects_lie_where_anything_counts_and_nothing_else_changes(shots):
    """Also in a padded picture of 16 bits."""
    image = shots[0] * 0.9987
    image[:, :, :40] = -1 - image[:, :, :40]
    region = np.zeros((256, 256), np.bool_)
    region[:128] = True
    images = GoodPictures([image].__getitem__, 1, 2**30)
    spoiler = DefectSimulator(images, images.read(ignore_progress), region, 2)
    places = np.zeros((256, 256), int)
    for k in range(12):
        spoilt, mask = spoiler(0, np.random.default_rng(k))
        again = spoiler(0, np.random.default_rng(k))[0]
        plain = torch.where(image < 0, -1 - image, image)
        assert torch.equal(spoilt, again)
        assert torch.equal(spoilt[:, ~mask], plain[:, ~mask])
        assert bool((spoilt != plain).any(0)[mask].all())
        places += mask.numpy()
    assert places[:128, 40:].any()
    assert not places[128:].any()
    assert not places[:, :40].any()
