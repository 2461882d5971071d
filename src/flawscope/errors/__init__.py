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
    """Foreseen error, after which the command line ends with exit code 1."""


class InputError(FlawscopeError, ValueError):
    """Wrong call, configuration or file, after which the command line ends with exit code 2."""


class CheckpointError(InputError):
    """Unusable checkpoint: it is damaged, of another version or of another run."""


class ExcludedPictureError(InputError):
    """Error in place of the prediction of a picture that the caller excludes by its pixel hash."""


def compile_pattern(flag: str, pattern: str) -> re.Pattern[str]:
    """Compile the pattern of the option `flag`.

    Raises:
        InputError: The pattern is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{flag} '{pattern}' is not a regular expression ({error}): correct it") from None


def suggest_name(word: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: "did you mean ...?", or all known names."""
    import difflib

    names = list(known)
    nearest = difflib.get_close_matches(word, names, n=1)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"known: {', '.join(names) or 'none'}"


def pluralize(number: int, noun: str) -> str:
    """Format a count: 1 picture, 2 pictures, 1,000 pictures."""
    ending = "" if number == 1 else "s"
    return f"{number:,} {noun}{ending}"


def check_one_each(count: int, **parallel: Sized) -> None:
    """Check that sequences have an entry for each picture.

    Args:
        count: Number of pictures.
        **parallel: The sequences, each under the singular noun of its entries, such as `name=names`.

    Raises:
        InputError: A sequence has another number of entries.
    """
    for noun, entries in parallel.items():
        if len(entries) != count:
            entry_count = pluralize(len(entries), noun)
            picture_count = pluralize(count, "picture")
            raise InputError(f"{entry_count} for {picture_count}: give one {noun} for each picture")


UNREAD = "unread"  # kind of failure: a picture cannot be read, and is skipped
MASK = "mask"  # kind of failure: a mask cannot be used, and its picture is counted without it


class Failure(str):
    """Line with the reason why a picture, or its mask, was not used: a text with a kind.

    Attributes:
        kind: `UNREAD`, `MASK`, or "" for any other kind.
        name: Name of the picture that cannot be read; "" for other kinds.
        reason: Reason why the picture cannot be read, and the remedy; "" for other kinds.
    """

    kind: str
    name: str
    reason: str

    def __new__(cls, text: str, kind: str = "", name: str = "", reason: str = "") -> Self:
        """Return a text with the attributes of a failure."""
        failure = super().__new__(cls, text)
        failure.kind = kind
        failure.name = name
        failure.reason = reason
        return failure


def unread_failure(name: str, reason: str) -> Failure:
    """Return the failure of a picture that cannot be read."""
    return Failure(f"cannot read picture {name}: {reason}", UNREAD, name, reason)


def mask_failure(error: InputError) -> Failure:
    """Return the failure of a mask that cannot be used; its picture is counted without it."""
    return Failure(data_checks.NO_MASK.coded(f"{error} (counted without its mask)"), MASK)


def failure_of(error: BaseException) -> Failure:
    """Return the failure that an error describes, with its text on one line.

    An error that was raised with a Failure as its text keeps the kind, name and reason of this failure.
    """
    text = one_line_message(error)
    first_argument = error.args[0] if error.args else None
    if isinstance(first_argument, Failure):
        return Failure(text, first_argument.kind, first_argument.name, first_argument.reason)
    return Failure(text)


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Join names, at most `limit` of them: a, b, c and 12 more."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def one_line_message(error: BaseException) -> str:
    """Return the text of an error on one line; if the text is empty, the name of the error's type.

    The text is cut after 300 characters, except for a FlawscopeError.
    """
    text = " ".join(str(error).split())
    if not isinstance(error, FlawscopeError):
        text = text[:300]
    return text or type(error).__name__


def message_with_type(error: BaseException) -> str:
    """Return the text of an error on one line; unless it is a FlawscopeError, after its type's name."""
    type_name = type(error).__name__
    text = one_line_message(error)
    if isinstance(error, FlawscopeError) or text == type_name:
        return text
    return f"{type_name}: {text}"


