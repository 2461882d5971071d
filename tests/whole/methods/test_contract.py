"""What every method promises, of the built-in ones (`flawscope.testing`)."""

import pytest

from flawscope.methods import registry
from flawscope.testing import checks_for


def is_smoke(name, check):
    """PatchCore's, but for exports: the first floor has one."""
    return name == "patchcore" and not str(check).startswith("exports")


CHECKS = [
    pytest.param(name, check, marks=[pytest.mark.smoke] * is_smoke(name, check), id=f"{name}-{check}")
    for name in registry.BUILT_IN
    for check in checks_for(registry.method(name))
]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        # PRN's three attention layers are alike, and tracing one takes ten seconds (`make chain` has all)
        patch.setattr("flawscope.methods.training.prnet.network.ATTENTION_LAYERS", 1)
        patch.setattr("flawscope.methods.training.prnet.network.PATCHES_PER_SIDE", (2, 4))
        yield


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_contract(name, check, cases):
    check(cases(name))
