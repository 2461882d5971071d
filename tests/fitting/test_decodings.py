"""How often files are decoded: once, or where there is no memory once more for the pixels learnt from."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from flawscope.fitting.fitting import fit
from flawscope.pictures import decoded as decoded_pictures
from flawscope.pictures import decoding
from small_fits import parts, sparse_banks  # noqa: F401
from small_network import SMALL_NETWORK

QUICK = {**SMALL_NETWORK, "size": "64", "samples": 0, "check": False, "device": "cpu", "force": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Good pictures, two thirds of them to learn from: of fewer, turned copies are read too."""
    folder = tmp_path_factory.mktemp("files")
    for k, one in enumerate(parts(18)):
        Image.fromarray(one).save(folder / f"{k:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def decoded(monkeypatch):
    counted, open_file = Counter(), decoding.open_upright_deep

    def counting(source, name):
        counted[source] += 1
        return open_file(source, name)

    monkeypatch.setattr(decoding, "open_upright_deep", counting)
    return counted


@pytest.mark.parametrize("how", [{}, {"align": "shift"}, {"align": "auto"}, {"light": "10%"}])
def test_a_fit_decodes_a_picture_once(how, files, decoded):
    fit(files[:12], **QUICK, **how)
    assert set(decoded.values()) == {1}


def test_deep_pictures_whose_levels_are_surveyed_are_decoded_once(files, decoded, tmp_path):
    for file in files[:12]:
        with Image.open(file) as picture:
            deep = np.asarray(picture.convert("L")).astype(np.uint16) * 16
        Image.fromarray(deep).save(tmp_path / file.name)
    fit(sorted(tmp_path.iterdir()), **QUICK)
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("align", ["none", "shift", "auto"])
def test_a_fit_decodes_pictures_beyond_its_memory_twice_however_parts_lie(align, files, decoded, monkeypatch):
    room = 5 * 96 * 96 * 3
    monkeypatch.setattr(decoded_pictures, "KEPT_BYTES", room)
    fit(files[:12], **QUICK, align=align)
    assert sorted(decoded.values()) == [1] * 5 + [2] * 7


def test_new_pictures_in_every_light_are_decoded_once(files, decoded):
    model = fit(files[:12], **QUICK, light="10%")
    model.calibrate([*files[12:]], force=True)
    assert set(decoded.values()) == {1}
