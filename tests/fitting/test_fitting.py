"""From pictures to a model: what is used, what is left out, and what the calibration means."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from flawscope import load
from flawscope.artefact.model_file import read, write
from flawscope.calibration.rows import scored
from flawscope.cli import common
from flawscope.errors import InputError
from flawscope.fitting import auto_search, fit_auto, preparation, training_views
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.methods import patch_detector as models
from flawscope.methods.detector import embed_pictures, resolve_device
from flawscope.methods.patchcore import bank_selection, memory_plan
from flawscope.methods.patchcore import fit as patchcore_fit
from flawscope.methods.patchcore.record import Config
from flawscope.methods.task import Task
from flawscope.pictures.appearance import APPEARANCE_KEY, AppearanceRange, measure_appearance
from flawscope.pictures.decoding import decode, pixel_hash
from picture_files import save
from small_fits import (  # noqa: F401
    PATCHES,
    PER_PICTURE,
    TWO,
    bank_of,
    features_of,
    fit_small,
    fitted_one,
    fitted_sizes,
    good,
    parts,
    roles,
    sparse_banks,
    views_of,
)
from small_network import SMALL_NETWORK


def radius_of(features, bank):
    """The largest distance of a patch [N, P, D] to the bank."""
    return float(torch.cdist(features.flatten(0, 1).double(), bank.double()).amin(1).max())


def test_folder_and_list_of_its_pictures_give_the_same_model(tmp_path):
    save(tmp_path, {f"{k}.png": image for k, image in enumerate(good()[:5])})
    a, b = fit_small(tmp_path), fit_small(list(good()[:5]))
    assert torch.equal(bank_of(a), bank_of(b))
    assert [p.hash for p in a.manifest.pictures] == [pixel_hash(i) for i in good()[:5]]
    assert [p.name for p in a.manifest.pictures] == [f"{k}.png" for k in range(5)]


@pytest.mark.parametrize(("method", "count"), [("patchcore", 1), ("efficientad", 3), ("prnet", 3)])
def test_where_no_picture_can_be_read_the_reason_is_told(method, count, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(count)]
    for path in paths:
        path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(InputError) as caught:
        fit([*map(str, paths)], method=method, size=256, device="cpu", samples=0)
    said = str(caught.value)
    assert said.startswith("none of the 3 pictures can be used; the first: cannot read picture" * (count > 1))
    assert "0.png" in said
    assert "\n" not in said


@pytest.mark.parametrize("call", [fit, fit_auto])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": "resnet5O"}, "backbone resnet5O"),
        ({"second_backbone": "dinov3"}, "backbone dinov3"),
        ({"weights": "nowhere.pth"}, "no weights at nowhere.pth"),
        ({"stages": (2, 9)}, "cannot give stages 2,9"),
        ({"preset": "paper"}, "no weights for backbone wide_resnet50_2.tv_in1k on this machine"),
    ],
)
def test_networks_that_cannot_be_had_are_told_before_pictures_are_read(
    call, given, said, monkeypatch, tmp_path
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(preparation, "look_first", None)
    monkeypatch.setattr(auto_search, "look_at", None)
    with pytest.raises(InputError, match=re.escape(said)):
        call([*good()], **given)


def test_a_picture_too_large_for_memory_is_told_like_an_unreadable_one(monkeypatch):
    def no_room(picture):
        raise MemoryError

    monkeypatch.setattr(
        training_views, "pixel_hash", lambda p: no_room(p) if p[0, 0, 0] == 1 else pixel_hash(p)
    )
    predictor = fit_small([*good(), np.ones((64, 64, 3), np.uint8)], force=True)
    assert len(predictor.failures) == 1
    assert "memory" in predictor.failures[0]
    assert roles(predictor) == ["train"] * 12


def test_deep_pictures_share_one_white_level(tmp_path):
    deep = [image[:, :, 0].astype(np.uint16) * 16 for image in good()[:4]]  # a 12-bit camera
    save(tmp_path, {f"{k}.png": image for k, image in enumerate(deep)})
    kinds = {
        "numpy": deep,
        "pil": [Image.fromarray(image) for image in deep],
        "files": sorted(tmp_path.glob("*.png")),
        "bytes": [p.read_bytes() for p in sorted(tmp_path.glob("*.png"))],
    }
    fits = {kind: fit_small(images) for kind, images in kinds.items()}
    for kind, predictor in fits.items():
        assert predictor.manifest.preprocess.white_level == 4095, kind
        assert predictor.calibration == fits["numpy"].calibration, kind
    assert fit_small(list(good()[:4])).manifest.preprocess.white_level is None


def test_streaming_keeps_its_promises(fitted):
    lines = []
    streamed = fit_small(memory=8 * PER_PICTURE, say=lines.append)
    facts = streamed.manifest.facts
    assert facts["shards"] == 3
    assert sum("streamed in 3 shards" in line for line in lines) == 1
    assert len(bank_of(streamed)) == round(0.1 * 12 * PATCHES)
    radius = radius_of(features_of(streamed, good()), bank_of(streamed))
    assert radius <= facts["covering_radius"][0] <= 3 * radius
    assert radius <= 1.5 * fitted.manifest.facts["covering_radius"][0]
    ratio = np.median(streamed.calibration.scores) / np.median(fitted.calibration.scores)
    assert 0.9 < ratio < 1.1


def test_streaming_passes_over_a_shard_without_new_pictures_and_drops_no_suspects(tmp_path):
    images = [*good()[:4], *good()[:4], *good()[4:8]]
    predictor = fit_small(images, memory=8 * PER_PICTURE)
    assert predictor.manifest.facts["shards"] == 3
    assert roles(predictor).count("train") == 8
    assert len(bank_of(predictor)) == round(0.1 * 8 * PATCHES)
    with pytest.raises(InputError, match="none of the 12 pictures can be used"):
        fit_small([tmp_path / f"{k}.png" for k in range(12)], memory=4 * PER_PICTURE)
    with pytest.raises(InputError, match="memory=GiB"):
        fit_small(memory=4 * PER_PICTURE, drop_suspects=True)


def test_a_streamed_fit_reads_those_again_whose_features_it_has_no_room_for(monkeypatch):
    embedded = list[int]()

    def embed(model, load, indices, *arguments, **options):
        embedded.extend(indices)
        embed_pictures(model, load, indices, *arguments, **options)

    monkeypatch.setattr(patchcore_fit, "embed_pictures", embed)
    found = []
    for share, count in ((0.5, 0), (0.2, 4), (0.0, 6)):
        monkeypatch.setattr(memory_plan, "KEPT_SHARE", share)
        fitted = fit_small(memory=13 * PER_PICTURE, shards=3, calibration_pictures=6)
        found.append(fitted.calibration.scores)
        assert len(embedded) == count
        embedded.clear()
    assert len(found[0]) == 6
    np.testing.assert_allclose(found[1:], found[:1] * 2, rtol=1e-6)


def test_pictures_are_drawn_to_calibrate_on_though_some_cannot_be_used():
    shown = [*good()[:6], *good()[:6], *good()[6:]]
    kept, streamed = (fit_small(shown, calibration_pictures=8, **how) for how in ({}, {"shards": 3}))
    assert kept.calibration.count == streamed.calibration.count == 8
    used = [{row.hash for row in scored(one.manifest.pictures)} for one in (kept, streamed)]
    assert used[0] == used[1]


@pytest.mark.parametrize("memory", [4 * PER_PICTURE, None])
def test_groups_are_named_and_drawn_whole_to_calibrate_on(memory):
    names = [f"{number % 3}-{number}" for number in range(12)]
    predictor = fit_small(memory=memory, names=names, group=r"^(\d)-", calibration_pictures=2)
    assert predictor.calibration.method == "leave-one-group-out"
    used = [row.hash for row in scored(predictor.manifest.pictures)]
    assert len(set(used)) == 8 == predictor.calibration.count
    assert set(used) <= {p.hash for p in predictor.manifest.pictures}


def test_memory_plan_follows_what_is_free_and_gives_two_gib_at_most(monkeypatch, fitted):
    model = fitted.session.model

    def planned(count, free):
        there = SimpleNamespace(available=free)
        monkeypatch.setattr(memory_plan.psutil, "virtual_memory", lambda: there)
        plan = memory_plan.plan_memory(model, Task(lambda i: None, range(count), rate=0.05), count)
        assert plan.peak >= 10**12
        return plan.shards

    monkeypatch.setattr(
        memory_plan, "peak_memory", lambda: 10**12
    )  # as comparing very many pictures took before
    # of half of what is free, up to a half is for pictures to calibrate on
    for pictures_free, shards in ((40, 1), (24, 1), (12, 4), (4, 12)):
        assert planned(12, int(pictures_free * PER_PICTURE * 2**30) + 100) == shards
    with pytest.raises(InputError, match="raise --set memory=GiB, or choose a smaller --size"):
        planned(12, 1000)
    for limit, shards in ((None, 3), (4.0, 2), (20.0, 1)):  # of 5 GiB of features
        monkeypatch.setattr(model, "config", replace(model.config, memory=limit))
        assert planned(int(5 / PER_PICTURE), 100 * 2**30) == shards


def test_streamed_features_take_no_more_memory_of_more_pictures(monkeypatch, fitted):
    monkeypatch.setattr(memory_plan.quantized_search, "is_faster", lambda: True)
    monkeypatch.setattr(memory_plan, "peak_memory", lambda: 0)
    counts = [int(gib / PER_PICTURE) for gib in (16, 160)]
    plans = [
        memory_plan.plan_memory(fitted.session.model, Task(lambda i: None, range(count), rate=0.05), count)
        for count in counts
    ]
    assert 1 < plans[0].shards < plans[1].shards
    assert plans[1].peak < 1.1 * plans[0].peak


def test_extending_twice(fitted, tmp_path):
    partial_fit(fitted.artefact, parts(4, seed=8), device="cpu", check=False).save(tmp_path / "a.safetensors")
    once = read(tmp_path / "a.safetensors")
    twice = partial_fit(tmp_path / "a.safetensors", parts(4, seed=10), device="cpu", check=False)
    assert twice.calibration.scores[:16] == once.manifest.calibration.scores
    assert len(twice.manifest.pictures) == len(scored(twice.manifest.pictures)) == 20
    # each picture's own elements are left out: a group of one round is none of another
    assert sorted(row.unit for row in twice.manifest.pictures) == list(range(20))
    assert set(twice.artefact.tensors["bank_groups.0"]) <= set(range(20))


def test_a_full_bank_does_not_grow():
    full = fit_small(cap=40)
    assert len(bank_of(full)) == 40
    new = partial_fit(full.artefact, [255 - image for image in parts(3, seed=9)], device="cpu", check=False)
    assert len(bank_of(new)) == 40
    assert new.manifest.facts["covering_radius"][0] > full.manifest.facts["covering_radius"][0]
    assert any("memory bank is full" in note for note in new.manifest.notes)


def test_two_sizes_have_a_bank_each(fitted_two, tmp_path):
    facts, tensors = fitted_two.manifest.facts, fitted_two.artefact.tensors
    banks = [bank_of(fitted_two, v) for v in range(3)]
    assert [len(bank) for bank in banks] == [round(0.1 * 12 * 36), *(round(2.4 * n) for n in (PATCHES, 16))]
    assert (facts["bank"], facts["patches"]) == (sum(map(len, banks)), 12 * (36 + PATCHES + 16))
    assert [len(tensors[f"bank_groups.{v}"]) for v in range(3)] == list(map(len, banks))
    parts = views_of(features_of(fitted_two, good()))
    radii = [radius_of(part, bank) for part, bank in zip(parts, banks, strict=True)]
    assert facts["covering_radius"] == pytest.approx(radii, rel=1e-3)
    assert fitted_two.manifest.config["size"] == TWO
    assert fitted_two.manifest.preprocess.network_size == (64, 64)
    assert fitted_two.predict(good()[0]).map.shape == (64, 64)


def test_extending_two_sizes_keeps_the_old_of_both(fitted_two):
    more = parts(5, seed=8)
    new = partial_fit(fitted_two.artefact, more, device="cpu", check=False)
    for v in range(3):
        for name in (f"views.{v}.bank", f"bank_groups.{v}"):
            old, now = fitted_two.artefact.tensors[name], new.artefact.tensors[name]
            if name.endswith("bank"):
                assert now[: len(old)].tobytes() == old.tobytes()
            assert len(now) >= len(old)
        assert new.artefact.tensors[f"views.{v}.centre"].tobytes() == (
            fitted_two.artefact.tensors[f"views.{v}.centre"].tobytes()
        )
    assert new.artefact.tensors["normal"].tobytes() == fitted_two.artefact.tensors["normal"].tobytes()
    assert (new.calibration.scores[:12], new.calibration.count) == (fitted_two.calibration.scores, 17)
    features = views_of(features_of(new, [*good(), *more]))
    for v, radius in enumerate(new.manifest.facts["covering_radius"]):
        assert radius_of(features[v], bank_of(new, v)) <= radius * (1 + 1e-5)
    assert new.self_test().passed
    strange = [255 - image for image in parts(4, seed=9)]
    learnt = partial_fit(new.artefact, strange[1:], device="cpu", check=False)
    assert all(len(bank_of(learnt, v)) > len(bank_of(new, v)) for v in range(3))
    assert learnt.predict(strange[0]).score < 0.8 * new.predict(strange[0]).score


def test_region_of_interest_limits_all_banks():
    half = fit_small(size=TWO, fine_ratio=0.2, roi="0,0,0.5,1")
    assert half.manifest.facts["patches"] == 12 * (36 + PATCHES + 16) // 2
    left = [
        part.view(12, side, side, -1)[:, :, : side // 2].flatten(0, 2)
        for part, side in zip(views_of(features_of(half, good())), (6, 8, 4), strict=True)
    ]
    for v, own in enumerate(left):
        assert float(torch.cdist(bank_of(half, v).double(), own.double()).amin(1).max()) < 1e-3
    drawn = half.predict(good()[0]).map
    assert drawn[:, 32:].max() == drawn.min()
    assert np.abs(drawn[:, :32]).max() > 0
    assert np.isfinite(half.calibration.scores).all()
    assert half.artefact.tensors["normal"][:, [1, 3]].min() > 0


def test_without_reweighting_the_score_is_the_farthest_patch(tmp_path):
    predictor = fit_small(sigma=0, samples=2, score="reweighted", neighbours=1)
    predictor.save(tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors", device="cpu")
    assert loaded.self_test().passed
    picture = parts(1, seed=1)[0]
    distances = torch.cdist(features_of(loaded, [picture])[0].double(), bank_of(loaded).double()).amin(1)
    assert loaded.predict(picture).score == pytest.approx(float(distances.max()), rel=1e-4)
    more = partial_fit(loaded.artefact, parts(3, seed=8), device="cpu", check=False)
    assert more.calibration.count == 15


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_close_to_fp32(fitted, precision):
    predictor = fit_small(precision=precision)
    assert predictor.calibration.precision == precision
    ratio = np.array(predictor.calibration.scores) / np.array(fitted.calibration.scores)
    assert 0.9 < np.median(ratio) < 1.1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preset": "papper"}, "no preset papper"),
        ({"method": "patchcor"}, "no method called patchcor"),
        ({"false_alarm_rate": 1.5}, "is not a rate: write 0.05 or 5%"),
        ({"steps": 5}, "^patchcore has no steps: leave it out, or take efficientad or prnet$"),
    ],
)
def test_wrong_settings_are_told_before_the_work(options, text, monkeypatch):
    def embed(*_, **__):
        pytest.fail("too late")

    monkeypatch.setattr("flawscope.methods.patchcore.fit.embed_pictures", embed)
    with pytest.raises(InputError, match=text):
        fit_small(**options)


def test_pictures_that_make_no_model_and_models_that_take_none(tmp_path):
    for images, text in (([], "at least one good picture"), (np.zeros((64, 64, 3), np.uint8), "a list")):
        with pytest.raises(InputError, match=text):
            fit_small(images)
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    with pytest.raises(InputError, match=r"m\.onnx is an exported model: name the \.safetensors file"):
        partial_fit(tmp_path / "m.onnx", parts(2))


@pytest.mark.parametrize("options", [{}, {"size": TWO, "fine_ratio": 0.2}], ids=str)
def test_identical_features_everywhere_still_make_a_model(options):
    """Two blank parts: every distance between them is about 0."""
    predictor = fit_small([np.full((64, 64, 3), v, np.uint8) for v in (100, 101)], **options)
    assert np.isfinite(predictor.calibration.scores).all()
    assert np.isfinite(predictor.predict(good()[0]).score)


def test_overflowing_features_name_the_precision(monkeypatch):
    embed = models.PatchDetector.embed
    monkeypatch.setattr(models.PatchDetector, "embed", lambda self, images: embed(self, images) * torch.inf)
    with pytest.raises(InputError, match="overflows in fp32: choose another --set precision"):
        fit_small()


def test_device_names():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    there = torch.cuda.is_available()
    missing = "and no cuda:99" if there else "sees no cuda device here: use --device cpu"
    unknown = dict.fromkeys(("tpu", "cpu:abc", "cuda0", ""), "no device called .*: use auto")
    for name, said in {**unknown, "cuda:99" if there else "cuda": missing}.items():
        with pytest.raises(InputError, match=said):
            resolve_device(name)


def test_names_are_relative_to_the_common_folder(tmp_path, monkeypatch):
    save(tmp_path, dict(zip(("a/0.png", "a/1.png", "b/0.png", "b/1.png"), good(), strict=False)))
    monkeypatch.chdir(tmp_path)
    predictor = fit_small([Path("a/0.png"), "a/1.png", tmp_path / "b/0.png", os.path.join("b", "1.png")])
    assert [p.name for p in predictor.manifest.pictures] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert predictor.manifest.pictures[0].hash == pixel_hash(decode("a/0.png"))


def test_larger_sizes_keep_at_least_a_few_thousand(monkeypatch):
    monkeypatch.setattr("flawscope.methods.patchcore.bank_selection.MIN_FINE_BANK", 2000)
    config = Config(fine_ratio=0.03)
    assert (bank_selection.bank_size(config, 1, 10_000), bank_selection.bank_size(config, 1, 500)) == (
        2000,
        500,
    )
    assert (bank_selection.bank_size(config, 1, 200_000), bank_selection.bank_size(config, 0, 10_000)) == (
        6000,
        1000,
    )
    assert bank_selection.bank_size(Config(count=50), 1, 10_000) == 50


def test_a_picture_that_goes_while_it_is_fitted_costs_a_sample_and_not_the_model(
    drawn, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "flawscope.pictures.decoded.KEPT_BYTES", 0
    )  # as of many pictures: they are read again
    good = tmp_path / "good"
    shutil.copytree(drawn / "plate/train/good", good)
    first = min(good.iterdir())

    def step(stage, done, total):
        if stage.startswith("coreset"):
            first.unlink(missing_ok=True)

    predictor = fit(good, size=64, device="cpu", samples=3, step=step, **SMALL_NETWORK)
    assert not first.exists()
    assert len(predictor.manifest.samples) == 2
    assert predictor.self_test().passed


# ------------------------------------------------------------- what is kept of the pictures as a whole


def measured(paths, preprocess, roi=None):
    return [measure_appearance(preprocess(path)[0][0], roi) for path in paths]


@pytest.mark.parametrize("region", [None, "0.25,0.25,0.75,0.75"])
def test_the_range_is_that_of_the_training_pictures_and_outside_the_region_anything_may_be(region):
    model = fit_small(roi=region)
    roi = model.artefact.tensors["roi"] if region else None
    wanted = AppearanceRange.from_measures(measured(good(), model.manifest.preprocess, roi))
    found = AppearanceRange.from_facts(model.manifest.facts)
    assert found.pictures == 12
    np.testing.assert_allclose(found.ranges, wanted.ranges, atol=1e-6)
    assert all(abs(shift) < 1e-3 for one in good() for shift in model.predict(one).shifts)


def test_an_extended_model_expects_the_new_pictures_too(model_path, drawn):
    old = read(model_path)
    before = AppearanceRange.from_facts(old.manifest.facts)
    more = sorted((drawn / "plate/test/good").glob("*.png"))
    new = partial_fit(old, list(map(str, more)), device="cpu", check=False)
    assert new.appearance.pictures == 16
    for row in measured(more, old.manifest.preprocess):
        assert max(map(abs, new.appearance.shifts(row))) < 1e-3
    assert all(
        a[0] <= b[0] <= b[1] <= a[1] for a, b in zip(new.appearance.ranges, before.ranges, strict=True)
    )


def test_a_model_from_before_opens_and_says_nothing_of_it(model_path, drawn, tmp_path):
    old = read(model_path)
    del old.manifest.facts[APPEARANCE_KEY]
    path = tmp_path / "old.safetensors"
    write(old, path)
    picture = min((drawn / "plate/test/good").glob("*.png"))
    now, then = (load(p, device="cpu", threads=1).predict(picture) for p in (model_path, path))
    assert then.shifts == ()
    assert (then.score, then.severity, then.to_dict()["shifts"]) == (now.score, now.severity, {})
    again = load(path, device="cpu", threads=1).calibrate(
        [shutil.copy(picture, tmp_path / "new.png")], force=True
    )
    assert APPEARANCE_KEY not in again.manifest.facts


def test_each_stage_of_a_fit_counts_in_its_total():
    """A stage that has another name than in the command's plan would have no total, unseen."""
    stages = set()
    fit(good(), step=lambda stage, done, total: stages.add(stage), **SMALL_NETWORK)
    assert len(stages) > 3
    assert [stage for stage in stages if common.FIT.done(stage, 1, 1) is None] == []
