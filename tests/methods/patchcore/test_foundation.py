"""Transformers as backbones: the papers' scores word by word, both engines, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from tests.methods import tiny_transformers as tiny

from flawscope.errors import InputError
from flawscope.export.export import export
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.methods import registry
from flawscope.predictor import Predictor, load
from flawscope.synthesis.demo.dataset import draw_picture

V2, REG, V3 = tiny.NAMES
SUPERADD = {"layers": "each", "stages": "0,1,2,3", "final_norm": False, "neighbourhood": 1, "ratio": 1.0}
RAD = {**SUPERADD, "final_norm": True, "distance": "cosine", "score": "map_top", "sigma": 1.75}
PAPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "anomalydino": (V2, {"preset": "foundation", "size": "154x140"}),
    "anomalydino, registers": (REG, {"preset": "foundation", "size": "140"}),
    "superadd": (V3, {**SUPERADD, "size": "96x112"}),
    "rad": (V3, {**RAD, "size": "128", "crop": "112"}),
}


def pictures(count: int, seed: int = 0, defect: str | None = None) -> list[np.ndarray]:
    draw = (np.random.default_rng([seed, k]) for k in range(count))
    return [draw_picture("plate", rng, defect, 0.4, size=96)[0] for rng in draw]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Predictor]:
    folder = tmp_path_factory.mktemp("weights")
    files = {name: tiny.weights(name, folder) for name in tiny.NAMES}

    def made(name: str, images: list[np.ndarray] | None = None, **given: Any) -> Predictor:
        own = {"augment": "none", "device": "cpu", "samples": 2, "check": False, **given}
        images = pictures(6) if images is None else images
        return fit(images, backbone=name, weights=files[name], **own)

    return made


def distances(one: np.ndarray, others: np.ndarray, cosine: bool) -> np.ndarray:
    """Distance of each vector to the nearest of the others, one pair after the other."""
    found = []
    for x in one:
        if cosine:
            away = [1 - x @ y / (np.sqrt(x @ x) * np.sqrt(y @ y)) for y in others]
        else:
            away = [np.sqrt(((x - y) ** 2).sum()) for y in others]
        found.append(min(away))
    return np.array(found)


def literal(
    predictor: Predictor, name: str, learnt: list[np.ndarray], shown: np.ndarray
) -> tuple[float, np.ndarray]:
    """The score and the map of a picture by every patch of the good pictures: of each layer the distance to
    the nearest, their mean, the map drawn bilinearly and smoothed, and the paper's mean or maximum."""
    how, config = predictor.manifest.preprocess, predictor.session.model.config
    height, width = how.network_size
    network, side = tiny.at(name, (height, width)), 14 if "patch14" in name else 16

    def layers(picture: np.ndarray) -> list[np.ndarray]:
        image = torch.from_numpy(how.from_array(picture)[0])
        found = tiny.tokens(network, image, list(config.stages), config.final_norm)
        return [one[0].double().numpy() for one in found]

    banks = [np.concatenate(one) for one in zip(*map(layers, learnt), strict=True)]
    cosine = config.distance == "cosine"
    away = [distances(own, bank, cosine) for own, bank in zip(layers(shown), banks, strict=True)]
    patches = sum(away) / len(away)
    grid = torch.from_numpy(patches).view(1, 1, height // side, width // side)
    drawn = torch.nn.functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
    drawn = drawn[0, 0].numpy()
    for axis in (0, 1):
        drawn = gaussian_filter1d(drawn, config.sigma, axis, mode="mirror")
    values = np.sort({"top": patches, "map": drawn, "map_top": drawn}[config.score].flatten())[::-1]
    share = 1 if config.score == "map" else max(1, int(len(values) * 0.01))
    return float(values[:share].mean()), drawn


@pytest.mark.parametrize("paper", PAPERS)
def test_the_papers_scores_word_by_word(paper: str, fitted: Callable[..., Predictor]):
    name, given = PAPERS[paper]
    learnt = pictures(3)
    predictor = fitted(name, learnt, **given)
    assert predictor.session.model.config.final_norm == (paper != "superadd")
    for shown in (*pictures(1, seed=1), *pictures(2, seed=2, defect="scratch")):
        expected, drawn = literal(predictor, name, learnt, shown)
        found = predictor.predict(shown)
        assert found.score == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(found.map, drawn, rtol=1e-4, atol=1e-4 * float(drawn.max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    [
        (V2, {"preset": "foundation", "size": "98+140"}),  # positions as trained, and resized
        (V3, {**RAD, "size": "64x112"}),
    ],
)
def test_engines_agree(name: str, given: dict[str, Any], fitted: Callable[..., Predictor], tmp_path: Path):
    predictor = fitted(name, **given)
    predictor.save(tmp_path / "model.safetensors")
    export(tmp_path / "model.safetensors", tmp_path / "model.onnx")
    shown = pictures(3, seed=3, defect="scratch")
    expected = load(tmp_path / "model.safetensors", device="cpu").predict(shown)
    for one, other in zip(predictor.predict(shown), expected, strict=True):
        assert one.score == other.score  # the file holds all that is needed
    for engine in ("onnxruntime", "openvino"):
        for found, reference in zip(
            load(tmp_path / "model.onnx", engine=engine).predict(shown), expected, strict=True
        ):
            assert found.score == pytest.approx(reference.score, rel=1e-4)
            np.testing.assert_allclose(
                found.map, reference.map, atol=1e-4 * float(np.abs(reference.map).max())
            )


def configured(**values: Any) -> Any:
    preset = values.pop("preset", "default")
    return registry.configure(registry.method("patchcore"), preset, values)


@pytest.mark.parametrize(
    ("values", "sizes", "stages"),
    [
        ({"backbone": "vit_small_patch14_dinov2"}, ((252, 252), (378, 378)), (-1,)),
        ({"backbone": "vit_small_patch16_dinov3", "size": 500}, ((496, 496),), (-1,)),
        ({"backbone": "vit_base_patch14_dinov2", "size": "300x450", "stages": "2,5"}, ((294, 448),), (2, 5)),
        ({"backbone": "vit_base_patch14_dinov2", "size": 256, "crop": 220}, ((224, 224),), (-1,)),
        ({"backbone": "swin_tiny_patch4_window7_224", "size": "250"}, ((250, 250),), (2, 3)),
        ({"size": "250"}, ((250, 250),), (2, 3)),
        ({"preset": "foundation", "size": 672}, ((672, 672),), (-1,)),
        ({"preset": "foundation", "backbone": "vit_small_patch16_dinov3", "size": 450}, ((448, 448),), (-1,)),
    ],
)
def test_sizes_are_whole_patches_and_the_last_block_is_seen(values, sizes, stages):
    config = configured(**values)
    assert (config.view_sizes, config.stages) == (sizes, stages)


@pytest.mark.parametrize(
    "values", [{"layers": "each", "score": "reweighted"}, {"distance": "cosine", "score": "maximum"}]
)
def test_scores_of_one_bank_go_with_one_bank(values):
    with pytest.raises(InputError, match="goes with layers: joined or apart and distance: euclidean"):
        configured(**values)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        (V2, {"preset": "foundation", "size": "154"}),
        (V3, {**SUPERADD, "size": "96"}),
        (V3, {**RAD, "size": "96"}),
    ],
)
def test_left_out_as_if_it_had_never_been_there(name, given, ratio, fitted: Callable[..., Predictor]):
    good = pictures(6)
    known = fitted(name, good, **{**given, "ratio": ratio}).calibration.scores
    refits = [
        fitted(name, [*good[:k], *good[k + 1 :]], **{**given, "ratio": ratio}).predict(one).score
        for k, one in enumerate(good)
    ]
    if ratio == 1:
        assert sorted(known) == pytest.approx(sorted(refits), rel=1e-4)
    else:  # the coresets differ
        assert np.mean(known) == pytest.approx(np.mean(refits), rel=0.1)


def test_extended_by_more_pictures(fitted: Callable[..., Predictor], tmp_path: Path):
    predictor = fitted(V3, **{**SUPERADD, "ratio": 0.3, "size": "96"})
    predictor.save(tmp_path / "model.safetensors")
    more = partial_fit(tmp_path / "model.safetensors", pictures(3, seed=9), device="cpu")
    assert len(more.session.model.views) == 4
    for before, after in zip(predictor.session.model.views, more.session.model.views, strict=True):
        assert len(after.bank) >= len(before.bank)
        assert torch.equal(after.bank[: len(before.bank)], before.bank)