def missing_library_error(
    feature: str, *libraries: str, extras: str, package: str = "flawscope"
) -> InputError:
    """Return the error for missing libraries that a feature needs, with the command that installs them.

    Args:
        feature: Name of the feature.
        *libraries: Names of the libraries on the index.
        extras: Extras of `package` that bring the libraries, separated by commas.
        package: The distribution to install.
    """
    command = install_command(*libraries, extras=extras, package=package)
    return InputError(f"{feature} needs {' and '.join(libraries)}: {command}")


def require_installed(feature: str, *libraries: str, extras: str, package: str = "flawscope") -> None:
    """Check that libraries are installed, without importing them.

    Args:
        feature: Name of the feature.
        *libraries: Names of the libraries' modules.
        extras: Extras of `package` that bring the libraries, separated by commas.
        package: The distribution to install.

    Raises:
        InputError: A library is missing (`missing_library_error`).
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

    In a checkout, it names the checkout's folders. Elsewhere, it adds that the package comes from the place
    that flawscope was installed from, because on a public index the name may belong to somebody else.

    Args:
        *libraries: Names on the index, for a package that is not flawscope's.
        extras: Extras of the package that bring the libraries, separated by commas.
        package: The distribution to install.
    """
    if package not in SOURCE_FOLDERS:
        return f"pip install {' '.join(libraries)}"
    extras_in_brackets = f"[{extras}]" if extras else ""
    if not runs_from_checkout():
        return f'pip install "{package}{extras_in_brackets}", from where flawscope came from'
    folder = SOURCE_FOLDERS[package]
    # with brackets in quotes, since shells expand them
    folders = [f'"{folder}{extras_in_brackets}"' if extras else folder]
    if package == "flawscope" and NEEDS_WEIGHTS & set(extras.split(",")):
        folders.insert(0, SOURCE_FOLDERS["flawscope-weights"])
    return f"pip install {' '.join(folders)} in flawscope's checkout"


# A number with a decimal comma: not 1,000, which may be a thousand
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(?:\d*,\d{1,2}|0*,\d+|\d+,\d{4,})\s*(?:%|px)?\s*")


def decimal_point(text: str) -> str:
    """Return a number's text with a point in place of its decimal comma: 0.05 for 0,05.

    Any other text is returned as it is, and so is 1,000, which may be a thousand.
    """
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text


# --------------------------------------------------------------------------------------- wrong arguments

