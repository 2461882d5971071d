"""Read values of settings, and word the errors.

The values are numbers with units, paths, secrets in files, and addresses, which are shown without secrets.
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
MAX_TIME = 366 * 86400.0  # largest number of seconds of a setting, as threads wait for it
_MIN_SECRET_LENGTH = 4  # characters; a shorter part of an address is no secret
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARD_HOSTS = frozenset({"", "0.0.0.0", "::"})  # a server with such a host listens at all addresses
_KIND_NAMES = {  # kinds of values, by the beginning of pydantic's name of an error
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
    def _check_names(cls, settings: object) -> object:
        """Return the settings unchanged. InputError: one is unknown, or is in `REMOVED`."""
        if isinstance(settings, Mapping):
            for name, remedy in cls.REMOVED.items():
                if name in settings:
                    raise InputError(f"{name} is no setting any more: {remedy}")
            check_names(settings, field_names(cls))
        return settings


def field_names(kind: type[Any]) -> dict[str, None]:
    """Return the names of a dataclass's fields as the keys of a dictionary, in the order of the fields."""
    return {field.name: None for field in fields(kind)}


def check_names(keys: Iterable[object], setting_names: Collection[str]) -> None:
    """Raise InputError where a key is no setting's name.

    A password, secret or token is no setting: `password_file`, for example, names its file.
    """
    for key in keys:
        if key in setting_names:
            continue
        if key in ("password", "secret", "token"):
            raise InputError(f"{key} does not stand here: write it into a file, and name that as {key}_file")
        raise InputError(f"unknown setting {redact_value(key)}; {suggest_name(str(key), setting_names)}")


def read_as(kind: type[T], values: object, home: Path | None) -> T:
    """Return checked settings, as an instance of the class `kind`.

    Args:
        kind: Class of the settings.
        values: Values as in `station.yaml`.
        home: Folder that paths are relative to; None: the values do not come from a file, and paths stay.

    Raises:
        InputError: A setting is unknown or missing, or its value is wrong.
    """
    with worded_errors():
        return TypeAdapter(kind).validate_python(values, context=home)


@contextmanager
def worded_errors() -> Iterator[None]:
    """Raise pydantic's errors as InputError: one line with the setting, the reason and the remedy."""
    try:
        yield
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        path = first["loc"]
        if first["type"] == "missing":
            path = path[:-1]  # the text has the name of the missing setting
            missing_errors = [entry for entry in (first, *others) if entry["type"] == "missing"]
            missing_names = [str(entry["loc"][-1]) for entry in missing_errors]
            text = f"setting {' and '.join(missing_names)} is missing: write `{missing_names[0]}: ...`"
        else:
            text = _word_error(first)
        prefix = _join_names(path)
        has_prefix = bool(prefix) and text.startswith(prefix)  # a plugin's error has the prefix already
        raise InputError(text if has_prefix else f"{prefix}{text}") from None


def _word_error(error: ErrorDetails) -> str:
    """Return an error of pydantic as a text for people, without the setting's name."""
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "value_error":  # an InputError of a check
        return str(context["error"])
    value = redact_value(f"{error['input']!r:.80}")
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{value} is not one of {choices}"
    if "ge" in context:
        return f"{value} is not {context['ge']} or more"
    if "le" in context:
        return f"{value} is not {context['le']} or less"
    if kind.startswith(("dataclass", "dict", "mapping")):
        return f"{value} is not `key: value` lines"
    value_kind = kind.partition("_")[0]  # "int" for pydantic's error `int_parsing`
    return f"{value} is not {_KIND_NAMES.get(value_kind, 'allowed')}"


def _join_names(path: tuple[int | str, ...]) -> str:
    """Return the beginning of an error's text: the names on the path to a setting.

    The path ("products", "plate", "limits") becomes `product plate: limits: `.
    """
    names = [str(part) for part in path if not isinstance(part, int)]
    # pydantic marks a wrong key by "[key]" behind it; both are left out, because the text names the key
    if names[-1:] == ["[key]"]:
        names = names[:-2]
    if names == ["products"]:
        return "products: "
    if names[:1] == ["products"]:
        names = [f"product {names[1]}", *names[2:]]
    return "".join(f"{name}: " for name in names)


def _resolve_path(path: str, info: ValidationInfo) -> str:
    """Join a path in a settings file to the file's folder. Values from Python are returned unchanged."""
    return path if info.context is None else str(info.context / Path(path).expanduser())


