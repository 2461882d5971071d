"""Open questions: what was computed is kept in the file, told by every command, and accepted by one word."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flawscope
from flawscope.artefact import model_file
from flawscope.cli.questions import digest_call
from flawscope.predictor import read_manifest
from flawscope.synthesis.demo import dataset
from picture_files import save
from small_network import SMALL_FLAGS, SMALL_NETWORK

SIDE, GOOD = 64, 20
QUICK = (*SMALL_FLAGS, "--size", "64", "--device", "cpu", "--no-check", "--quiet")


def plate(k):
    return dataset.draw_picture("plate", np.random.default_rng([3, k]), size=SIDE)[0]


def half_black(picture):
    return np.where(np.arange(SIDE)[:, None, None] < SIDE // 2, picture, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return save(folder / "plates", {f"IMG_{k:04}.png": plate(k) for k in range(GOOD)})


@pytest.fixture(scope="module")
def mixed(good, tmp_path_factory):
    folder = shutil.copytree(good, tmp_path_factory.mktemp("mixed") / "plates")
    return save(folder, {f"IMG_900{k}.png": half_black(plate(100 + k)) for k in range(3)})


@pytest.fixture
def model(good, shared, tmp_path):
    """A copy of a model of the good pictures, about which nothing is asked."""

    def fill(folder):
        fitted = flawscope.fit(
            sorted(map(str, good.iterdir())), size=64, device="cpu", check=False, **SMALL_NETWORK
        )
        assert fitted.questions == ()
        fitted.save(folder / "m.safetensors")

    return Path(shutil.copy(shared("questions", fill) / "m.safetensors", tmp_path))


def test_a_fit_keeps_its_work_and_the_same_call_accepts_it(run, answer, mixed, tmp_path):
    model, call = tmp_path / "m.safetensors", ("fit", "--data", mixed, "--out", tmp_path / "m.safetensors")
    question = "question: IMG_9000.png, IMG_9001.png, IMG_9002.png lie apart"
    answer(*call, *QUICK, code=2, said=[question, "--force"])
    before = flawscope.load(model)
    assert before.questions
    _, printed, said = run("predict", model, mixed / "IMG_0000.png", "--json")
    assert said.startswith(f"{model} has an open question: IMG_9000.png")
    assert json.loads(printed)["decision"] == "good"
    answer("info", model, said="has an open question")
    changed = shutil.copytree(mixed, tmp_path / "changed")
    for other in (("--data", changed), ("--data", mixed, "--seed", "1")):  # not what was computed
        made = tmp_path / "other.safetensors"
        shutil.copy(model, made)
        code, _, said = run("fit", *other, "--out", made, *QUICK, "--force")
        assert (code, "accepted" in said) == (0, False)
        assert any("lie apart" in note for note in read_manifest(made).notes)
    answer(*call, *QUICK, "--force", said="accepted: ")
    after = flawscope.load(model)
    assert after.questions == ()
    assert any(note.startswith("accepted: IMG_9000.png") for note in after.manifest.notes)
    picture = mixed / "IMG_9000.png"
    assert after.predict(picture).score == before.predict(picture).score
    assert "question" not in run("predict", model, picture, "--json")[2]


def test_an_accepted_file_is_fitted_anew_by_another_force(run, mixed, tmp_path):
    """There is nothing open in it: `--force` computes."""
    call = ("fit", "--data", mixed, "--out", tmp_path / "m.safetensors", *QUICK, "--force")
    for _ in range(2):
        assert "accepted: " not in run(*call)[2]


def test_a_calibration_keeps_its_work(answer, model, tmp_path):
    new = tmp_path / "new.safetensors"
    few = save(tmp_path / "few", {f"new{k}.png": plate(200 + k) for k in range(4)})
    for out in (new, model):  # the model itself is not lost before somebody says so
        written = new if out is new else tmp_path / "m-open.safetensors"
        before = model.read_bytes()
        call = ("calibrate", model, "--good", few, "--out", out, "--quiet")
        answer(*call, code=2, said=["could be promised, before it was", f"{written} is written"])
        assert flawscope.load(written).calibration.count == 4
        assert out is new or model.read_bytes() == before
        answer(*call, "--force", said="accepted: ")
        assert (flawscope.load(out).calibration.count, flawscope.load(out).questions) == (4, ())
        assert out is new or not written.exists()


@pytest.fixture
def calibrated(model, answer, tmp_path):
    """`calibrated(more, *words)`: the file of the model, calibrated on new parts and these pictures."""

    def made(more, *words, **expected):
        new = {f"new{k}.png": plate(200 + k) for k in range(20)}
        folder, out = save(tmp_path / "more", {**new, **more}), tmp_path / "new.safetensors"
        answer("calibrate", model, "--good", folder, "--out", out, "--quiet", *words, **expected)
        return out

    return made


def test_pictures_that_show_nothing_at_a_calibration_are_a_question(calibrated):
    cap = {"new20.png": np.zeros((SIDE, SIDE, 3), np.uint8)}
    assert calibrated(cap, code=2, said="question: new20.png: shows nothing").exists()


def test_an_export_keeps_its_work(answer, model, tmp_path, monkeypatch):
    """What asks is a reduced precision, which not every processor has: here the export itself asks."""
    from flawscope.export import export as exporting

    out, plain = tmp_path / "m.onnx", exporting.export

    def asked(artefact, path, **options):
        plain(artefact, path, **options)
        flawscope.load(path).asking("a.png is far out").save(path)

    monkeypatch.setattr(exporting, "export", asked)
    call = ("export", model, "--out", out, "--quiet")
    answer(*call, code=2, said="question: a.png is far out")
    assert flawscope.load(out).questions == ("a.png is far out",)
    monkeypatch.setattr(exporting, "export", None)  # nothing is computed again
    answer(*call, "--force", said="accepted: ")
    after = flawscope.load(out)
    assert (after.questions, after.manifest.notes[-1]) == ((), "accepted: a.png is far out")


@pytest.mark.parametrize(
    ("name", "begins", "spoilt"),
    [
        # two that score alike hide each other from a rule that looks at one after another
        ("misfire", "called anomalous before", [half_black(plate(300 + k)) for k in range(2)]),
        # dark ones score low, so that no score tells of them
        ("dark", "unlike the pictures learnt from", [np.uint8(plate(300 + k) * 0.3) for k in range(3)]),
    ],
)
def test_a_calibration_names_pictures_that_were_flagged_before_or_look_otherwise(
    calibrated, name, begins, spoilt
):
    more = {f"{name}{k}.png": picture for k, picture in enumerate(spoilt)}
    (note,) = (one for one in read_manifest(calibrated(more, "--force")).notes if one.startswith(begins))
    assert all(file in note for file in more)
    assert "new0" not in note
    assert ("darker" in note) == (name == "dark")


def test_questions_of_one_of_several_products(run, good, mixed, tmp_path):
    root = tmp_path / "products"
    shutil.copytree(good, root / "fine/train/good")
    shutil.copytree(mixed, root / "odd/train/good")
    joint = tmp_path / "line.safetensors"
    for call in (
        ("--joint", "--out", joint),
        ("--category", "all", "--out", tmp_path / "models"),
    ):
        code, _, said = run("fit", "--data", root, *call, *QUICK)
        assert code == 2
        assert "IMG_9000.png" in said
        code, _, said = run("fit", "--data", root, *call, *QUICK, "--force")
        assert code == 0
    assert flawscope.load(joint).products["odd"].questions == ()
    assert read_manifest(tmp_path / "models/odd.safetensors").questions == ()
    assert any("accepted" in note for note in read_manifest(tmp_path / "models/odd.safetensors").notes)


def test_in_python_the_model_carries_the_question(mixed):
    pictures = sorted(map(str, mixed.iterdir()))
    options = {"size": 64, "device": "cpu", "samples": 0, "check": False, **SMALL_NETWORK}
    model = flawscope.fit(pictures, **options)
    assert model.questions[0].startswith("IMG_9000.png, IMG_9001.png, IMG_9002.png lie apart")
    assert model.accept().questions == ()
    assert flawscope.fit(pictures, **options, force=True).questions == ()


@pytest.mark.parametrize("damage", [7, "text", [1], {"a": 1}])
def test_a_damaged_list_of_questions_is_refused(answer, model, damage):
    artefact = model_file.read(model)
    facts = {**artefact.manifest.facts, "questions": damage}
    model_file.write(replace(artefact, manifest=replace(artefact.manifest, facts=facts)), model)
    answer("info", model, code=2, said="manifest is damaged (questions)")


def test_other_data_or_settings_are_another_call(tmp_path):
    def digest(**more):
        args = {"data": str(tmp_path), "out": str(tmp_path / "out/m.safetensors"), "force": False}
        return digest_call(argparse.Namespace(**{**args, **more}))

    (tmp_path / "a.png").write_bytes(b"1")
    first = digest()
    assert digest(force=True, quiet=True, threads=3, typed=frozenset({"force"}), filed=frozenset()) == first
    assert digest(size="64") != first
    assert digest(data=f"{tmp_path}/*.png") != first
    for change in (b"22", b"1"):
        (tmp_path / "a.png").write_bytes(change)
        assert digest() != first  # by its size, by its time
    first = digest()
    for own in ("out/m.safetensors", "out/m-open.safetensors"):  # what the first call wrote into its pictures
        (tmp_path / own).parent.mkdir(exist_ok=True)
        (tmp_path / own).write_bytes(b"a model")
        assert digest() == first
    source = str(tmp_path / "out/m.safetensors")  # of an update in place
    first, before = digest(), digest(update=source)
    (tmp_path / "out/m.safetensors").write_bytes(b"another model")
    assert (digest(), digest(update=source) == before) == (first, False)
    (tmp_path / "out/b.safetensors").write_bytes(b"1")
    assert digest() != first  # a file that another call wrote
    first = digest(out=str(tmp_path / "models"))  # of several products
    (tmp_path / "models").mkdir()
    (tmp_path / "models/lid.safetensors").write_bytes(b"1")
    assert digest(out=str(tmp_path / "models")) == first
    first = digest(data=f"{tmp_path}/*.png")
    (tmp_path / "b.png").write_bytes(b"1")
    assert digest(data=f"{tmp_path}/*.png") != first
