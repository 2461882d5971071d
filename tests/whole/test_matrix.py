"""Options of a fit go with each other, and with all that is done with a model (`matrix.py`)."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import flawscope
import matrix
from flawscope.cli import main
from flawscope.datasets import list_pictures

SETS = matrix.covering()


def exported_sets():
    """An export takes seconds: the sets with pairs of which a file holds more than a network, each once; not
    those of --min-defect, whose network is large, where another has the pair."""
    missing = {*map(frozenset, itertools.combinations(("align", "region", "light", "tile", "joint"), 2))}
    missing |= {frozenset(("several", name)) for name in ("region", "light", "tile")}
    for names in sorted(SETS, key=lambda names: "min-defect" in names):
        met = {pair for pair in missing if pair <= {*names}}
        if met:
            yield names
        missing -= met


EXPORTED = [*exported_sets()]
# and each option that none of these has, by itself
ALONE = {*matrix.OPTIONS}.difference(*EXPORTED)


@pytest.fixture(scope="session")
def data(shared):
    return Path(shared("matrix", matrix.draw_data))


@pytest.fixture
def fit(data, small_backbone, quick_settings, tmp_path):
    def fitted(*names):
        out = tmp_path / "model.safetensors"
        settings = quick_settings if "method" in names else small_backbone
        more = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        assert main(matrix.fit_arguments(names, data, out, *more)) == 0
        return out

    return fitted


def pictures_of(names, data):
    folder = data / ("many-one" if "several" in names else "one") / "test"
    return list_pictures([folder / "good", folder / "spot"])


def answers(model, names, data):
    """Scores of pictures and decisions on them."""
    predictions = flawscope.load(model, device="cpu").predict(pictures_of(names, data))
    assert all(prediction.map.shape == prediction.geometry.size for prediction in predictions)
    return [prediction.score for prediction in predictions], [one.is_anomalous for one in predictions]


def check_export(model, names, data, folder):
    """The exported model gives the answers of the fitted one."""
    deployed = folder / f"model{'.zip' if {'joint', 'each-view'} & {*names} else '.onnx'}"
    # what was learnt from is 0 but for rounding, whose root engines tell apart: others are compared
    others = ["--pictures", str(pictures_of(names, data)[0].parent)] if "min-defect" in names else []
    assert main(["export", str(model), "--out", str(deployed), *others]) == 0
    before, after = answers(model, names, data), answers(deployed, names, data)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4)
    assert after[1] == before[1]


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_options_go_with_each_other(names, fit, data, tmp_path):
    """Every pair that can be, in sets of seven; `python tests/matrix.py A B` tries one of them."""
    model = fit(*names)
    scores, _ = answers(model, names, data)
    assert np.isfinite(scores).all()
    if names in EXPORTED:
        check_export(model, names, data, tmp_path)


@pytest.mark.parametrize("option", matrix.OPTIONS)
def test_a_model_of_each_option_goes_with_each_use(
    option, data, shared, small_backbone, quick_settings, tmp_path, capsys
):
    settings = quick_settings if option == "method" else small_backbone
    model, names = matrix.fitted(option, shared, settings), (option,)
    product = "many-one" if option == "several" else "one"
    products = f"{product},two" if option == "joint" else product
    scores, _ = answers(model, names, data)
    capsys.readouterr()

    main(["predict", str(model), *map(str, pictures_of(names, data)), "--json", "--quiet"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["score"] for line in lines if "path" in line] == pytest.approx(scores)

    where = ["--data", str(data), "--category", products, "--out", str(tmp_path / "evaluation")]
    assert main(["evaluate", str(model), *where]) == 0

    calibrated = tmp_path / "calibrated.safetensors"
    rate = ["--false-alarm-rate", "30%", *(["--product", "one"] if option == "joint" else [])]
    if option != "each-view":
        assert main(["calibrate", str(model), *rate, "--out", str(calibrated)]) == 0
        assert answers(calibrated, names, data)[0] == scores

    if option != "method":  # its network is trained on all pictures at once
        updated = tmp_path / "updated.safetensors"
        more = ["--data", str(data / "more"), "--category", product, "--force", "--no-check", "--quiet"]
        assert main(["fit", "--update", str(model), *more, "--out", str(updated)]) == 0
        before, after = (flawscope.load(path, device="cpu").products for path in (model, updated))
        learnt = [sum(len(of[name].manifest.pictures) for name in before) for of in (before, after)]
        assert learnt[1] > learnt[0]

    if option in ALONE:
        check_export(model, names, data, tmp_path)


@pytest.mark.parametrize("pair", [tuple(sorted(pair)) for pair in matrix.LEFT_OUT], ids="+".join)
def test_a_pair_that_cannot_be_is_refused_in_one_line(pair, data, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert main(matrix.fit_arguments(pair, data, out)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
