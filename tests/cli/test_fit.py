"""`fit`: where settings come from, what it says, pictures that are added, and several categories."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fit_helpers import categories, fits_fixture, root_fixture  # noqa: F401
from flawscope.artefact.model_file import read_manifest
from flawscope.calibration.outliers import ALONE, APART, HIGH, SUSPECTS
from flawscope.cli.fit import lacking, learnt_by_default, next_steps, summary
from flawscope.datasets.dataset import group_warning
from flawscope.datasets.layouts import names_several, present_categories
from flawscope.errors import InputError
from flawscope.methods import registry


def test_lines_of_a_fit_need_no_explanation(model_path):
    """Whether good pictures that stand out were learnt from; the next steps name no package."""
    manifest = read_manifest(model_path)
    listed = [("a.png", 9.0, HIGH), ("b.png", 8.0, ALONE), ("c.png", None, APART)]
    model = SimpleNamespace(manifest=replace(manifest, facts={**manifest.facts, SUSPECTS: listed}))
    lines = summary(model)
    # an update tells before what is found, beside what was found before
    assert summary(model, updated=True) == [one for one in lines if "simulated defects" not in one] != lines
    assert lines[-5:] == [
        "look whether these are good (3 pictures) [FS-G19], most suspicious first:",
        "  a.png  score 9  stands out by its score",
        "  b.png  score 8  decides alone, or with few, from when on a picture is called anomalous",
        "  c.png  lies apart from the others",
        "--drop-suspects leaves out what stands out by its score",
    ]
    args = SimpleNamespace(category=None, data="parts", good="gut", has_test=True, evaluate=False)
    assert next_steps(args, model_path)[0] == "go on with:"  # "next:" begins an advice
    assert not any("torch" in line for line in next_steps(args, model_path))
    args.evaluate = True
    assert next_steps(args, model_path)[2].endswith("shows what was measured, with pictures")
    assert " --data parts --good gut --out results" in next_steps(args, model_path)[2]  # asks nothing again
    args.has_test = False
    assert " --data GOOD_AND_BAD --out results" in next_steps(args, model_path)[2]


def test_pictures_of_the_default_alone_are_told_to_the_advice(model_path):
    """`accurate` and other methods are not advised what they are or have not; nor many pictures."""
    known = read_manifest(model_path)
    rows = [one for one in known.pictures if one.role == "train"]
    manifest = replace(known, pictures=tuple(rows[:1] * registry.FEW))
    args = SimpleNamespace(preset=None, update=None)
    assert learnt_by_default(args, replace(manifest, pictures=(*manifest.pictures, rows[0]))) == 0
    for preset, update, method, expected in (
        (None, None, "patchcore", registry.FEW),
        ("default", None, "patchcore", registry.FEW),
        ("accurate", None, "patchcore", 0),
        (None, "m.safetensors", "patchcore", 0),
        (None, None, "efficientad", 0),
    ):
        args = SimpleNamespace(preset=preset, update=update)
        assert learnt_by_default(args, replace(manifest, method=method)) == expected


def test_what_a_rate_lacks_is_said_in_units_and_an_update_adds_a_fair_sample_alone(model_path):
    known = read_manifest(model_path)
    wanting = replace(known, calibration=known.calibration.with_rate(0.001))
    count = wanting.calibration.pictures_missing
    assert lacking(replace(known, calibration=known.calibration.with_rate(0.5)), False) == ""
    assert lacking(wanting, False) == f"{count} more good pictures"
    assert lacking(wanting, True) == f"{count} more good pictures that nobody chose, by --update and --fair"


# ------------------------------------------ several categories; instead of fitting, the shared model is taken


def test_a_failure_does_not_stop_the_other_categories_and_each_has_settings_of_its_own(
    root, fits, tmp_path, run
):
    out, config = tmp_path / "new/models", tmp_path / "c.yaml"
    config.write_text("size: 64\ncategories:\n  plate: {size: 96}\n", encoding="utf-8")
    code, _, err = run("fit", "--data", root, "--category", "all", "--out", out, "--config", config)
    assert code == 1
    assert categories(fits) == ["carpet", "bottle", "plate"]  # in the tables' order
    assert [call["size"] for call in fits] == ["64", "64", "96"]
    assert [call["checkpoint"].name.split(".")[0] for call in fits] == categories(fits)
    assert sorted(os.listdir(out)) == ["bottle.safetensors", "plate.safetensors"]
    assert "carpet: failed: the carpet is worn" in err.splitlines()
    table = [" ".join(line.split()[:2]) for line in err.splitlines()[-3:]]
    assert table == ["carpet failed", "bottle bottle.safetensors", "plate plate.safetensors"]


def test_groups_and_names_choose_and_a_category_of_that_name_is_meant_alone(root):
    for asked, found in (
        ("objects", ("bottle",)),
        ("plate,bottle", ("bottle", "plate")),
        ("objects,plate", ("bottle", "plate")),
    ):
        assert names_several(root, asked)
        assert present_categories(root, asked, "--category") == found
    for wrong, text in (("textures,none", "no category none; known: bottle"), (",", "--category is empty")):
        with pytest.raises(InputError, match=text):
            present_categories(root, wrong, "--category")
    (root / "plate").rename(root / "objects")
    assert not names_several(root, "objects")
    assert not names_several(root, "bottle")
    assert names_several(root, "textures")
    assert present_categories(root, "all", "--category") == ("carpet", "bottle", "objects")


def test_a_pattern_that_says_nothing_is_told():
    paths = [Path(name) for name in ("part1_top.png", "part1_side.png", "part2_top.png")]
    assert group_warning(paths, None) == group_warning(paths, r"part\d") == ""
    assert group_warning(paths, r"png").startswith("--group 'png' matches the same text in all names")
    assert group_warning(paths, r".*").startswith("--group '.*' matches another text in each name")
    some = group_warning(paths, r"part1")
    assert some.startswith("--group 'part1' matches 2 of 3 names, and nothing in part2_top.png: ")
