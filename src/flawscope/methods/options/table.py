"""FIT_OPTIONS: all options of a fit."""

from __future__ import annotations

from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.call import CALL_OPTIONS
from flawscope.methods.options.record import FitOption, records_of
from flawscope.methods.options.settings import SETTING_OPTIONS


def _all_options() -> tuple[FitOption, ...]:
    found = [*CALL_OPTIONS, *SETTING_OPTIONS]
    for arguments in ARGUMENTS:
        found += records_of(arguments)
    return tuple(found)


FIT_OPTIONS = _all_options()
# Those that New product of a station asks for
NEW_PRODUCT = tuple(option for option in FIT_OPTIONS if option.form is not None)
# Those of the cells of `flawscope benchmark`
BENCHMARK = tuple(option for option in FIT_OPTIONS if option.benchmark)


def names_of(
    role: str | None = None, *, search: str | None = None, file: str | None = None
) -> tuple[str, ...]:
    """Return the names of the options whose fields have these values; None: any value.

    Args:
        role: Value of `FitOption.role`.
        search: Value of `FitOption.search`.
        file: Value of `FitOption.file`.
    """
    return tuple(
        option.name
        for option in FIT_OPTIONS
        if role in (None, option.role) and search in (None, option.search) and file in (None, option.file)
    )
