"""Naming kinds of defects from the picture to the answer: learnt, stored, exported, in every result."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.artefact import model_file
from flawscope.errors import InputError
from flawscope.fitting.fitting import partial_fit
from flawscope.predictor.kinds import Example, learn_kinds
from flawscope.predictor.region_kinds import region_descriptors
from kinds_helpers import EACH, KINDS, draw, good, labelled_fixture, named_fixture  # noqa: F401


def test_only_the_kinds_are_new(named, model_path, labelled):
    picture = labelled / "test/notch/0.png"
    before, after = flawscope.load(model_path).predict(picture), flawscope.load(named).predict(picture)
    assert before.regions[0].kinds is None
    assert "kinds" not in before.regions[0].to_dict()
    assert after.regions[0].kinds is not None
    plain = [replace(region, kinds=None, kind_p_values={}) for region in after.regions]
    assert (after.score, tuple(plain)) == (before.score, before.regions)
    document = after.regions[0].to_dict()
    assert document["kind_p_values"].keys() == {*KINDS}
    assert document["kinds"] == [*after.regions[0].kinds]


def test_new_pictures_get_their_kind(named):
    model = flawscope.load(named)
    right = 0
    for kind in KINDS:
        for number in range(10, 14):
            regions = model.predict(draw(kind, number)[0]).regions
            right += bool(regions and max(regions[0].kind_p_values, key=regions[0].kind_p_values.get) == kind)
    assert right >= 8  # of 12; 4 by chance


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_exported_it_names_the_same_kinds(engine, exported_named, named, labelled):
    trained, model = flawscope.load(named), flawscope.load(exported_named, engine=engine)
    for kind in KINDS:
        picture = labelled / f"test/{kind}/0.png"
        views = trained.load(picture)[1][0]
        one, other = trained.predict(picture), model.predict(picture)
        assert [r.kinds for r in one.regions] == [r.kinds for r in other.regions]
        for ours, theirs in zip(one.regions, other.regions, strict=True):
            assert theirs.kind_p_values == pytest.approx(ours.kind_p_values, abs=1e-4)
        if one.regions:
            expected = region_descriptors(trained, views, one)
            found = region_descriptors(model, views, one)
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
            cells = trained.session.residuals(views.images([0]))[0]
            assert (np.linalg.norm(found, axis=1) <= np.linalg.norm(cells, axis=0).max()).all()  # an average


@pytest.fixture(scope="session")
def exported_named(named, shared):
    """`named`, exported. Read only."""
    from flawscope.export.export import export

    return shared("named-onnx", lambda folder: export(named, folder / "named.onnx")) / "named.onnx"


def test_exported_models_learn_kinds_by_residuals(exported_named, labelled, tmp_path, onnx_path, answer):
    out = tmp_path / "again.onnx"
    answer("kinds", exported_named, "--data", labelled, "--out", out, "--quiet")
    assert flawscope.load(out).manifest.kinds.error == 0.1
    remedy = "`flawscope kinds` takes the .safetensors model"
    answer("kinds", onnx_path, "--data", labelled, "--out", tmp_path / "n.onnx", code=2, said=remedy)


def test_calibrate_keeps_kinds_and_update_drops_them(named, tmp_path, answer):
    out = tmp_path / "rate.safetensors"
    answer("calibrate", named, "--false-alarm-rate", "0.2", "--out", out, "--quiet")
    assert flawscope.load(out).manifest.kinds == flawscope.load(named).manifest.kinds
    extended = partial_fit(named, [good(200), good(201)], device="cpu", check=False)
    assert extended.manifest.kinds is None
    assert any("run `flawscope kinds` again" in note for note in extended.manifest.notes)


def test_residuals_are_what_the_map_measures(model_path, efficientad_path):
    import torch

    def random(model):
        return torch.rand(2, 3, *model.size, generator=torch.Generator().manual_seed(0))

    patchcore, efficientad = (flawscope.load(path).session.model for path in (model_path, efficientad_path))
    with torch.inference_mode():
        branch, images = patchcore.branches[-1], random(patchcore)
        part = patchcore.parts(patchcore.embed(images))[-1]
        distances = branch.search(part - branch.centre, branch.valid_mask(None))
        found = patchcore.residuals(images).flatten(2).norm(dim=1)
        images = random(efficientad)
        local, distant = efficientad.residuals(images).chunk(2, 1)
        maps = efficientad.embed(images)
    torch.testing.assert_close(found, distances, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.stack([local.square().mean(1), distant.square().mean(1)], 1), maps)


def test_copies_and_missed_pictures_are_no_examples(model_path):
    model = flawscope.load(model_path)
    pictures = [draw("notch", k) for k in range(3)]
    nowhere = np.zeros((96, 96), bool)
    nowhere[0, 0] = True
    examples = [Example(picture, "notch", mask) for picture, mask in pictures]
    examples += [Example(pictures[0][0], "notch"), Example(pictures[1][0], "wire", nowhere)]
    found = learn_kinds(model, examples)
    assert found.model.manifest.kinds.counts == (3,)
    assert found.notes == ["wire: 1 picture without a region there"]
    black = Example(np.zeros((96, 96, 3), np.uint8), "notch")  # one alone does not end all work
    [line] = [line for line in learn_kinds(model, [*examples, black]).notes if "shows nothing" in line]
    assert "--force" not in line
    with pytest.raises(InputError, match="notch 2"):
        learn_kinds(model, examples[:2])
    named = [Example(draw("notch", k)[0], "Notch" if k % 2 else "notch") for k in range(6)]
    with pytest.raises(InputError, match="kinds notch and Notch differ in upper case alone: name them alike"):
        learn_kinds(model, named)


def test_labels_in_a_folder_of_no_kind_name_the_kinds(model_path, tmp_path, answer):
    root = tmp_path / "set"
    (root / "good").mkdir(parents=True)
    (root / "bad").mkdir()
    Image.fromarray(good(1)).save(root / "good/0.png")
    for kind in KINDS[:2]:
        for number in range(3):
            picture, mask = draw(kind, number)
            Image.fromarray(picture).save(root / f"bad/{kind}{number}.png")
            (top, left), (bottom, right) = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
            points = np.array([[left, top], [right, bottom]]).tolist()
            shape = {"shape_type": "rectangle", "label": kind, "points": points}
            document = {"imagePath": "", "imageHeight": 96, "imageWidth": 96, "shapes": [shape]}
            (root / f"bad/{kind}{number}.json").write_text(json.dumps(document))
    out = tmp_path / "named.safetensors"
    call = ("kinds", model_path, "--data", root, "--out", out)
    answer(*call, "--quiet")
    assert flawscope.load(out).manifest.kinds.names == KINDS[:2]
    for labels in (root / "bad").glob("*.json"):
        labels.write_text(labels.read_text().replace("96", "48"))
    answer(*call, code=2, said="it is 48x48, its picture 96x96")


def test_a_damaged_file_is_refused(named, tmp_path):
    artefact = model_file.read(named)
    document, run = model_file.split_run_facts(artefact.manifest)
    tensors = {**artefact.tensors, "kinds": artefact.tensors["kinds"][:-1].copy()}
    model_file.write_contents(document, run, tensors, tmp_path / "short.safetensors")
    with pytest.raises(InputError, match=r"kinds of defects do not fit"):
        model_file.read(tmp_path / "short.safetensors")
    document = json.loads(json.dumps(document))
    document["kinds"]["confusion"] = []
    model_file.write_contents(document, run, artefact.tensors, tmp_path / "damaged.safetensors")
    with pytest.raises(InputError, match="manifest is damaged"):
        model_file.read(tmp_path / "damaged.safetensors")