def _quantity(parse_text: Callable[[str], float]) -> BeforeValidator:
    """Return a validator that reads a number with its unit.

    In a settings file the unit is required; a value from Python may be a plain number.

    Args:
        parse_text: Function that reads the number with its unit.
    """

    def parse(value: object, info: ValidationInfo) -> float:
        is_from_python = info.context is None  # else from a settings file
        if isinstance(value, int | float) and is_from_python:
            return value
        return parse_text(str(value))

    return BeforeValidator(parse)


FilePath = Annotated[str, AfterValidator(_resolve_path)]  # relative to `station.yaml`


def seconds_such_as(example: str) -> BeforeValidator:
    """Return a validator that reads a time as seconds; its errors show the example, such as `5 s`."""
    return _quantity(lambda text: time_of(text, "", f"a time such as {example}"))


def time_of(text: str, what: str, right: str = "a time such as 5 s") -> float:
    """Return the seconds of a time such as `1 s`, `500 ms` or `2 min`.

    Args:
        text: Time with its unit, more than 0 and at most a year.
        what: Name of the setting, with which the error begins; "": the error has no name.
        right: Valid form of the time, for the error.

    Raises:
        InputError: The text is no such time.
    """
    match = _TIME.fullmatch(str(text))
    if match is None:
        seconds = 0.0
    else:
        number, unit = match.groups()
        if unit == "ms":
            unit_seconds = 0.001
        else:  # seconds, minutes or hours: the first letter says which
            unit_seconds = {"s": 1, "m": 60, "h": 3600}[unit[0]]
        seconds = float(number) * unit_seconds
    if not 0 < seconds <= MAX_TIME:
        prefix = f"{what}: " if what else ""
        raise InputError(f"{prefix}{text!r:.40} is not {right}")
    return seconds


def parse_age(text: str, prefix: str = "") -> float:
    """Return the seconds of a time such as `30 days`. A month has 30 days, a year 365.

    Args:
        text: Time with its unit: hours, days, weeks, months or years.
        prefix: Beginning of the error, such as "expires: ".

    Raises:
        InputError: The text is no such time.
    """
    match = _AGE.fullmatch(text)
    if match is None:
        raise InputError(f"{prefix}{text!r} is not a time; write for example 30 days or 1 year, or null")
    number, unit = match.groups()
    return float(number) * _SECONDS[unit[0].lower()]


def _parse_size(text: str) -> int:
    """Return the number of bytes of a size such as `200 GB`. InputError: it is no size, or has no unit."""
    match = _SIZE.fullmatch(text)
    if match is not None:
        number, unit_letter = match.groups()
        exponent = " KMGT".index((unit_letter or " ").upper())  # 0 for bytes, 1 for KB
        return int(float(number) * 1024**exponent)
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
        hint = f"write {text.strip()} MB or {text.strip()} GB"
        raise InputError(f"{text!r} is not a size without its unit; {hint}")
    raise InputError(f"{text!r} is not a size; write for example 200 GB")


def size_text(size_bytes: float) -> str:
    """Return a size as text in the form of a setting, such as `100 MB`; 1 KB has 1024 bytes."""
    size = size_bytes
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GB"


def _parse_share(text: str) -> float:
    """Return the share of a text such as `1 %` or `0.01`. InputError: it is not between 0 and 0.5."""
    match = _SHARE.fullmatch(text)
    if match is None:
        share = 0.0
    else:
        number, percent_sign = match.groups()
        share = float(number) / 100 if percent_sign else float(number)
    if not 0 < share < 0.5:
        raise InputError(f"{text!r} is not a share between 0 and 50 %; write 1 %, or null")
    return share


Age = Annotated[float, _quantity(parse_age)]  # seconds; written in hours to years
Size = Annotated[int, _quantity(_parse_size)]  # bytes; 1 KB has 1024 bytes
Share = Annotated[float, _quantity(_parse_share)]  # more than 0 and less than a half, such as 1 % or 0.01


def name_validator(pattern: str, rule: str, what: str = "a name") -> AfterValidator:
    """Return a validator of names.

    Args:
        pattern: Regular expression that matches a valid name.
        rule: Rule for valid names in words, for the error.
        what: Words for the thing that is named, for the error.
    """

    def check(name: str) -> str:
        if not re.fullmatch(pattern, name):
            raise InputError(f"{name!r:.80} cannot be {what}: {rule}")
        return name

    return AfterValidator(check)


