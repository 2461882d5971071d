"""Values of settings: how they are read, and how their errors are worded.

They are numbers with units, paths, secrets in files, and addresses without secrets.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from flawscope.config import redact_value
from flawscope.errors import InputError, one_line_message, suggest_name
from flawscope.pictures import text_files

T = TypeVar("T")

CONFIG = ConfigDict(
    extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, hide_input_in_errors=True
)
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|sec|seconds?|min|minutes?|h|hours?)\s*")
_AGE = re.compile(r"\s*(\d{1,5}(?:\.\d+)?)\s*(hours?|days?|weeks?|months?|years?|h|d|w)\s*", re.IGNORECASE)
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d+)?)\s*(?:([KMGT])i?B?|B)\s*", re.IGNORECASE)
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_SECONDS = {"h": 3600, "d": 86400, "w": 604800, "m": 30 * 86400, "y": 365 * 86400}
_HOST = re.compile(r"(?:\w[\w.-]*|\[[\w:.%]+\])?(?::\d{1,5})?")
MAX_TIME = 366 * 86400.0  # seconds of a setting that threads wait for, at most
_MIN_SECRET_LENGTH = 4  # letters; a part of an address with fewer is no secret
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARD_HOSTS = frozenset({"", "0.0.0.0", "::"})  # of a server that listens at all addresses
_KINDS = {  # of values, by the beginning of pydantic's name of an error
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list: write `- VALUE` below it",
}


# ------------------------------------------------------------------------------------------ reading settings


@dataclass(frozen=True, config=CONFIG)
class Section:
    """Settings that stand together in `station.yaml`.

    Attributes:
        REMOVED: Settings of earlier versions, each with its remedy.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: object) -> object:
        if isinstance(given, Mapping):
            for name, remedy in cls.REMOVED.items():
                if name in given:
                    raise InputError(f"{name} is no setting any more: {remedy}")
            check_names(given, field_names(cls))
        return given


def field_names(kind: type[Any]) -> dict[str, None]:
    """Return the names of the settings of a dataclass, in their order."""
    return {field.name: None for field in fields(kind)}


def check_names(given: Iterable[object], known: Collection[str]) -> None:
    """Raise InputError where a name is unknown; a secret itself stands in no settings."""
    for key in given:
        if key not in known and key in ("password", "secret", "token"):
            raise InputError(f"{key} does not stand here: write it into a file, and name that as {key}_file")
        if key not in known:
            raise InputError(f"unknown setting {redact_value(key)}; {suggest_name(str(key), known)}")


def read_as(kind: type[T], given: object, home: Path | None) -> T:
    """Return settings as `station.yaml` gives them; paths are relative to `home`. InputError."""
    with worded_errors():
        return TypeAdapter(kind).validate_python(given, context=home)


@contextmanager
def worded_errors() -> Iterator[None]:
    """Raise pydantic's errors as InputError: one line with the setting, the reason and the remedy."""
    try:
        yield
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        place = first["loc"]
        text = _worded(first)
        if first["type"] == "missing":
            place = place[:-1]
            missing = [
                str(missing_error["loc"][-1])
                for missing_error in (first, *others)
                if missing_error["type"] == "missing"
            ]
            text = f"setting {' and '.join(missing)} is missing: write `{missing[0]}: ...`"
        names = _place(place)  # a plugin's error begins with its name
        raise InputError(text if names and text.startswith(names) else f"{names}{text}") from None


def _worded(error: ErrorDetails) -> str:
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    given = redact_value(f"{error['input']!r:.80}")
    if kind == "literal_error":
        expected = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{given} is not one of {expected}"
    if "ge" in context or "le" in context:
        bound = f"{context['ge']} or more" if "ge" in context else f"{context['le']} or less"
        return f"{given} is not {bound}"
    if kind.startswith(("dataclass", "dict", "mapping")):
        return f"{given} is not `key: value` lines"
    return f"{given} is not {_KINDS.get(kind.partition('_')[0], 'allowed')}"


def _place(path: tuple[int | str, ...]) -> str:
    """Return the names before a setting, as they stand in `station.yaml`."""
    names = [str(part) for part in path if not isinstance(part, int)]
    if names[-1:] == ["[key]"]:  # a key that is not known: the error's own text names it
        names = names[:-2]
    if names[:1] == ["products"]:
        names = [f"product {names[1]}" if names[1:] else "products", *names[2:]]
    return "".join(f"{name}: " for name in names)


def _resolved(path: str, info: ValidationInfo) -> str:
    return path if info.context is None else str(info.context / Path(path).expanduser())


def _quantity(read: Callable[[str], float]) -> BeforeValidator:
    """Read a text; in Python a number is one, in `station.yaml` it wants its unit."""

    def parse(given: object, info: ValidationInfo) -> float:
        if isinstance(given, int | float) and info.context is None:
            return given
        return read(str(given))

    return BeforeValidator(parse)


FilePath = Annotated[str, AfterValidator(_resolved)]  # relative to `station.yaml`


def seconds_such_as(example: str) -> BeforeValidator:
    """Return what reads a time as seconds."""
    return _quantity(lambda text: time_of(text, "", f"a time such as {example}"))


def time_of(text: str, what: str, right: str = "a time such as 5 s") -> float:
    """Return the seconds of `1 s`, `500 ms` or `2 min`: up to a year. InputError: `what` begins it."""
    match = _TIME.fullmatch(str(text))
    unit = {"m": 60, "h": 3600, "s": 1}[match[2][0]] if match else 0
    seconds = float(match[1]) * (0.001 if match[2] == "ms" else unit) if match else 0.0
    if not 0 < seconds <= MAX_TIME:
        raise InputError(f"{what and f'{what}: '}{text!r:.40} is not {right}")
    return seconds


