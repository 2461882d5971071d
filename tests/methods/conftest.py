"""The built-in methods, as small as they can be."""

import functools

import pytest

from flawscope.methods import registry
from flawscope.testing import Case


@pytest.fixture(scope="session")
def cases(drawn, small_backbone, request):
    """A built-in method's case."""
    settings = {
        "patchcore": lambda: {"size": "64", **small_backbone},
        "efficientad": lambda: request.getfixturevalue("quick_settings"),
        "prnet": lambda: {
            **{"size": "64", "width": 0.25, "batch": 2, "steps": 3, "training": "fp32"},
            **small_backbone,
        },
    }
    return functools.cache(lambda name: Case(registry.method(name), settings[name](), drawn))