# Words for types in errors, by the types' names
_TYPE_WORDS = {
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

    The function then raises an InputError of one line that names the argument. A wrong number or wrong names
    of arguments raise a TypeError, as without the decorator.

    Args:
        unchecked: Names of arguments that the function checks by itself.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            signature, hints = _annotations(function)
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            for name, value in bound.arguments.items():
                if name in hints and name not in unchecked:
                    require_type(name, value, hints[name])
            return function(*args, **kwargs)

        return checked

    return decorate


@functools.cache
def _annotations(function: Callable[..., object]) -> tuple[inspect.Signature, dict[str, object]]:
    """Return a function's signature, and its parameters' annotations; *args and **kwargs are left out."""
    import inspect

    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    variadic_kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameter_hints = {}
    for name, parameter in signature.parameters.items():
        if name in hints and parameter.kind not in variadic_kinds:
            parameter_hints[name] = hints[name]
    return signature, parameter_hints


def require_type(name: str, value: object, hint: object) -> None:
    """Check that a value, and each element of it if it is a list or a dict, fits an annotation.

    True does not count as a number.

    Args:
        name: Name of the value.
        value: The value.
        hint: The annotation.

    Raises:
        InputError: The value, or an element of it, does not fit.
    """
    wrong = _wrong_part(_Part(name, value, hint))
    if wrong is not None:
        type_words = [_TYPE_WORDS.get(type_name, type_name) for type_name in _type_names(wrong.hint)]
        *first_words, last_word = dict.fromkeys(type_words)  # each word once
        choices = f"{', '.join(first_words)} or {last_word}" if first_words else last_word
        raise InputError(f"{wrong.name} is {describe_value(wrong.value)}; give {choices}")


def describe_value(value: object) -> str:
    """Return words for a wrong argument: a short value as Python writes it, or else its type ("a tuple")."""
    is_simple = value is None or isinstance(value, bool | int | float | str)
    if is_simple and len(repr(value)) <= 40:
        return repr(value)
    type_name = type(value).__name__
    article = "an" if type_name[0].lower() in "aeiou" else "a"
    return f"{article} {type_name}"


class _Part(NamedTuple):
    """Argument, or an element of one, and the annotation that it should fit.

    Attributes:
        name: Name of the argument; of an element such as `paths[3]`.
        value: The argument, or the element.
        hint: The annotation.
    """

    name: str
    value: object
    hint: object


def _wrong_part(part: _Part) -> _Part | None:
    """Return the argument or its first element that does not fit the annotation; None if all fit."""
    origin = typing.get_origin(part.hint)
    choices = typing.get_args(part.hint)
    if origin in (typing.Union, types.UnionType):
        return _wrong_part_of_union(part)
    if origin is typing.Literal:
        is_choice = isinstance(part.value, str) and part.value in choices
        return None if is_choice else part
    kind = origin or part.hint
    if not isinstance(kind, type):
        return None  # an annotation that is no type, such as Any, fits everything
    if _is_own_protocol(kind):
        return None if _has_members(part.value, kind) else part
    if not _has_type(part.value, kind):
        return part
    for element in _elements(part):
        wrong = _wrong_part(element)
        if wrong is not None:
            return wrong
    return None


def _wrong_part_of_union(part: _Part) -> _Part | None:
    """Return the part of an argument that fits none of several annotations; None: one of them fits.

    The part is an element of the argument, if the argument fits one of the annotations except for this
    element. Else it is the argument.
    """
    wrong_elements = []
    for hint in typing.get_args(part.hint):
        wrong = _wrong_part(part._replace(hint=hint))
        if wrong is None:
            return None
        is_element = wrong.name != part.name  # such as `paths[3]` of `paths`
        if is_element:
            wrong_elements.append(wrong)
    return wrong_elements[0] if wrong_elements else part


def _elements(part: _Part) -> Iterator[_Part]:
    """Yield the elements of a list, or the values of a dict, with the annotation that each should fit."""
    hints = typing.get_args(part.hint)
    if len(hints) == 1 and isinstance(part.value, list | tuple):  # such as list[X]
        for number, element in enumerate(part.value):
            yield _Part(f"{part.name}[{number}]", element, hints[0])
    elif len(hints) == 2 and isinstance(part.value, Mapping):  # such as dict[str, X]
        for key, element in part.value.items():
            yield _Part(f"{part.name}[{key!r}]", element, hints[1])


def _is_own_protocol(kind: type) -> bool:
    """Whether a type is one of flawscope's protocols."""
    return getattr(kind, "_is_protocol", False) and kind.__module__.startswith("flawscope")


def _has_members(value: object, protocol: type) -> bool:
    """Whether a value has the public methods and attributes of a protocol."""
    names = [*vars(protocol), *protocol.__annotations__]
    return all(hasattr(value, name) for name in names if not name.startswith("_"))


def _has_type(value: object, kind: type) -> bool:
    """Whether a value is of a type, as a user understands it.

    True is not a number, and a text is not a list. A tuple counts as a list, and NumPy's numbers as numbers.
    """
    if isinstance(value, bool):
        return kind in (bool, object)
    if kind is bool:
        return type(value).__name__ == "bool"  # NumPy's bool
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is float:
        return isinstance(value, numbers.Real)
    if kind is list:
        return isinstance(value, list | tuple)
    if isinstance(value, str | bytes) and kind in (Sequence, Collection, Iterable):
        return False
    return isinstance(value, kind)


def _type_names(hint: object) -> list[str]:
    """Return the names of the types, or the values, that an annotation allows."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [name for argument in arguments for name in _type_names(argument)]
    if origin is typing.Literal:
        return [repr(choice) for choice in arguments]
    return [getattr(origin or hint, "__name__", str(hint))]
