"""Every method in every engine and precision, trained as far as its scores mean something: `make chain`.

`make test` leaves this out, as it takes minutes; the contract checks fp32 on models that hardly learnt. Here
the fitted model is compared with its exports through `predict`, on pictures that only the right preprocessing
makes right, and with the answers of the command line.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope import cli
from flawscope.artefact.certificate import (
    TOLERANCE,
    certificates_from_facts,
    difference_scales,
    median_to_threshold,
)
from flawscope.datasets import list_pictures
from flawscope.export.export import PRECISIONS, export
from flawscope.methods import registry
from flawscope.predictor import Predictor
from flawscope.runtime import ENGINES
from flawscope.synthesis.demo.dataset import draw_dataset

# what a reduced precision may change is measured by how far the held-out good pictures' scores lie apart
SMALL = {
    "patchcore": {"size": "64"},
    "efficientad": {"steps": 120, "window": 41, "training": "fp32"},
    "prnet": {"size": "64", "width": 0.25, "batch": 4, "steps": 400, "training": "fp32", "held_out": 0.4},
}
SEEN = 2
MAXIMUM, MAP = 1e-3, 1e-2  # of fp32 maps: where a patch is in the bank, its distance is all rounding
METHODS = sorted(registry.BUILT_IN)
Fitted = Callable[[str], tuple[Path, Predictor]]


@pytest.fixture(scope="session")
def data(shared):
    return Path(
        shared("chain", lambda root: draw_dataset(root, train=24, good=4, bad_per_kind=1, size=96, seed=1))
    )


@pytest.fixture(scope="session")
def root(data):
    return data / "plate"


@pytest.fixture(scope="session")
def pictures(root, shared):
    """The test pictures, and others that are not square, deep, grey or transparent."""

    def fill(folder):
        shown = [np.asarray(Image.open(path)) for path in list_pictures(root / "test")[:5]]
        light = np.random.default_rng(3).integers(0, 255, shown[2].shape[:2])
        for name, picture in {
            "wide": shown[0][20:71, :],
            "high": shown[1][:, 7:50],
            "deep": shown[2].mean(2).astype(np.uint16) * 257 + light.astype(np.uint16),
            "grey": shown[3].mean(2).astype(np.uint8)[:90],
            "transparent": np.dstack([shown[4], np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)]),
        }.items():
            Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{name}.png")

    return [*list_pictures(root / "test"), *list_pictures(shared("chain-others", fill))]


@pytest.fixture(scope="session")
def fitted(root, shared, teacher_path):
    """By the command line; EfficientAD with a narrow teacher."""
    more = {"efficientad": {"teacher": str(teacher_path)}}

    def of(method):
        def fill(folder):
            settings = {**SMALL[method], **more.get(method, {})}
            options = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
            if registry.method(method).takes_seen_defects:
                options += ["--seen", str(SEEN)]
            given = ["--data", str(root), "--device", "cpu", "--quiet", "--method", method]
            assert cli.main(["fit", *given, "--out", str(folder / "model.safetensors"), *options]) == 0

        path = Path(shared(f"chain-{method}", fill)) / "model.safetensors"
        return path, flawscope.load(path, device="cpu")

    return of


def answers(model, pictures, batch=1):
    """Scores `[N]`, maps `[N, H, W]` and decisions `[N]` through `predict`."""
    found = [answer for _, answer in model.stream(pictures, batch=batch)]
    return (
        np.array([a.score for a in found]),
        np.stack([a.map for a in found]).astype(float),
        np.array([a.is_anomalous for a in found]),
    )


def without_ties(model, pictures):
    """`[N]` bool: rounding alone does not decide the score."""
    import torch

    detector = model.session.model
    images = [torch.from_numpy(model.manifest.preprocess(path)[0]) for path in pictures]
    with torch.inference_mode():
        return np.array([not bool(detector.ties(detector.embed(image))[0]) for image in images])


def bf16_is_here():
    from flawscope.runtime.openvino import shared_core

    return "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize(
    ("method", "engine", "precision"),
    [
        (method, engine, precision)
        for method, engine, precision in itertools.product(METHODS, ENGINES, PRECISIONS)
        if (engine, precision) != ("onnxruntime", "bf16")
    ],
)
def test_every_export_agrees(method, engine, precision, fitted, root, pictures, shared):
    if precision == "bf16" and not bf16_is_here():
        pytest.skip("this processor has no bf16: nothing to install")
    path, trained = fitted(method)
    good = [] if precision == "fp32" else list_pictures(root / "train/good")

    def fill(folder):
        assert export(path, folder / "model.onnx", precision=precision, pictures=good).passed

    out = Path(shared(f"chain-{method}-{precision}", fill)) / "model.onnx"
    other = flawscope.load(out, engine=engine, device="cpu")
    assert all(certificate.passed for certificate in certificates_from_facts(other.manifest.facts))
    before, own = trained.calibration, other.calibration
    exact, allowed = precision == "fp32", TOLERANCE[precision]

    assert (own.rate, own.precision, own.count) == (before.rate, precision, before.count)
    if exact:
        assert (own.scores, own.map_maxima) == (before.scores, before.map_maxima)
    for picture in pictures:
        (mine, placed), (theirs, right) = (m.manifest.preprocess(picture) for m in (other, trained))
        assert placed == right
        np.testing.assert_array_equal(mine, theirs)

    wanted, drawn, decided = answers(trained, pictures)
    scores, maps, decisions = answers(other, pictures)
    counted = without_ties(trained, pictures)
    assert counted.any()
    unit = (
        np.maximum(np.abs(wanted), 1.0)
        if exact
        else difference_scales(before.scores, before.score_threshold, wanted)
    )
    assert (np.abs(scores - wanted) <= allowed * unit)[counted].all()
    tops = drawn.max((1, 2))
    size = (
        np.maximum(np.abs(tops), 1.0)
        if exact
        else difference_scales(before.map_maxima, before.mask_threshold, tops)
    )
    assert (np.abs(maps.max((1, 2)) - tops) <= (MAXIMUM if exact else allowed) * size).all()
    if exact:  # a single element of a memory bank shows in maps, not in scores
        assert (np.abs(maps - drawn).max((1, 2)) <= MAP * size).all()
    # the score may differ so much, and the threshold of a reduced precision as well
    near = unit if exact else 2.0 * median_to_threshold(before.scores, before.score_threshold)
    sure = counted & (np.abs(wanted - before.score_threshold) > allowed * near)
    assert (decisions == decided)[sure].all()
    together = answers(other, pictures, 3)[0]
    assert (np.abs(together - scores) <= (1e-5 if exact else allowed) * unit).all()

    result = flawscope.evaluate(other, flawscope.open_dataset(root))
    bad = [p.prediction.score for p in result.pictures if p.item.anomalous]
    fine = [p.prediction.score for p in result.pictures if not p.item.anomalous]
    pairs = np.subtract.outer(bad, fine)
    assert result.metrics["image_auroc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