def parse_age(text: str, what: str = "") -> float:
    """Return the seconds of `30 days`. A month has 30 days, a year 365. InputError: `what` begins it."""
    if not (match := _AGE.fullmatch(text)):
        raise InputError(f"{what}{text!r} is not a time; write for example 30 days or 1 year, or null")
    return float(match[1]) * _SECONDS[match[2][0].lower()]


def _parse_size(text: str) -> int:
    if not (match := _SIZE.fullmatch(text)):
        is_bare = re.fullmatch(r"\s*\d+(\.\d+)?\s*", text)
        right = f"write {text.strip()} MB or {text.strip()} GB" if is_bare else "write for example 200 GB"
        raise InputError(f"{text!r} is not a size{' without its unit' if is_bare else ''}; {right}")
    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))


def size_text(size: float) -> str:
    """Return bytes as a setting gives them, in powers of 1024: 100 MB."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GB"


def _parse_share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share < 0.5:
        raise InputError(f"{text!r} is not a share between 0 and 50 %; write 1 %, or null")
    return share


Age = Annotated[float, _quantity(parse_age)]  # seconds, of days to years
Size = Annotated[int, _quantity(_parse_size)]  # bytes, in powers of 1024
Share = Annotated[float, _quantity(_parse_share)]  # 1 %, 0.01: more than 0 and less than a half


def named(pattern: str, rule: str, what: str = "a name") -> AfterValidator:
    """Return what checks a name; `rule` says how it is written."""

    def check(name: str) -> str:
        if not re.fullmatch(pattern, name):
            raise InputError(f"{name!r:.80} cannot be {what}: {rule}")
        return name

    return AfterValidator(check)


def split_address(address: str, name: str) -> SplitResult:
    """Return the parts of an address. InputError, which begins with `name`."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise InputError(f"{name}: it is not an address: check host and port") from None
    return parts


def split_host_port(text: str, name: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`. InputError, which begins with `name`."""
    parts = split_address(f"//{text}", name)
    is_more = parts.path or parts.query or parts.fragment or parts.username is not None
    if not parts.hostname or not parts.port or is_more:
        raise InputError(f"{name}: {redact_value(text)} is not HOST:PORT, such as log.example:514")
    return parts.hostname, parts.port


def check_web_address(address: str, name: str = "webhook") -> str:
    """Return https://host/path, which holds no password. InputError, which begins with `name`."""
    parts = split_address(address, name)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{name}: {redact_address(address)!r} is not https://host/path")
    if parts.username is not None or parts.password is not None:
        why = "leave the password out of the address; `secret_file` signs what is sent"
        raise InputError(f"{name}: {why}")
    return address


def redact_address(address: str) -> str:
    """Return scheme, host and port of an address.

    The rest may be secret: user and password, path (of Slack's and Teams' webhooks), query, fragment. `…`
    stands in its place, also for the host where an @ leaves open which part that is.
    """
    scheme, found, rest = address.partition("://")
    if not found or not re.fullmatch(r"[a-zA-Z][\w+.-]*", scheme):
        return "…"
    authority, *more = re.split(r"[/?#\\]", rest, maxsplit=1)
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host) or "@" in "".join(more):
        return f"{scheme}://…"
    return f"{scheme}://{host}{'/…' if ''.join(more) else ''}"


def redact_text(text: str, address: str) -> str:
    """Replace in a text of the other side those parts of the address that are not `redact_address`."""
    redacted = redact_address(address)
    parts = set(re.split(r"[/?#\\&=;:@]", address.rpartition("://")[2]))
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _MIN_SECRET_LENGTH and part not in redacted:
            text = text.replace(part, "…")
    return text


def secret(path: str, what: str) -> str:
    """Return the line in a file, read anew each time: passwords change.

    Args:
        path: of the file.
        what: begins the error, such as "setting password_file".

    Raises:
        InputError: the file cannot be read, or holds nothing or more than a line.
    """
    try:
        text = text_files.read_text(path)
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{what}: {path} is no text: {error}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or not password.isprintable():
        content = "more than a line of text" if password else "nothing"
        raise InputError(f"{what}: {path} holds {content}: write the password into it, and no more")
    return password


def with_password(address: str, password: str, right: str) -> str:
    """Return `scheme://user@host/path` with the password. InputError where it has one, or no user.

    Args:
        address: with a user and no password.
        password: is quoted in the address.
        right: begins the error with the right form, such as `password_file: write the address as ...`.
    """
    match = re.match(r"([a-z+]+://)([^:/@?]+)@", address)
    if match is None:
        raise InputError(f"{right}: a user and no password")
    return f"{match[1]}{match[2]}:{quote(password, safe='')}@{address[match.end() :]}"


def tls_context(
    ca_file: str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """Return a TLS context that trusts the system and `ca_file`, and has the station's own certificate.

    Args:
        ca_file: certificates to trust beside the system's.
        certificate_file: the station's own certificate.
        key_file: key of that certificate.

    Raises:
        InputError: a file cannot be read.
    """
    context = ssl.create_default_context()
    try:
        if (file := ca_file) is not None:
            context.load_verify_locations(file)
        if (file := certificate_file) is not None:
            context.load_cert_chain(file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {file}: {error_text(error)}") from None
    return context


def error_text(error: Exception) -> str:
    """Return the operating system's words for an error, else the error's own message, as one line."""
    return (isinstance(error, OSError) and error.strerror) or one_line_message(error)
