"""The three built-in methods, as small as they can be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flawscope.methods import registry
from flawscope.testing import Case


@pytest.fixture(scope="session")
def cases(
    shared: Any, drawn: Path, small_backbone: dict[str, str], request: pytest.FixtureRequest
) -> Callable[[str], Case]:
    """A built-in method's case. What is fitted is shared by all processes of a run."""
    settings: dict[str, Callable[[], dict[str, Any]]] = {
        "patchcore": lambda: {"size": "64", **small_backbone},
        "efficientad": lambda: request.getfixturevalue("quick_settings"),
        "prnet": lambda: {
            **{"size": "64", "width": 0.25, "batch": 2, "steps": 3, "training": "fp32"},
            **small_backbone,
        },
    }
    keep = lambda name, fill: shared(f"contract-{name}", fill)  # noqa: E731
    return functools.cache(lambda name: Case(registry.method(name), settings[name](), drawn, keep))
