"""Small fits on drawn plates with the small network, and what is in the models."""

import functools

import numpy as np
import pytest
import torch

from flawscope.fitting.fitting import fit
from flawscope.methods.detector import embed_pictures
from flawscope.methods.patchcore.selected_bank import NEXT_ELEMENTS
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK

PATCHES = 64  # of a picture at 64 px: stride 8
WIDTH, FINE = 80, 32  # of the small network, stages 2 and 3, and stage 2
TWO = "48+64"  # 36 patches of both stages, 64 and 16 of one each
PER_PICTURE = PATCHES * (WIDTH * 4 + 4 * 3 + 8 + 4 + 8 + 4 * NEXT_ELEMENTS) / 2**30  # GiB, as planned


@pytest.fixture(scope="module", autouse=True)
def sparse_banks():
    """Tiny sets have tiny banks here; the lower bound of the larger sizes has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.methods.patchcore.bank_selection.MIN_FINE_BANK", 1)
        yield


def parts(count, seed=0, defect=None):
    """Pictures [96, 96, 3] uint8 of different parts of one product."""
    return [
        draw_picture("plate", np.random.default_rng([seed, k]), defect, 0.1, size=96)[0] for k in range(count)
    ]


@functools.cache
def good():
    return tuple(parts(12))


def fit_small(images=None, **options):
    images = list(good()) if images is None else images
    network = {} if "backbone" in options else SMALL_NETWORK
    return fit(images, **{"size": 64, "device": "cpu", "samples": 0, "check": False, **network, **options})


@pytest.fixture(scope="module", name="fitted")
def fitted_one():
    return fit_small(samples=3)


@pytest.fixture(scope="module", name="fitted_two")
def fitted_sizes():
    return fit_small(size=TWO, fine_ratio=0.2, samples=3)


def features_of(predictor, images):
    """[N, P, D] as `fit` sees them, one size after the other."""
    tensors = [torch.from_numpy(predictor.manifest.preprocess(image)[0][0]) for image in images]
    found = {}
    store = lambda i, one, _: found.__setitem__(i, one)  # noqa: E731
    embed_pictures(predictor.session.model, lambda i: tensors[i], range(len(tensors)), store)
    return torch.stack([found[i] for i in range(len(tensors))])


def bank_of(predictor, view=0):
    tensors = predictor.artefact.tensors
    return torch.from_numpy(tensors[f"views.{view}.bank"] + tensors[f"views.{view}.centre"])


def roles(predictor):
    return [p.role for p in predictor.manifest.pictures]


def views_of(features, width=FINE):
    joined, fine, coarse = features.split((36, PATCHES, 16), dim=1)
    return joined, fine[..., :width], coarse[..., : features.shape[2] - width]
