"""Small pictures, seen defects, and settings with which a step of training is small."""

import numpy as np
import pytest
import torch

from flawscope.fitting.fitting import fit
from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.task import SeenDefect, Task
from flawscope.methods.training.prnet.fit import find_prototypes
from flawscope.methods.training.prnet.model import create
from flawscope.methods.training.prnet.record import Config
from flawscope.methods.training.prnet.trainer import Trainer
from flawscope.methods.training.prnet.training_pictures import ScaleFeatureCache, TrainingPictures
from flawscope.progress import ignore_progress
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

QUICK = {"size": "64", "width": 0.25, "batch": 2, "steps": 3, "training": "fp32"}
PLENTY = 2**30


@pytest.fixture(scope="session")
def few():
    """Six good parts at the network's size."""
    return [draw_picture("plate", np.random.default_rng([9, k]), size=64)[0] for k in range(6)]


@pytest.fixture(scope="session")
def defects():
    """Three defective parts and their masks [64, 64] bool."""
    kinds = CATEGORIES["plate"].defects
    return [draw_picture("plate", np.random.default_rng([8, k]), kinds[k], 0.0, size=64) for k in range(3)]


@pytest.fixture(scope="session")
def pictures_of(few, defects):
    """pictures_of(shots=few, seen=3, **settings): what is learnt from good pictures [3, 64, 64] and the first
    of `defects`."""

    def make(shots=(), seen=3, **settings):
        shots = shots or [tensor(picture) for picture in few]
        images = GoodPictures(shots.__getitem__, len(shots), PLENTY)
        return TrainingPictures(
            Config(**{**QUICK, **settings}), images, images.read(ignore_progress), seen_of(defects[:seen])
        )

    return make


@pytest.fixture(scope="session")
def trainer_of(few, pictures_of):
    """trainer_of(pictures=6, seen=3, step=silent, room=PLENTY, **settings): a trainer for the first of `few`
    and of `defects`, with `room` bytes for features."""

    def make(pictures=6, seen=3, step=ignore_progress, room=PLENTY, **settings):
        drawn = pictures_of([tensor(picture) for picture in few[:pictures]], seen, **settings)
        model, _ = create(drawn.config)
        features = ScaleFeatureCache(model, drawn.images, drawn.learnt, room)
        features.measure(ignore_progress)
        clusters = find_prototypes(drawn.config, features, ignore_progress)
        for scale, one in zip(model.scales, clusters, strict=True):
            scale.prototypes = one.prototypes
        task = Task(drawn.images.load, range(pictures), rate=0.05, step=step)
        return Trainer(model, drawn, features, clusters, task)

    return make


@pytest.fixture(scope="session")
def fit_small(few):
    """fit_small(images=few, **settings) with PRN."""

    def make(images=None, **options):
        images = few if images is None else images
        quick = {"method": "prnet", "device": "cpu", "samples": 0, "check": False, **QUICK}
        return fit(images, **{**quick, **options})

    return make


@pytest.fixture(scope="session")
def prnet_path(drawn, shared):
    """A PRN model fitted on `drawn`, two of whose defects it has seen; hardly trained. Read only."""

    def fill(folder):
        options = {**QUICK, "seen": 2, "samples": 2}
        fit(drawn, method="prnet", device="cpu", **options).save(folder / "plate.safetensors")

    return shared("prnet", fill) / "plate.safetensors"


def tensor(picture):
    """`[H, W, 3]` uint8 as [3, H, W] float32 in 0..1."""
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def seen_of(pairs):
    return [SeenDefect(tensor(p), mask, f"defect {k}") for k, (p, mask) in enumerate(pairs)]
