"""A model that is made from another keeps every option that its decision depends on."""

import itertools

import numpy as np
import pytest
from PIL import Image

from flawscope.artefact import model_file
from flawscope.artefact.parts import part_calibration, stored_part_pattern
from flawscope.errors import InputError
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.fitting.incremental_update import extend, open_fitted_dataset, update
from flawscope.fitting.stored_options import refit_options, stored_settings, stored_values
from flawscope.fitting.update_evaluation import ReviewedPicture
from flawscope.methods import registry
from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.record import SETTING
from flawscope.methods.options.table import FIT_OPTIONS
from flawscope.pictures.channels import Channels
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.views.light import Light, light_variations
from matrix import draw as part
from picture_files import save
from small_network import SMALL_NETWORK

QUICK = {"device": "cpu", "check": False}
# For each option of a fit a value that is not its default, as a person gives it
CASES = {
    "false_alarm_rate": {"false_alarm_rate": "20%"},
    "roi": {"roi": "0.3,0.4,0.6,0.7"},  # less than the frame of an aligned part
    "light": {"light": "10%"},
    "align": {"align": "shift"},
    "several": {"several": True, "align": "turn"},
    "channels": {"channels": Channels(3, ((0, 1, 2), (1,)))},
    "group": {"group": r"^p\d+"},
    "part": {"part": r"p\d+"},
    "view": {"part": r"p\d+", "view": "top|side"},
    "min_defect": {"min_defect": "1px"},
    "drop_suspects": {"drop_suspects": True},
    "force": {"force": True},
    "scale_mm": {"scale_mm": 0.05},
    "samples": {"samples": 1},
    "looks": {"looks": False},
}
# Settings of the method: of each kind
SETTINGS = {
    "keep_aspect": {"keep_aspect": True},
    "crop": {"crop": (49, 48)},
    "tile": {"tile": (48, 48)},
    "size": {"size": "48+64"},
    "cap": {"cap": 500},
    "ratio": {"ratio": 0.5},
    "seed": {"seed": 3},
}
# Of the data set: a folder of one product has no name of its own
OF_THE_DATA = {"category"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`good` with 8 parts in two views, and `several` with pictures of two parts."""
    named = {
        f"{name}/train/good/p{seed:02d}_{view}.png": part(seed, view, name == "several")
        for name, views in (("good", ("top", "side")), ("several", ("top",)))
        for seed, view in itertools.product(range(8), views)
    }
    return save(tmp_path_factory.mktemp("options"), named)


def options_of(names):
    return {key: value for name in names for key, value in (CASES | SETTINGS)[name].items()}


def data_of(folder, options):
    return folder / ("several" if options.get("several") else "good")


def stored_options(artefact):
    found = {}
    for arguments in ARGUMENTS:
        found |= stored_values(artefact, arguments)
    return found


def decisive(artefact):
    """All that two models of the same options have in common, as values that can be compared."""
    manifest = artefact.manifest
    how = manifest.preprocess
    options = stored_options(artefact)
    region = getattr(options["roi"], "mask", options["roi"])  # of aligned parts its reference stands beside
    options["roi"] = None if region is None else region.tolist()
    of_method = registry.method(manifest.method).parse_stored(manifest.config)
    return {
        **options,
        "config": of_method,
        "samples": len(manifest.samples),
        "tiles": (how.size, how.crop, how.keep_aspect, how.tile, how.overlap),
        "several": how.several is not None,
        "region": None if "region" not in artefact.tensors else artefact.tensors["region"].tolist(),
        "counted": artefact.tensors["roi"].tolist(),
        "in_light": "light" in manifest.calibration.method,
        "promise": manifest.calibration.expected_rate,
    }


def fitted(folder, options):
    size = {} if "min_defect" in options else {"size": "64"}
    return fit(data_of(folder, options), **size | SMALL_NETWORK | QUICK | options)


@pytest.fixture(scope="module")
def plain(folder):
    """What a model of no options has."""
    return decisive(fitted(folder, {}).artefact)


def test_every_option_of_a_fit_is_tried_here():
    """A further one that a model stores is not accepted without being fitted, read back and trained anew."""
    stored = {one.argument for one in FIT_OPTIONS if one.is_stored and one.role != SETTING}
    assert stored == {*CASES} | OF_THE_DATA
    assert {one.name for one in FIT_OPTIONS if one.role == SETTING and one.changes_input} <= {*SETTINGS}
    assert sorted(name for names in TOGETHER for name in names) == sorted([*CASES, *SETTINGS])


# Those that go together share a model: each changes a field of its own
TOGETHER = [
    ("several", "seed", "samples", "false_alarm_rate"),
    ("align", "roi", "light", "force"),
    ("part", "view", "channels", "ratio"),
    ("scale_mm", "group", "size", "cap"),
    ("min_defect",),
    ("drop_suspects", "keep_aspect", "crop", "looks"),
    ("tile",),
]


@pytest.mark.parametrize("names", TOGETHER, ids=" ".join)
def test_a_training_anew_keeps_each_option(names, folder, plain, tmp_path):
    options = options_of(names)
    model = fitted(folder, options)
    model.save(tmp_path / "model.safetensors")
    old = model_file.read(tmp_path / "model.safetensors")
    kept = decisive(old)
    for key in ("tiles" if key == "min_defect" else key for key in options):
        one, other = ({**vars(found["config"]), **found}[key] for found in (kept, plain))
        assert one != other, f"{key} changes something that is compared"
    if "several" not in options:  # such models cannot be extended
        extended = decisive(partial_fit(old, [part(300)], names=["p300_top.png"], **QUICK).artefact)
        assert extended | {"promise": kept["promise"]} == kept
    again = fit(open_fitted_dataset(data_of(folder, options), old), check=False, **refit_options(old))
    found = decisive(again.artefact)
    assert found == kept
    np.testing.assert_array_equal(again.calibration.scores, model.calibration.scores)


@pytest.mark.parametrize(
    "names", [("roi", "light", "group"), ("align", "false_alarm_rate"), ("tile",)], ids=" ".join
)
def test_the_next_model_keeps_each_option_in_whatever_way_it_is_made(names, folder):
    options = options_of(names)
    model = fitted(folder, options)
    kept = stored_options(model.artefact)
    new, pictures = [part(100 + k) for k in range(3)], []
    for k, picture in enumerate(new):  # a training reads files
        path = folder / f"line{k}.png"
        Image.fromarray(picture).save(path)
        pictures.append(ReviewedPicture(k, path, True, f"line{k}", learn=True, sure=True))
    good = open_fitted_dataset(folder / "good", model.artefact)
    trained = update(model.artefact, model, pictures, how="retrained", good=good, device="cpu", check=False)
    extended = extend(model, new, device="cpu", check=False)
    for made in (trained.predictor, extended):
        found = stored_options(made.artefact)
        for option, value in kept.items():
            np.testing.assert_array_equal(found[option], value, err_msg=option)
        assert stored_settings(made.artefact) == stored_settings(model.artefact)
        assert ("light" in made.calibration.method) == ("light" in names)
    hashes = {picture.hash for picture in trained.predictor.manifest.pictures}
    assert hashes >= {pixel_hash(decode(picture)) for picture in new}


def test_a_training_anew_keeps_what_people_set_and_takes_a_data_set_with_validation(tmp_path):
    """PatchCore holds nothing out: the pictures that the data set keeps apart have names and are not read."""
    kept_apart = {f"validation/good/{k}.png": part(50 + k) for k in range(4)}
    kept_apart["validation/good/torn.png"] = part(60)
    data = save(tmp_path / "data", {f"train/good/{k}.png": part(k) for k in range(8)} | kept_apart)
    (data / "train/good/torn.png").write_bytes(b"no picture")
    (data / "validation/good/torn.png").write_bytes(b"no picture")
    model = fit(data, size=64, **SMALL_NETWORK, **QUICK)
    model = model.with_calibration(model.calibration.with_outline(0.0))
    line = save(tmp_path / "line", {f"{k}.png": part(70 + k) for k in range(2)})
    new = [
        ReviewedPicture(k, path, True, path.name, learn=True, sure=True)
        for k, path in enumerate(sorted(line.glob("*.png")))
    ]
    good = open_fitted_dataset(data, model.artefact)
    made = update(model.artefact, model, new, how="retrained", good=good, **QUICK).predictor
    learnt = [picture.name for picture in made.manifest.pictures if picture.role == "train"]
    assert learnt == [*(f"train/good/{k}.png" for k in range(8)), "0.png", "1.png"]
    assert made.calibration.outline == 0.0
    (note,) = (note for note in made.manifest.notes if "of the training not used" in note)
    assert note.startswith("1 picture")
    assert "torn.png" in note


def drawn_pictures(count):
    """Good pictures of the line that nobody chose, the first of which the model learns from, too."""
    return [
        ReviewedPicture(k, part(200 + k), True, f"p{200 + k}_top.png", learn=not k, sure=True, drawn=True)
        for k in range(count)
    ]


def test_pictures_drawn_from_the_line_count_in_the_light_in_which_they_look_worst(folder):
    model = fitted(folder, {"light": "10%"})
    made = update(model.artefact, model, drawn_pictures(4), device="cpu", check=False, fair=True).predictor
    new = made.calibration.scores[model.calibration.count :]
    worst, plain = (
        max(made.predict(light(part(200 + k))).score for light in lights for k in (1, 2, 3))
        for lights in (light_variations(0.1), [Light()])
    )
    assert len(new) == 4
    assert max(new) >= worst > plain


def test_a_view_drawn_from_the_line_does_not_spoil_decisions_on_parts(folder):
    model = fitted(folder, {"part": r"p\d+"})
    pattern = stored_part_pattern(model.manifest)
    assert pattern is not None
    made = update(model.artefact, model, drawn_pictures(4), device="cpu", check=False).predictor
    np.testing.assert_array_equal(
        part_calibration(made.manifest, pattern).scores, part_calibration(model.manifest, pattern).scores
    )
    with pytest.raises(InputError, match="calibrated on all views of good parts"):
        update(model.artefact, model, drawn_pictures(24), how="recalibrated", device="cpu", check=False)
