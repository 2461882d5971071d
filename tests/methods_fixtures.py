"""The built-in methods, as small as they can be."""

import functools
from dataclasses import replace

import pytest

from flawscope.artefact.model_file import read
from flawscope.methods import registry
from flawscope.runtime.torch import TorchSession
from flawscope.testing import Case, must_refuse


@pytest.fixture(scope="session")
def refusal():
    """refusal(path, spoil): the line with which a model is refused whose tensors and settings
    spoil(tensors, config) has changed."""

    def opened(path, spoil):
        artefact = read(path)
        tensors, config = dict(artefact.tensors), dict(artefact.manifest.config)
        spoil(tensors, config)
        other = replace(artefact, manifest=replace(artefact.manifest, config=config), tensors=tensors)
        return must_refuse(lambda: TorchSession.open(other, "cpu"), "a spoilt model")

    return opened


@pytest.fixture(scope="session")
def cases(drawn, small_backbone, request):
    """A built-in method's case."""
    settings = {
        "patchcore": lambda: {"size": "64"},
        "efficientad": lambda: request.getfixturevalue("quick_settings"),
        "prnet": lambda: {
            **{"size": "64", "width": 0.25, "batch": 2, "steps": 3, "training": "fp32"},
            **small_backbone,
        },
    }
    return functools.cache(lambda name: Case(registry.method(name), settings[name](), drawn))
