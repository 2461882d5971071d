"""A router hands each picture to the ordinary model of its product, whatever settings that has, and changes
nothing in it."""

import numpy as np

import brackets
import flawscope
from flawscope.fitting import joining
from flawscope.fitting.fitting import fit
from flawscope.synthesis.demo.dataset import draw_picture
from picture_files import save

PRODUCTS = ("fabric", "plate")
SIZE = 64
QUICK = {"cap": 60, "device": "cpu", "check": False, "samples": 1}


def opened(path, **how):
    return flawscope.load(path, device="cpu", **how)


def shown(data, name):
    return [str(path) for path in sorted((data / name / "test").rglob("*.png"))[::2]]


def test_a_product_of_several_parts_in_a_picture_stands_beside_one_of_single_parts(small_backbone):
    good = [brackets.drawn(seed, range(5))[0] for seed in range(8)]
    plates = [draw_picture("plate", np.random.default_rng(seed), size=96)[0] for seed in range(8)]
    several = fit(good, size=SIZE, align="turn", several=True, **QUICK, **small_backbone)
    models = {"brackets": several, "plate": fit(plates, size=SIZE, align="shift", **QUICK, **small_backbone)}
    router = joining.join(models, {"brackets": good, "plate": plates}, device="cpu")
    for count in (5, 3):
        picture = brackets.drawn(99, range(count))[0]
        found, same = router.predict(picture), several.predict(picture)
        assert found.product == "brackets"
        assert (found.score, found.remark, found.is_anomalous) == (same.score, same.remark, same.is_anomalous)
        assert len(found.found_parts.parts) == count


def test_methods_without_a_backbone_of_their_own_are_recognised_by_the_default_one(
    two_products, quick_settings, tmp_path
):
    small = {**quick_settings, "device": "cpu", "check": False, "samples": 1}
    trained = fit(two_products, category="fabric", method="efficientad", **small)
    plate = fit(two_products, category="plate", size=SIZE, **QUICK)
    pictures = {name: two_products / name for name in PRODUCTS}
    path = shown(two_products, "fabric")[0]
    for models in ({"fabric": trained, "plate": plate}, {"fabric": trained}):
        router = joining.join(models, {name: pictures[name] for name in models}, device="cpu")
        found, same = router.predict(path), trained.predict(path)
        assert (found.product, found.score) == ("fabric", same.score)
    router.save(tmp_path / "line.safetensors")
    assert opened(tmp_path / "line.safetensors").predict(path).score == same.score


def test_deep_pictures_are_recognised_by_the_products_white_level(small_backbone, tmp_path):
    """Pictures of 12 bits in 16: divided by 65535 they would all be black."""

    def deep(name, rng):
        return 16 * draw_picture(name, rng, size=96)[0][:, :, 1].astype(np.uint16)

    rng = np.random.default_rng(0)
    named = {name: {f"{k}.png": deep(name, rng) for k in range(8)} for name in PRODUCTS}
    pictures = {name: save(tmp_path / name, named[name]) for name in PRODUCTS}
    models = {name: fit(folder, size=SIZE, **QUICK, **small_backbone) for name, folder in pictures.items()}
    router = joining.join(models, pictures, device="cpu")
    level = models["plate"].manifest.preprocess.white_level
    assert router.artefact.recognition.preprocess.white_level == level is not None
    for name in PRODUCTS:
        assert router.predict(deep(name, rng)).product == name
