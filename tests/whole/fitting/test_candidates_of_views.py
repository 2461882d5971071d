"""A candidate of an exported model of views is exported, too, from the trained models that it names."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.fitting import make_candidate
from flawscope.runtime import read_facts
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK

SURFACES = {"side": "fabric", "top": "plate"}


def drawn(view, number, stained=False):
    picture = np.array(draw_picture(SURFACES[view], np.random.default_rng(number), size=64)[0])
    if stained:
        picture[20:36, 20:36] = (250, 30, 30)
    return picture


@pytest.mark.parametrize("suffix", [".zip", ".safetensors"])
def test_the_candidate_is_of_the_kind_of_the_version_in_use(suffix, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for number in range(20):
        for view in SURFACES:
            Image.fromarray(drawn(view, number)).save(good / f"p{number}_{view}.png")
    how: dict[str, Any] = {"part": r"p\d+", "size": 64, "cap": 60, "device": "cpu", "check": False}
    trained = tmp_path / "views.safetensors"
    flawscope.fit(good, **how, **SMALL_NETWORK).save(trained)
    active = trained.with_suffix(suffix)
    if active != trained:
        assert main(["export", str(trained), "--out", str(active), "--quiet"]) == 0
    path = tmp_path / "1.png"
    Image.fromarray(drawn("top", 501, stained=True)).save(path)
    picture = {"number": 1, "source": str(path), "good": True, "name": "cam.png", "view": "top"}
    job: dict[str, Any] = {"how": "", "good": None, "engine": None, "device": "cpu", "threads": 1}
    job["pictures"] = [{**picture, "learn": True, "sure": True}]
    out = tmp_path / f"next{suffix}"
    judgement = make_candidate(str(active), str(trained), str(out), **job)
    assert (judgement.how, judgement.learnt, judgement.good.count) == ("extended", [1], 1)
    before, after = read_facts(active), read_facts(out)
    counts = {view: len(after.manifests[view].pictures) - 20 for view in SURFACES}
    assert counts == {"side": 0, "top": 1}
    assert {view: len(before.manifests[view].pictures) for view in SURFACES} == {"side": 20, "top": 20}
    part = {view: drawn(view, 600) for view in SURFACES}
    found = flawscope.load(out, device="cpu").predict_part(part)
    assert {*found.views} == {*SURFACES}
    alone = tmp_path / "alone.safetensors"
    flawscope.load(trained, device="cpu").products["top"].save(alone)
    with pytest.raises(InputError, match="the trained model has other views"):
        make_candidate(str(active), str(alone), str(out), **job)
