"""The built-in methods, as small as they can be."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flawscope.methods import registry
from flawscope.testing import Case


@pytest.fixture(scope="module")
def shared_backbones() -> Iterator[None]:
    """Making a backbone takes longer than all else that a small model needs; frozen, models may share it."""
    from flawscope.methods.features.backbone import empty_backbone, load_backbone

    made: dict[Any, Any] = {}

    def empty_once(*given: Any) -> Any:
        """By everything but the file's tensors."""
        if given[:3] not in made:
            made[given[:3]] = empty_backbone(*given)
        return made[given[:3]]

    loaded_once = functools.cache(load_backbone)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("patch_detector", "prnet.model"):
            patch.setattr(f"flawscope.methods.{module}.load_backbone", loaded_once)
            patch.setattr(f"flawscope.methods.{module}.empty_backbone", empty_once)
        yield


@pytest.fixture(scope="module")
def traced_once(trace_once: Callable[..., Any]) -> Iterator[None]:
    """Exports trace a model once, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.export.onnx_graph.trace", trace_once)
        yield


@pytest.fixture(scope="session")
def cases(
    drawn: Path, small_backbone: dict[str, str], request: pytest.FixtureRequest
) -> Callable[[str], Case]:
    """A built-in method's case."""
    settings: dict[str, Callable[[], dict[str, Any]]] = {
        "patchcore": lambda: {"size": "64", **small_backbone},
        "efficientad": lambda: request.getfixturevalue("quick_settings"),
        "prnet": lambda: {
            **{"size": "64", "width": 0.25, "batch": 2, "steps": 3, "training": "fp32"},
            **small_backbone,
        },
    }
    return functools.cache(lambda name: Case(registry.method(name), settings[name](), drawn))
