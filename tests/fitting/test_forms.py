"""Pictures that are no squares: the sizes at which they are seen, and what is said of another form."""

import json
from pathlib import Path

import numpy as np
import pytest

import flawscope
from flawscope.cli import main
from flawscope.fitting.fitting import partial_fit
from flawscope.methods.patchcore.record import Config
from picture_files import save
from small_network import SMALL_FLAGS, SMALL_NETWORK

HEIGHT, WIDTH = 48, 120


def strip(seed, size=(HEIGHT, WIDTH)):
    rng = np.random.default_rng(seed)
    picture = 110 + 40 * np.sin(np.arange(size[1]) / 4) + rng.normal(0, 4, size)
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    named = {f"train/good/{k:02}.png": strip(k) for k in range(20)}
    named |= {f"test/good/{k:02}.png": strip(1000 + k) for k in range(4)}
    return save(tmp_path_factory.mktemp("strips"), named)


@pytest.fixture(scope="module")
def model(data):
    out = data / "strips.safetensors"
    how = ["--size", "64+96", "--device", "cpu", "--quiet", "--no-check", *SMALL_FLAGS]
    assert main(["fit", "--data", str(data), "--out", str(out), *how]) == 0
    return out


def test_the_sizes_have_the_form_of_the_pictures_and_are_stored(model):
    manifest = flawscope.load(model).manifest
    assert (manifest.config["size"], manifest.preprocess.network_size) == ("48x96+64x144", (64, 144))
    assert manifest.facts["picture_sizes"] == [[HEIGHT, WIDTH]]


def test_settings_as_a_whole_and_sizes_of_two_numbers_are_meant_as_they_are(data, model):
    how = {"check": False, "device": "cpu"}
    assert flawscope.fit(str(data), size="64x64", **how, **SMALL_NETWORK).manifest.config["size"] == "64x64"
    settings = Config(size="64+96", **SMALL_NETWORK)  # as of a model that saw strips as squares
    made = flawscope.fit(str(data), settings=settings, **how)
    assert made.manifest.config["size"] == "64+96"
    more = [strip(k, (96, 96)) for k in range(500, 504)]
    extended = partial_fit(model, more, device="cpu", check=False)
    assert extended.manifest.config["size"] == "48x96+64x144"
    assert extended.manifest.facts["picture_sizes"] == [[HEIGHT, WIDTH], [96, 96]]
    assert not extended.predict(strip(600, (96, 96))).findings


def test_another_form_is_not_good_another_size_is_told_and_the_same_is_not(model, tmp_path, capsys):
    sizes = {
        "same": (HEIGHT, WIDTH),
        "nearly": (50, 118),
        "twice": (2 * HEIGHT, 2 * WIDTH),
        "square": (80, 80),
        "turned": (WIDTH, HEIGHT),
        "half": (HEIGHT // 2, WIDTH // 2),
    }
    save(tmp_path, {f"{name}.png": strip(700, size) for name, size in sizes.items()})
    assert main(["predict", str(model), str(tmp_path), "--json", "--device", "cpu", "--quiet"]) == 0
    told, decided = {}, set()
    for one in map(json.loads, capsys.readouterr().out.splitlines()):
        told[Path(one["path"]).stem] = [finding["words"] for finding in one.get("findings", [])]
        if any(finding["decides"] for finding in one.get("findings", [])):
            assert one["decision"] == "anomalous"
            decided.add(Path(one["path"]).stem)
    assert decided == {"square", "turned"}
    learnt = f"({WIDTH} x {HEIGHT})"
    assert told == {
        "same": [],
        "nearly": [],
        "twice": [f"{2 * WIDTH} x {2 * HEIGHT} pixels, another size than learnt from {learnt}"],
        "square": [f"80 x 80 pixels, another form than learnt from {learnt}"],
        "turned": [f"{HEIGHT} x {WIDTH} pixels, another form than learnt from {learnt}"],
        "half": [f"{WIDTH // 2} x {HEIGHT // 2} pixels, another size than learnt from {learnt}"],
    }


def test_tiles_for_a_small_defect_have_the_form_of_the_pictures(data):
    pictures = [strip(k, (600, 1500)) for k in range(3)]
    said = []
    flawscope.fitting.preparation.prepare(
        pictures, flawscope.methods.registry.method("patchcore"), min_defect=16, say=said.append, device="cpu"
    )
    assert "defects of 16 px: --tile 320x816 --set scale=1, which leaves 16 px at the network" in said
