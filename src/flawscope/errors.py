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


class ExcludedPictureError(InputError):
    """Stands for the prediction of a picture that the caller excludes by the hash of its pixels."""


def compile_pattern(flag: str, pattern: str) -> re.Pattern[str]:
    """Compiles the pattern of an option. InputError: it is not a regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{flag} '{pattern}' is not a regular expression ({error}): correct it") from None


def suggest_name(word: str, known: Iterable[str]) -> str:
    """Suggests in an error about an unknown name the nearest known one, else all of them."""
    import difflib

    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none'}"


def pluralize(number: int, noun: str) -> str:
    """Formats a count: 1 picture, 2 pictures, 1,000 pictures."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Joins names: a, b, c and 12 more."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def one_line_message(error: BaseException) -> str:
    """Text of an error on one line, of a foreign one up to 300 characters; without text its type's name."""
    text = " ".join(str(error).split())
    return (text if isinstance(error, FlawscopeError) else text[:300]) or type(error).__name__


def message_with_type(error: BaseException) -> str:
    """Text as `one_line_message` gives it; that of a foreign error begins with its type's name."""
    kind, text = type(error).__name__, one_line_message(error)
    return text if isinstance(error, FlawscopeError) or text == kind else f"{kind}: {text}"


def missing_library_error(feature: str, *libraries: str, extras: str) -> InputError:
    """Makes the error for libraries that a feature lacks; `extras` as `install_command` takes them."""
    return InputError(
        f"{feature} needs {' and '.join(libraries)}: {install_command(*libraries, extras=extras)}"
    )


def require_installed(feature: str, *libraries: str, extras: str) -> None:
    """Raises `missing_library_error` for missing libraries, given by their modules' names; imports none."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_library_error(feature, *missing, extras=extras)


def install_command(*libraries: str, extras: str) -> str:
    """Command that installs missing libraries, by the requirements in the package's metadata: on a public
    index the name flawscope may be somebody else's.

    extras: those of the package that bring the libraries, with commas.
    """
    wanted = " ".join(f'"{one}"' for one in _missing_requirements(extras))
    return f"pip install {wanted or ' '.join(libraries)}"


def _missing_requirements(extras: str) -> list[str]:
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
                found |= dict.fromkeys(_missing_requirements(nested[1]))
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