def split_address(address: str, name: str) -> SplitResult:
    """Return the parts of an address.

    Raises:
        InputError: The host or port is invalid; the message begins with `name`.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError where it is no number
    except ValueError:
        raise InputError(f"{name}: it is not an address: check host and port") from None
    return parts


def split_host_port(text: str, name: str) -> tuple[str, int]:
    """Return host and port of a text `HOST:PORT`.

    Raises:
        InputError: The text has another form; the message begins with `name`.
    """
    parts = split_address(f"//{text}", name)
    has_other_parts = parts.path or parts.query or parts.fragment or parts.username is not None
    if not parts.hostname or not parts.port or has_other_parts:
        raise InputError(f"{name}: {redact_value(text)} is not HOST:PORT, such as log.example:514")
    return parts.hostname, parts.port


def check_web_address(address: str, name: str = "webhook") -> str:
    """Return the address of a web server unchanged.

    Raises:
        InputError: The address is not that of a web server, or it has a user or password; the message begins
            with `name`.
    """
    parts = split_address(address, name)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{name}: {redact_address(address)!r} is not https://host/path")
    if parts.username is not None or parts.password is not None:
        remedy = "leave the password out of the address; `secret_file` signs what is sent"
        raise InputError(f"{name}: {remedy}")
    return address


def redact_address(address: str) -> str:
    """Return scheme, host and port of an address; `…` stands for the rest, which may be secret.

    Not only user and password may be secret, but also the path (as in webhooks of Slack and Teams), the query
    and the fragment. With an @ in the path, the supposed host may belong to a password: it is hidden, too.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or not re.fullmatch(r"[a-zA-Z][\w+.-]*", scheme):
        return "…"
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    tail = rest[len(authority) + 1 :]  # without the character that splits
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host) or "@" in tail:
        return f"{scheme}://…"
    return f"{scheme}://{host}/…" if tail else f"{scheme}://{host}"


def redact_text(text: str, address: str) -> str:
    """Return a text with `…` in place of each part of an address that `redact_address` hides.

    Args:
        text: Text from another system, such as an error's message, which may repeat parts of the address.
        address: Address of that system.
    """
    visible_address = redact_address(address)
    parts = set(re.split(r"[/?#\\&=;:@]", address.rpartition("://")[2]))
    parts |= {unquote(part) for part in parts}
    redacted_text = text
    for part in sorted(parts, key=len, reverse=True):  # long parts first, because they may contain short ones
        if len(part) >= _MIN_SECRET_LENGTH and part not in visible_address:
            redacted_text = redacted_text.replace(part, "…")
    return redacted_text


def secret(path: str, what: str) -> str:
    """Return the password or token in a file.

    The file is read anew at each call, because passwords change.

    Args:
        path: Path of the file, which has one line.
        what: Beginning of the error, such as "setting password_file".

    Raises:
        InputError: The file cannot be read, is empty, or has more than one line.
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


def with_password(address: str, password: str, hint: str) -> str:
    """Return an address `scheme://user@host/path` with the password.

    Args:
        address: Address with a user and without a password.
        password: Password, which is percent-encoded in the address.
        hint: Beginning of the error, such as `password_file: write the address as rtsp://USER@HOST/PATH`.

    Raises:
        InputError: The address has no user, or has a password already.
    """
    match = re.match(r"([a-z+]+://)([^:/@?]+)@(.*)", address, re.DOTALL)
    if match is None:
        raise InputError(f"{hint}: a user and no password")
    scheme, user, host_and_path = match.groups()
    return f"{scheme}{user}:{quote(password, safe='')}@{host_and_path}"


def tls_context(
    ca_file: str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's certificates and those of `ca_file`.

    Args:
        ca_file: File of further certificates to trust; None: none.
        certificate_file: File of the station's own certificate, which it shows to servers; None: none.
        key_file: File of that certificate's key; None: `certificate_file` has the key, too.

    Raises:
        InputError: A file cannot be read.
    """
    context = ssl.create_default_context()
    file = None  # the file that is being read, for the error
    try:
        if ca_file is not None:
            file = ca_file
            context.load_verify_locations(ca_file)
        if certificate_file is not None:
            file = certificate_file
            context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {file}: {error_text(error)}") from None
    return context


def error_text(error: Exception) -> str:
    """Return the operating system's text for an error, else the error's own message, as one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line_message(error)
