"""Errors that a person reads: one line that names the thing, the reason and the remedy."""

from __future__ import annotations

import functools
import importlib.util
import numbers
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from flawscope.errors import data_checks

if TYPE_CHECKING:
    import inspect
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")


class FlawscopeError(Exception):
    """Foreseen error. The command line ends with exit code 1."""


class InputError(FlawscopeError, ValueError):
    """Wrong call, configuration or file. Exit code 2."""


class CheckpointError(InputError):
    """Unusable checkpoint: it is damaged, of another version or of another run."""


class ExcludedPictureError(InputError):
    """Error in place of the prediction of a picture that the caller excludes by its pixel hash."""


def compile_pattern(flag: str, pattern: str) -> re.Pattern[str]:
    """Compile the pattern of an option. InputError where it is not a regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{flag} '{pattern}' is not a regular expression ({error}): correct it") from None


def suggest_name(word: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known name, or else all known names."""
    import difflib

    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none'}"


def pluralize(number: int, noun: str) -> str:
    """Format a count: 1 picture, 2 pictures, 1,000 pictures."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def check_one_each(count: int, **parallel: Sized) -> None:
    """Check that sequences have an entry for each picture.

    Args:
        count: Number of the pictures.
        **parallel: The sequences, by the singular noun of their entries: `name=names`.

    Raises:
        InputError: A sequence has another number of entries.
    """
    for noun, entries in parallel.items():
        if len(entries) != count:
            given = pluralize(len(entries), noun)
            wanted = pluralize(count, "picture")
            raise InputError(f"{given} for {wanted}: give one {noun} for each picture")


# kinds of failures: a picture is skipped; it is counted without its mask
UNREAD = "unread"
MASK = "mask"


class Failure(str):
    """Line with the reason why a picture, or its mask, was not used: a text with a kind.

    Attributes:
        kind: `UNREAD`, `MASK`, or "" for any other kind.
        name: Name of the picture that cannot be read; "" in any other failure.
        reason: Reason why it cannot be read, and the remedy; "" in any other failure.
    """

    kind: str
    name: str
    reason: str

    def __new__(cls, text: str, kind: str = "", name: str = "", reason: str = "") -> Self:
        """Return a text with the attributes of a failure."""
        made = super().__new__(cls, text)
        made.kind = kind
        made.name = name
        made.reason = reason
        return made


def unread_failure(name: str, reason: str) -> Failure:
    """Return the failure of a picture that cannot be read."""
    return Failure(f"cannot read picture {name}: {reason}", UNREAD, name, reason)


def mask_failure(error: InputError) -> Failure:
    """Return the failure of a mask that cannot be used; its picture is counted without it."""
    return Failure(data_checks.NO_MASK.coded(f"{error} (counted without its mask)"), MASK)


def failure_of(error: BaseException) -> Failure:
    """Return an error as a failure on one line, of the kind of the failure that the error was made of."""
    text = one_line_message(error)
    reason = error.args[0] if error.args else None
    return (
        Failure(text, reason.kind, reason.name, reason.reason)
        if isinstance(reason, Failure)
        else Failure(text)
    )


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Join names, at most `limit` of them: a, b, c and 12 more."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def one_line_message(error: BaseException) -> str:
    """Return the text of an error on one line, or its type's name where it has none.

    The text of an error that is not a FlawscopeError is cut after 300 characters.
    """
    text = " ".join(str(error).split())
    return (text if isinstance(error, FlawscopeError) else text[:300]) or type(error).__name__


def message_with_type(error: BaseException) -> str:
    """Return the text of an error on one line, with its type's name in front unless flawscope's own."""
    kind = type(error).__name__
    text = one_line_message(error)
    return text if isinstance(error, FlawscopeError) or text == kind else f"{kind}: {text}"


def missing_library_error(
    feature: str, *libraries: str, extras: str, package: str = "flawscope"
) -> InputError:
    """Return the error for libraries that a feature lacks, with the command that installs them.

    Args:
        feature: Name of the feature.
        libraries: Names of the libraries on the index.
        extras: Extras of `package` that bring the libraries, separated by commas.
        package: The distribution to install.
    """
    command = install_command(*libraries, extras=extras, package=package)
    return InputError(f"{feature} needs {' and '.join(libraries)}: {command}")


def require_installed(feature: str, *libraries: str, extras: str, package: str = "flawscope") -> None:
    """Raise `missing_library_error` where libraries are missing, without importing them.

    Args:
        feature: Name of the feature.
        libraries: Names of the libraries' modules.
        extras: Extras of `package` that bring the libraries, separated by commas.
        package: The distribution to install.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_library_error(feature, *missing, extras=extras, package=package)


# folders of a checkout that hold the project's distributions
SOURCE_FOLDERS = {
    "flawscope": ".",
    "flawscope-station": "./station",
    "flawscope-line": "./line",
    "flawscope-weights": "./weights",
    "flawscope-weights-dinov2": "./weights/dinov2",
}
NEEDS_WEIGHTS = {"train", "accurate"}  # extras of flawscope


def runs_from_checkout() -> bool:
    """Whether this code lies in a checkout, not in an installed wheel."""
    root = Path(__file__).parents[3]
    return (root / "pyproject.toml").is_file() and (root / "weights").is_dir()


