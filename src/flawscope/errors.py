"""Errors that a person reads: one line that names the thing, the reason and the remedy."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence


class FlawscopeError(Exception):
    """Foreseen error. The command line ends with exit code 1."""


class InputError(FlawscopeError, ValueError):
    """Wrong call, configuration or file. Exit code 2."""


class CheckpointError(InputError):
    """Unusable checkpoint: it is damaged, of another version or of another run."""


class LeftOut(InputError):
    """Error in place of a prediction for a picture that was to be left out, by its decoded pixels."""


def compiled(flag: str, pattern: str) -> re.Pattern[str]:
    """Compiles the pattern of an option. InputError: it is not a regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{flag} '{pattern}' is not a regular expression ({error}): correct it") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Hint in an error about an unknown name: the nearest known one, else all of them."""
    import difflib

    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none'}"


def pluralize(number: int, thing: str) -> str:
    """Formats a count: 1 picture, 2 pictures, 1,000 pictures."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Joins names: a, b, c and 12 more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(error: BaseException) -> str:
    """Text of an error on one line: ours whole, another's up to 300 characters, without text its kind."""
    said = " ".join(str(error).split())
    return (said if isinstance(error, FlawscopeError) else said[:300]) or type(error).__name__


def with_kind(error: BaseException) -> str:
    """Text as `one_line` gives it; an error that is not ours has its kind first."""
    kind, said = type(error).__name__, one_line(error)
    return said if isinstance(error, FlawscopeError) or said == kind else f"{kind}: {said}"


def needs(what: str, *libraries: str, extras: str) -> InputError:
    """Error where libraries are missing that `what` needs; `extras` as `installing` takes them."""
    return InputError(f"{what} needs {' and '.join(libraries)}: {installing(*libraries, extras=extras)}")


def require_installed(what: str, *libraries: str, extras: str) -> None:
    """Raises `needs` for missing libraries, by the names of their modules. No library is loaded."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise needs(what, *missing, extras=extras)


def installing(*libraries: str, extras: str) -> str:
    """Command that adds missing libraries to this installation, by the package's metadata: on a public index
    the package's own name may be somebody else's.

    extras: of the package, with commas, that bring the libraries.
    """
    wanted = " ".join(f'"{one}"' for one in _missing(extras))
    return f"pip install {wanted or ' '.join(libraries)}"


def _missing(extras: str) -> list[str]:
    """Requirements of the extras that are not installed; none where the package has no metadata."""
    from importlib import metadata

    found: dict[str, None] = {}
    for extra in extras.split(","):
        try:
            required = metadata.requires("flawscope") or []
        except metadata.PackageNotFoundError:
            return []
        for line in required:
            requirement, _, marker = (part.strip() for part in line.partition(";"))
            if not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
                continue
            if nested := re.match(r"flawscope\[(.+)\]", requirement):
                found |= dict.fromkeys(_missing(nested[1]))
            elif not _is_installed(re.split(r"[^A-Za-z0-9._-]", requirement)[0]):
                found[requirement] = None
    return list(found)


def _is_installed(name: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
