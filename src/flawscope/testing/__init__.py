"""Contract of methods that other packages add: checks that every `Method` must pass.

    from flawscope.testing import check_method
    check_method(METHOD, settings={"size": "64"})

With pytest, one test a check:

    case = Case(METHOD, {"size": "64"})

    @pytest.mark.parametrize("check", checks_for(METHOD), ids=str)
    def test_contract(check):
        check(case)

Importing this package loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flawscope.methods.method import Method
from flawscope.testing import fits, models
from flawscope.testing.case import Case, draw_good_part, must, must_refuse

__all__ = ["Case", "Check", "check_method", "checks_for", "draw_good_part", "must", "must_refuse"]


@dataclass(frozen=True)
class Check:
    """Check of one rule of the contract.

    Attributes:
        name: Name of the check.
        run: Function that checks a case; its docstring is the rule.
    """

    name: str
    run: Callable[[Case], None]

    def __call__(self, case: Case) -> None:
        """Run the check; if it fails, the AssertionError names the method, the check and the rule."""
        try:
            self.run(case)
        except AssertionError as error:
            rule = " ".join((self.run.__doc__ or "").split())
            raise AssertionError(f"{case.method.name}, {self.name}: {error}\nContract: {rule}") from error

    def __str__(self) -> str:
        return self.name


def checks_for(method: Method) -> list[Check]:
    """Return the checks of a method.

    Features that the method declares must work, and it must refuse all others. Exports are checked for the
    engines that are installed.
    """
    functions = [*fits.CHECKS]
    if not method.learns_in_steps:  # for methods that learn in steps, `resumes` checks the same
        functions.append(fits.same_again)
    functions += [*models.CHECKS, *models.exports()]
    return [Check(function.__name__, function) for function in functions]


def check_method(
    method: Method, *, settings: Mapping[str, object] | None = None, data: Path | None = None
) -> None:
    """Run all checks of a method.

    Args:
        method: The method.
        settings: Settings that make the method small: it is fitted about a dozen times, on 8 pictures.
        data: Folder of a category with 8 good pictures to learn from, and 2 good and 2 defective pictures for
            testing. None: pictures of 96x96 pixels are generated.

    Raises:
        AssertionError: A check fails; the first one is reported.
    """
    case = Case(method, settings or {}, data)
    for check in checks_for(method):
        check(case)