def install_command(*libraries: str, extras: str = "", package: str = "flawscope") -> str:
    """Return the command that installs missing libraries.

    In a checkout it names the checkout's folders. Elsewhere it says that the package comes from where
    flawscope came from: on a public index the name may be somebody else's.

    Args:
        libraries: Names on the index, for a package that is not flawscope's.
        extras: Extras of the package that bring the libraries, separated by commas.
        package: The distribution to install.
    """
    if package not in SOURCE_FOLDERS:
        return f"pip install {' '.join(libraries)}"
    suffix = f"[{extras}]" if extras else ""
    if not runs_from_checkout():
        return f'pip install "{package}{suffix}", from where flawscope came from'
    words = [f'"{SOURCE_FOLDERS[package]}{suffix}"' if extras else SOURCE_FOLDERS[package]]
    if package == "flawscope" and NEEDS_WEIGHTS & set(extras.split(",")):
        words.insert(0, SOURCE_FOLDERS["flawscope-weights"])
    return f"pip install {' '.join(words)} in flawscope's checkout"


_WITH_COMMA = re.compile(r"\s*[+-]?(?:\d*,\d{1,2}|0*,\d+|\d+,\d{4,})\s*(?:%|px)?\s*")


def decimal_point(text: str) -> str:
    """Return a number's text with a point for its decimal comma: 0,05. 1,000 may be a thousand and stays."""
    return text.replace(",", ".") if _WITH_COMMA.fullmatch(text) else text


# --------------------------------------------------------------------------------------- wrong arguments

_WORDS = {
    "NoneType": "None",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "PathLike": "a path",
    "Image": "a PIL image",
    "ndarray": "a numpy array",
    "Callable": "a function",
    "list": "a list",
    "Sequence": "a list",
    "Collection": "a collection",
    "Iterable": "several of these",
    "Mapping": "a dict",
}


def check_arguments(*, unchecked: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that makes a function refuse arguments that do not fit its annotations.

    The error is one line that names the argument.

    Args:
        unchecked: Names of arguments that the function checks by itself.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*given: P.args, **named: P.kwargs) -> R:
            signature, hints = _annotations(function)
            try:
                bound = signature.bind(*given, **named)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            for name, value in bound.arguments.items():
                if name in hints and name not in unchecked:
                    require_type(name, value, hints[name])
            return function(*given, **named)

        return checked

    return decorate


@functools.cache
def _annotations(function: Callable[..., object]) -> tuple[inspect.Signature, dict[str, object]]:
    import inspect

    signature = inspect.signature(function)
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    hints = typing.get_type_hints(function)
    one_each = {name for name, of in signature.parameters.items() if of.kind not in several}
    return signature, {name: hint for name, hint in hints.items() if name in one_each}


def require_type(name: str, value: object, hint: object) -> None:
    """Raise an InputError, which names the value, where it does not fit an annotation.

    Every element of a list is checked. True is not a number.

    Args:
        name: Name of the value.
        value: The value.
        hint: The annotation.
    """
    wrong = _wrong_part(_Part(name, value, hint))
    if wrong is not None:
        words = list(dict.fromkeys(_WORDS.get(kind, kind) for kind in _type_names(wrong.hint)))
        text = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        raise InputError(f"{wrong.name} is {describe_value(wrong.value)}; give {text}")


def describe_value(value: object) -> str:
    """Return words for a wrong argument: None, 5, 'text', or "a tuple" for its type."""
    if value is None or (isinstance(value, bool | int | float | str) and len(repr(value)) <= 40):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


class _Part(NamedTuple):
    """Argument, or an element of it such as paths[3], and the annotation that it should fit."""

    name: str
    value: object
    hint: object


def _wrong_part(part: _Part) -> _Part | None:
    """Return the argument, or its first element, that is of a wrong type; None where all fit."""
    origin = typing.get_origin(part.hint)
    choices = typing.get_args(part.hint)
    if origin in (typing.Union, types.UnionType):
        return _wrong_part_of_union(part)
    if origin is typing.Literal:
        is_choice = isinstance(part.value, str) and part.value in choices
        return None if is_choice else part
    kind = origin or part.hint
    if not isinstance(kind, type):
        return None  # such as Any
    if _is_own_protocol(kind):
        return None if _has_members(part.value, kind) else part
    if not _is_of(part.value, kind):
        return part
    for element in _elements(part):
        wrong = _wrong_part(element)
        if wrong is not None:
            return wrong
    return None


def _wrong_part_of_union(part: _Part) -> _Part | None:
    """Return the wrong part of an argument that must fit one of several annotations; None where it fits.

    The part is an element of a wrong type, or else the whole argument.
    """
    wrong = [_wrong_part(part._replace(hint=hint)) for hint in typing.get_args(part.hint)]
    if None in wrong:
        return None
    elements = [error for error in wrong if error is not None and error.name != part.name]
    return elements[0] if elements else part


def _elements(part: _Part) -> Iterator[_Part]:
    """Yield the elements of a list, or the values of a dict, with the annotation that each should fit."""
    hints = typing.get_args(part.hint)
    if len(hints) == 1 and isinstance(part.value, list | tuple):
        for number, element in enumerate(part.value):
            yield _Part(f"{part.name}[{number}]", element, hints[0])
    elif len(hints) == 2 and isinstance(part.value, Mapping):
        for key, element in part.value.items():
            yield _Part(f"{part.name}[{key!r}]", element, hints[1])


def _is_own_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False) and kind.__module__.startswith("flawscope")


def _has_members(value: object, protocol: type) -> bool:
    names = [*vars(protocol), *protocol.__annotations__]
    return all(hasattr(value, name) for name in names if not name.startswith("_"))


def _is_of(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind in (bool, object)
    if kind is bool:
        return type(value).__name__ == "bool"  # numpy's
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real)
    if isinstance(value, str | bytes) and kind in (Sequence, Collection, Iterable):
        return False
    return isinstance(value, list | tuple if kind is list else kind)


def _type_names(hint: object) -> list[str]:
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [name for argument in inner for name in _type_names(argument)]
    if origin is typing.Literal:
        return [repr(choice) for choice in inner]
    return [getattr(origin or hint, "__name__", str(hint))]
