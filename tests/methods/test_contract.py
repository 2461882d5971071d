"""What every method promises, of the built-in ones (`flawscope.testing`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from flawscope.methods import registry
from flawscope.testing import Case, Check, checks_for

torch = pytest.importorskip("torch")
CHECKS = [(name, check) for name in registry.BUILT_IN for check in checks_for(registry.method(name))]
# one of its members is trained, by as many threads as there are; tests/methods/ensemble has others
CHECKS = [(name, check) for name, check in CHECKS if (name, check.name) != ("ensemble", "same_again")]


@pytest.fixture(scope="module", autouse=True)
def _quick(trace_once: Callable, small_backbone: dict[str, str]) -> Iterator[None]:
    """Building a backbone is most of the time of a fit this small; frozen, one can serve all models."""
    from flawscope.methods.features import backbone

    load, weights = functools.cache(backbone.load_backbone), small_backbone["weights"]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("patch_detector", "prnet.model"):
            patch.setattr(f"flawscope.methods.{module}.load_backbone", load)
            patch.setattr(
                f"flawscope.methods.{module}.empty_backbone",
                lambda *given: load(*given[:3], weights)[0],
            )
        patch.setattr("flawscope.export.onnx_graph.trace", trace_once)
        # PRN's three attention layers are alike, and tracing one takes ten seconds (`make chain` has all)
        patch.setattr("flawscope.methods.prnet.network.LAYERS", 1)
        patch.setattr("flawscope.methods.prnet.network.PARTS", (2, 4))
        yield


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=str)
def test_contract(name: str, check: Check, cases: Callable[[str], Case]) -> None:
    check(cases(name))
