"""Options of `fit` in its YAML file, for each category by itself."""

import argparse
import re

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import fit, fit_one, fit_options, fit_several
from flawscope.errors import InputError
from flawscope.predictor import read_manifest

BARE = ["--data", "pictures", "--out", "m.safetensors"]


def call(words, text, tmp_path, category=None):
    """The call with the options of a file of this text."""
    config = tmp_path / "c.yaml"
    config.write_text(text, encoding="utf-8")
    parser = argparse.ArgumentParser()
    fit.add_arguments(parser)
    return fit_options.with_file(parser.parse_args([*BARE, *words, "--config", str(config)]), category)


def test_each_category_has_options_of_its_own_and_the_command_line_wins(tmp_path):
    text = """
align: shift
false_alarm_rate: 10%
roi: [0.1, 0.1, 0.9, 0.9]
no_check: true
size: 64
categories:
  screw: {align: turn, several: true, light: 10%, min_defect: 8px}
  nut: {align: null, group: 'p\\d', scale_mm: 0.05}
"""
    screw, nut, other = (call([], text, tmp_path, name) for name in ("screw", "nut", "plate"))
    assert (screw.align, screw.several, screw.light, screw.min_defect) == ("turn", True, "10%", "8px")
    assert (screw.false_alarm_rate, screw.roi, screw.no_check) == (0.1, "0.1,0.1,0.9,0.9", True)
    assert (nut.align, nut.several, nut.group, nut.scale_mm) == (None, False, r"p\d", 0.05)
    assert (other.align, other.light, other.size) == ("shift", None, None)  # settings are read elsewhere
    typed = call(["--align", "none", "--false-alarm-rate", "0.02"], text, tmp_path, "screw")
    assert (typed.align, typed.false_alarm_rate, typed.several) == ("none", 0.02, True)
    # what all have is no option that was typed: a category's own wins
    assert fit_options.with_file(call([], text, tmp_path), "screw").align == "turn"


def test_what_is_of_the_whole_call_stands_in_the_file_too(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "{out: of_file.safetensors, evaluate: true, joint: false, align: turn}", encoding="utf-8"
    )
    parser = argparse.ArgumentParser()
    fit.add_arguments(parser)

    def called(*words):
        given = parser.parse_args(["--data", "pictures", *words])
        return fit_options.with_file(fit_options.with_call_of_file(given), None)

    found = called("--config", str(config))
    assert (found.out, found.evaluate) == ("of_file.safetensors", True)
    assert (found.joint, found.align) == (False, "turn")
    assert called("--config", str(config), "--out", "m.safetensors").out == "m.safetensors"
    with pytest.raises(InputError, match="give --out"):
        called()


def test_a_template_in_the_file_tells_parts_and_views(tmp_path):
    found = call([], "channels: '{part}_{light}.png'", tmp_path)
    assert (found.channels, bool(found.part), bool(found.view)) == (None, True, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alignn: turn", "unknown setting alignn; did you mean align"),
        ("align: sideways", "align: sideways is none of none, shift, turn, full, auto"),
        ("several: 3", "several: 3 is not true or false"),
        ("false_alarm_rate: 20", "false_alarm_rate: '20' is not a rate"),
        ("align: {kind: turn}", "is no value of --align"),
        ("each_view: true", "each_view is for the command line: write --each-view"),
        ("categories: {screw: {out: a.safetensors}}", "out is of the whole call: write it above categories"),
        ("'@secret': 1", "unknown setting an address"),
    ],
)
def test_a_wrong_name_or_value_is_one_line(text, message, tmp_path):
    with pytest.raises(InputError) as error:
        call([], text, tmp_path, "screw" if "screw" in text else None)
    assert message in str(error.value)
    assert "c.yaml" in str(error.value)


def test_an_option_is_no_setting(tmp_path):
    with pytest.raises(InputError, match="--set align: it is an option; write --align instead"):
        call(["--set", "align=turn"], "size: 64", tmp_path)


def test_options_are_named_as_they_were_given(answer, drawn, model_path, tmp_path):
    config, call = tmp_path / "c.yaml", ["fit", "--data", drawn, "--out", tmp_path / "m.safetensors"]
    config.write_text("categories: {plate: {several: true}}", encoding="utf-8")
    answer(*call, "--config", config, code=2, said=f"several of {config} needs --align")
    answer(*call, "--several", code=2, said="--several needs --align")
    config.write_text("keep_aspect: true\nlight: 10%", encoding="utf-8")
    said = f"leave out keep_aspect of {config}, --roi, light of {config}"
    answer(*call, "--update", model_path, "--config", config, "--roi", "0,0,1,1", code=2, said=said)


def test_one_call_fits_products_with_different_options(answer, two_products, tmp_path):
    config, out = tmp_path / "c.yaml", tmp_path / "m"
    config.write_text(
        "size: 64\nno_check: true\ncategories:\n  plate: {align: shift, false_alarm_rate: 20%}\n",
        encoding="utf-8",
    )
    call = ["fit", "--data", two_products, "--category", "fabric,plate", "--config", config]
    answer(*call, "--out", out, said="fabric: 1 of 2")  # told before the first is done
    fabric, plate = (read_manifest(out / f"{name}.safetensors") for name in ("fabric", "plate"))
    assert (fabric.calibration.rate, plate.calibration.rate) == (0.05, 0.2)
    assert fabric.preprocess.reference is None
    assert plate.preprocess.reference is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "banana"], "--size: 'banana' is not N"),
        (["--set", "scale=0.5"], "scale is for tiles"),
        (["--set", "size=banana"], "setting size: 'banana' is not N"),
        (["--size", "64", "--set", "ratio=x"], "setting ratio"),
        (["--set", "preset=smallest"], "no preset smallest: choose one of default, small, accurate, paper"),
        (["--set", "augment=mirrors"], "setting augment: 'mirrors' is not one of none, turn, mirror"),
        (["--set", "seed="], "setting seed: no value is not a whole number"),
    ],
)
def test_errors_name_the_flag_that_was_typed(words, said, tmp_path):
    with pytest.raises(InputError, match=re.escape(said)):
        fit_one.read_fit_settings(call(["--data", str(tmp_path), *words], "{}", tmp_path))


def test_a_line_without_a_value_is_the_default(tmp_path):
    args = call(["--data", str(tmp_path)], "preset:\nmethod:\nseen:\ntile:", tmp_path)
    found = fit_one.read_fit_settings(args)
    assert (found.method, found.preset, found.seen, found.settings) == (
        "patchcore",
        "default",
        0,
        {"tile": None},
    )


def test_the_memory_of_a_fit_is_that_of_the_pictures_it_learns_from(tmp_path, monkeypatch):
    """A node of a cluster has room for the fit as it was asked for, not for another."""
    for folder, count in (("regular", 3), ("other", 5)):
        for k in range(count):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), k, np.uint8)).save(tmp_path / folder / f"{k}.png")
    words = ["--data", str(tmp_path), "--good", "regular", "--channels", "all"]
    words += ["--scale-mm", "0.1", "--force", "--align", "turn"]
    asked = fit_several._peak_arguments(call(words, "size: 64", tmp_path))
    seen = {"channels": "all", "scale_mm": 0.1, "force": True, "align": "turn"}
    assert asked.items() >= {"size": "64", **seen}.items()
    found = {}
    predicted = "flawscope.fitting.preparation.predict_peak_memory"
    monkeypatch.setattr(predicted, lambda images, **given: found.update(given, images=images))
    fit_one.predict_memory(asked)
    assert {item.path.parent.name for item in found.pop("images").train} == {"regular"}
    assert found.items() >= seen.items()
