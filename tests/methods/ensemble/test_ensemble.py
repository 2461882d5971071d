"""Ensembles: what members see, how their answers are combined, and how they are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import FlawscopeError, InputError
from flawscope.methods import registry
from flawscope.methods.ensemble import METHOD, Config, format_member
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.testing import Case
from flawscope.testing.case import detector_of, predict_scores_and_maps, preprocess_pictures
from flawscope.testing.fits import same_again

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (["patchcore"], "two at least"),
        (["patchcore size=64", "padim"], "no method called padim"),
        (["patchcore size=64", "patchcore sizes=64"], "unknown setting sizes; did you mean size"),
        (["patchcore size=64", "prnet size=65"], "multiples of 32"),
        (["patchcore size=64", "prnet seed=3"], "leave out seed"),
        (["patchcore size=64", "ensemble"], "leave out ensemble"),
        (["patchcore size=64", "patchcore size=auto"], "must name its size"),
        (["patchcore size=64", "patchcore 'size=64"], "members"),
        (["patchcore size=64", ""], "no method called"),
    ],
    ids=str,
)
def test_a_wrong_member_is_one_line(members: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        METHOD.configure(values={"members": members})
    assert "members" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_member_is_the_same_after_it_was_written() -> None:
    config = Config(
        members=("patchcore size=64+96 stages=[1,2] weights='a b/of it.pth'", "prnet size=96x64 rate=1e-4"),
        precision="bf16",
        keep_aspect=True,
    )
    each = config.each()
    assert [one.precision for _, one in each] == ["bf16", "bf16"]
    assert all(one.pads and not one.keep_aspect for _, one in each)  # padding comes marked
    again = replace(config, members=tuple(format_member(*one) for one in each)).each()
    assert again[1] == each[1]
    assert again[0][1] == replace(each[0][1], weights="of it.pth")  # a model names no folder


def test_the_preset_chooses_the_method_where_none_is_named() -> None:
    assert (
        registry.default_method_name(None, "default")
        == registry.default_method_name(None, "small")
        == "patchcore"
    )
    assert registry.default_method_name(None, "accurate") == "ensemble"
    assert registry.default_method_name("prnet", "accurate") == "prnet"  # which then says that it has none
    assert registry.default_method_name(None, "no such preset") == "patchcore"


@pytest.fixture(scope="module")
def case(drawn: Path, ensemble_settings: dict[str, Any]) -> Case:
    return Case(METHOD, ensemble_settings, drawn)


@pytest.mark.parametrize("outlines", ["prnet", ""])
def test_the_mean_of_what_members_say_counts(case: Case, outlines: str) -> None:
    """A second way: each member by itself, on pictures that Pillow resized, and NumPy."""
    model = case.fitted()
    detector, scores, maps, drawings = detector_of(model), [], [], []
    detector.config = replace(detector.config, outlines=outlines)
    for member, n in zip(detector.members, detector.normal.tolist(), strict=True):
        own = member.detector
        shown = [np.asarray(_resized(decode(source), own.size)) for source in case.probes]
        images = torch.from_numpy(np.stack(shown).transpose(0, 3, 1, 2) / np.float32(255))
        with torch.inference_mode():
            score, drawn = own(images)
        scores.append(_compressed((score.numpy() - n[2]) / n[3]))
        whole = np.stack([np.asarray(_resized(one, detector.size)) for one in drawn.numpy()])
        maps.append(_compressed((whole - n[0]) / n[1]))
        drawings.append(whole)
    found = predict_scores_and_maps(model, case.probes)
    deciding = [scores[k] for k in detector.config.deciding_members]
    np.testing.assert_allclose(found[0], np.mean(deciding, 0), atol=0.05)  # Pillow rounds to whole numbers
    whole = np.exp(maps[0]) * (1 + drawings[1]) if outlines else np.mean(maps, 0)
    np.testing.assert_allclose(found[1], whole, atol=0.1, rtol=0.1)
    detector.config = replace(detector.config, outlines="prnet")


def test_a_model_of_before_members_outlined_averages_all_maps(case: Case) -> None:
    model = detector_of(case.fitted())
    config = {key: value for key, value in vars(model.config).items() if key != "outlines"}
    again = METHOD.rebuild(config, dict(model.state_dict()))
    assert (model.config.outlining_members, again.config.outlining_members) == ([1], [])


def _compressed(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)


def test_held_out_pictures_are_the_unit(case: Case) -> None:
    """Maps and scores are measured by their mean and spread there; the spread is at least the mean of a map's
    values, and a hundredth of the mean of the scores."""
    model = case.fitted()
    detector, held = detector_of(model), set(model.manifest.facts["calibration_pictures"])
    shown = [source for source in case.good_pictures if pixel_hash(decode(source)) in held]
    assert len(shown) == len(held) > 1
    images = torch.from_numpy(preprocess_pictures(model, shown))
    with torch.inference_mode():
        said = detector.score_members(detector.embed(images))
    for (scores, maps), n in zip(said, detector.normal, strict=True):
        for values, mean, spread, least in ((maps, *n[:2], 1), (scores, *n[2:], 0.01)):
            own = np.asarray(values, np.float64)
            assert float(mean) == pytest.approx(own.mean(), rel=1e-4)
            assert float(spread) == pytest.approx(max(own.std(), least * abs(own.mean())), rel=1e-2)


def test_padding_is_marked_at_the_members_size(case: Case) -> None:
    model = case.fitted("strips")
    detector, images = (
        detector_of(model),
        torch.from_numpy(preprocess_pictures(model, case.prediction_pictures("strips")[:1])),
    )
    inside = detector.pixel_mask(images)
    assert inside is not None
    for member in detector.members:
        shown = detector.images(images, member)
        assert shown.shape[2:] == member.detector.size
        plain = torch.where(shown < 0, -1 - shown, shown)
        assert 0 <= float(plain.min()) <= float(plain.max()) <= 1
        share, whole = (shown >= 0).float().mean(), inside.float().mean()
        assert abs(float(share - whole)) < 0.05
        rows = np.linspace(0, images.shape[2] - 1, shown.shape[2]).round().astype(int)
        same = (shown[0, 0, :, 0] >= 0) == inside[0, rows, 0]
        assert same.float().mean() > 0.9


def test_members_without_training_learn_the_same_with_any_number_of_threads(
    drawn: Path, small_backbone: dict[str, str]
) -> None:
    common = " ".join(f"{key}={value}" for key, value in small_backbone.items())
    members = [f"patchcore size=64 {common}", f"patchcore size=96 ratio=0.05 {common}"]
    same_again(Case(METHOD, {"size": "96", "members": members}, drawn))


def test_seen_defects_are_refused_where_no_member_learns_from_them(
    case: Case, small_backbone: dict[str, str]
) -> None:
    common = " ".join(f"{key}={value}" for key, value in small_backbone.items())
    pair = (case.defect, np.ones(case.defect.shape[:2], np.bool_))
    with pytest.raises(InputError, match="no member learns from seen defects"):
        case.fit(members=[f"patchcore size=64 {common}", f"patchcore size=96 {common}"], seen=[pair])


def test_a_closed_task_stays_closed() -> None:
    from flawscope.methods.task import Task

    task = Task(lambda i: torch.full((3, 2, 2), float(i)), 4, rate=0.05)
    assert float(task.with_pictures(lambda image: image + 1).load(2)[0, 0, 0]) == 3  # type: ignore[index]
    for closed in ((once := task.without_load()).without_load(), once.with_pictures(lambda image: image)):
        with pytest.raises(FlawscopeError, match=r"task\.divide"):
            closed.load(0)
