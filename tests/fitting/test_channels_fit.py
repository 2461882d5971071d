"""A part under several lights is one picture: its worst view decides, and it is calibrated as a whole."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import flawscope
from flawscope.errors import InputError
from flawscope.export.recalibrate import ExportPictures
from flawscope.fitting.incremental_update import extend
from flawscope.predictor.kinds import Example, learn_kinds

SIDE = 64


def lights(seed, light=None):
    """A part under four lights [H, W, 4], and a spot that one of them shows."""
    rng = np.random.default_rng([5, seed])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    texture = 8 * ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 2)
    drawn = []
    for k in range(4):
        angle = k * np.pi / 2
        shown = 120 + 30 * (np.cos(angle) * x + np.sin(angle) * y) / SIDE + texture * np.cos(angle + 0.3)
        shown = shown + np.where(light == k, 60.0 * (np.hypot(x - 5, y) < 6), 0.0)
        drawn.append(shown + rng.normal(0, 3, shown.shape))
    return np.clip(np.rint(np.stack(drawn, 2)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    good = [lights(k) for k in range(20)]
    return flawscope.fit(good, size="64", channels="all", check=False, group=r"\d+", force=True)


def test_a_defect_under_any_one_light_is_found_where_it_is(model):
    assert len(model.calibration.scores) == 20
    assert model.calibration.promised
    for light in range(4):
        found = model.predict(lights(100 + light, light))
        assert found.is_anomalous
        y, x = np.unravel_index(found.map.argmax(), found.map.shape)
        assert abs(y - SIDE / 2) < 8
        assert abs(x - SIDE / 2 - 5) < 8
    assert found.draw(lights(100)).shape == (SIDE, SIDE, 3)  # the first light
    with pytest.raises(InputError, match="learnt from 4"):
        model.predict(lights(0)[:, :, :3])


def test_whoever_uses_the_model_reads_all_channels(model):
    spots = [Example(lights(400 + k, k % 4), "spot") for k in range(4)]
    learnt = learn_kinds(model, spots)
    assert (learnt.failures, learnt.model.manifest.kinds.counts) == ([], (4,))
    more = [lights(600 + k) for k in range(3)]
    extended = extend(model, more, check=False, force=True)
    assert len(extended.manifest.pictures) == len(model.manifest.pictures) + 3
    assert len(ExportPictures(model.artefact, more).probe_images())


def test_commands_read_all_channels(model, tmp_path, monkeypatch, run, answer):
    monkeypatch.chdir(tmp_path)
    model.save("m.safetensors")
    shape = {"shape_type": "rectangle", "label": "", "points": [[25, 20], [50, 45]]}
    labels = {"imagePath": "", "imageHeight": SIDE, "imageWidth": SIDE, "shapes": [shape]}
    for folder, seeds, light in (("good", range(900, 903), None), ("bad/spot", range(400, 404), 1)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for seed in seeds:
            np.save(f"set/{folder}/p{seed}.npy", lights(seed, light))
            if light is not None:
                (tmp_path / f"set/bad/spot/p{seed}.json").write_text(json.dumps(labels))
    pages = [Image.fromarray(page) for page in np.moveaxis(lights(950), 2, 0)]
    pages[0].save("pages.tif", save_all=True, append_images=pages[1:])
    code, _, said = run("predict", "m.safetensors", "pages.tif")
    assert (code, "the first of each is taken" in said) == (0, False)  # all are seen
    answer("kinds", "m.safetensors", "--data", "set", "--out", "named.safetensors", said="spot (4)")
    answer("evaluate", "m.safetensors", "--data", "set", "--robustness", code=2, said="no light to change")
    answer("predict", "named.safetensors", "set", "--out", "trial", "--quiet")
    study = ("agreement", "trial", "--reference", "set", "--model", "m.safetensors", "--json")
    assert json.loads(answer(*study))["defective"] == 4
