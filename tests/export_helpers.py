"""A trained model, pictures that it has and has not seen, and exported files, for tests of both kinds."""

import numpy as np

import flawscope
from flawscope.artefact.certificate import certificates_from_facts
from flawscope.predictor import read_manifest
from flawscope.synthesis.demo.dataset import draw_picture


def opened(path, engine=None):
    return flawscope.load(path, device="cpu", engine=engine)


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
