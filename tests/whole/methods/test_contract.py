"""What every method promises, of the built-in ones (`flawscope.testing`)."""

from functools import cache

import pytest

from flawscope.methods import registry
from flawscope.methods.patchcore.record import Config
from flawscope.methods.patchcore.scores import SCORES
from flawscope.testing import Case, checks_for


def is_smoke(name, check):
    """PatchCore's, but for exports: the unit tests have one."""
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


OTHER_SCORES = [
    pytest.param(score, check, id=f"{score}-{check}")
    for score in sorted(SCORES.keys() - {Config().score})
    for check in checks_for(registry.method("patchcore"))
    if not str(check).startswith("exports")
]


@pytest.fixture(scope="module", name="scored_case")
def scored_case_fixture(drawn):
    """A case of PatchCore with this score."""
    return cache(lambda score: Case(registry.method("patchcore"), {"size": "64", "score": score}, drawn))


@pytest.mark.parametrize(("score", "check"), OTHER_SCORES)
def test_contract_with_each_score(score, check, scored_case):
    """A score that one place takes for another would be calibrated as that."""
    check(scored_case(score))
