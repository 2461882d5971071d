"""A trained model, pictures that it has and has not seen, and exported files: for tests of both floors."""

import numpy as np
import pytest

import flawscope
from flawscope.artefact.certificate import certificates_from_facts
from flawscope.datasets import list_pictures
from flawscope.export.router_export import export_router
from flawscope.fitting import joining
from flawscope.fitting.fitting import fit
from flawscope.predictor import read_manifest
from flawscope.runtime import ENGINES
from flawscope.synthesis.demo.dataset import draw_picture

PRODUCTS, SIZE = ("fabric", "plate"), 64


@pytest.fixture(name="exported", scope="module")
def exported_fixture(two_products, small_backbone, shared):
    """A folder with a router, line.safetensors, and its export, line.zip: pictures of fabric are padded,
    plates are aligned. Read only."""

    def fill(folder):
        settings = {**small_backbone, "size": SIZE, "cap": 200, "check": False, "device": "cpu"}
        models = {
            "fabric": fit(two_products, category="fabric", keep_aspect=True, **settings),
            "plate": fit(two_products, category="plate", align="shift", **settings),
        }
        made = joining.join(models, {name: two_products / name for name in PRODUCTS}, device="cpu")
        made.save(folder / "line.safetensors")
        export_router(folder / "line.safetensors", folder / "line.zip")

    return shared("router-export", fill)


@pytest.fixture(name="engine", params=ENGINES)
def engine_fixture(request):
    return str(request.param)


def opened(path, engine=None):
    return flawscope.load(path, device="cpu", engine=engine)


@pytest.fixture(name="train", scope="module")
def train_fixture(drawn):
    return list_pictures(drawn / "plate/train/good")


@pytest.fixture(name="unseen", scope="module")
def unseen_fixture(drawn):
    return list_pictures(drawn / "plate/test/good")


@pytest.fixture(name="trained", scope="module")
def trained_fixture(model_path):
    return flawscope.load(model_path, device="cpu")


def images_of(model, count):
    """Drawn parts, good and defective, and noise, as the network gets them."""
    rng = np.random.default_rng(5)
    kinds = [(None, "crack", "stain")[k % 3] for k in range(count - 2)]
    shown = [draw_picture("plate", rng, kind, 0.2, size=96)[0] for kind in kinds]
    shown += [rng.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(2)]
    return np.concatenate([model.manifest.preprocess(picture)[0] for picture in shown])


def scores_of(model, pictures):
    return [model.predict(picture).score for picture in pictures]


def certificate_of(path, engine=""):
    """The file's own, or that of one of its engines."""
    return next(c for c in certificates_from_facts(read_manifest(path).facts) if c.runtime.startswith(engine))
