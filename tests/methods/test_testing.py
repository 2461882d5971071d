"""`flawscope.testing` notices a method that breaks its promises, and says which."""

from dataclasses import dataclass, replace

import pytest

from flawscope.methods.settings import PictureSettings
from flawscope.testing import Case, check_method, checks_for


def one(name, case):
    return next(check for check in checks_for(case.method) if check.name == name)


@dataclass(frozen=True)
class Careless(PictureSettings):
    """Takes any seed."""

    def __post_init__(self):
        pass


@pytest.mark.parametrize(
    ("change", "text"),
    [({"presets": {"fast": {}}}, "is_registered: "), ({"name": "patchcore2"}, "no method called patchcore2")],
)
def test_a_wrong_record_is_named(change, text, cases, monkeypatch):
    method = replace(cases("patchcore").method, **change)
    if "name" not in change:
        monkeypatch.setattr("flawscope.testing.fits.registry.method", lambda name: method)
    with pytest.raises(Exception, match=text):
        check_method(method)


def test_a_setting_that_is_not_checked_is_named(cases):
    patchcore = cases("patchcore").method
    case = Case(replace(patchcore, config=Careless, presets={"default": {}}))
    with pytest.raises(AssertionError, match=r"settings_are_checked: .*seed.*: nothing was refused"):
        one("settings_are_checked", case)(case)
