"""FIT_OPTIONS: all options of a fit."""

from __future__ import annotations

from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.call import CALL_OPTIONS
from flawscope.methods.options.record import FitOption, records_of
from flawscope.methods.options.settings import SETTING_OPTIONS


def _all_options() -> tuple[FitOption, ...]:
    options = [*CALL_OPTIONS, *SETTING_OPTIONS]
    for arguments in ARGUMENTS:
        options += records_of(arguments)
    return tuple(options)


FIT_OPTIONS = _all_options()
# Options on the station's page *New product*
NEW_PRODUCT = tuple(option for option in FIT_OPTIONS if option.form is not None)
# Options that cells of `flawscope benchmark` get
BENCHMARK = tuple(option for option in FIT_OPTIONS if option.benchmark)


def names_of(
    role: str | None = None, *, search: str | None = None, file: str | None = None
) -> tuple[str, ...]:
    """Return the names of the options whose records have all given values.

    Args:
        role: Value of `FitOption.role`; None: any.
        search: Value of `FitOption.search`; None: any.
        file: Value of `FitOption.file`; None: any.
    """
    return tuple(
        option.name
        for option in FIT_OPTIONS
        if role in (None, option.role) and search in (None, option.search) and file in (None, option.file)
    )
