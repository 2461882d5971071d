"""Settings of a station in `station.yaml`: products, the store, limits, retention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unicodedata import combining, normalize

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic.dataclasses import dataclass

from flawscope.artefact import files
from flawscope.calibration import near_threshold
from flawscope.errors import InputError
from flawscope_station.settings.includes import read_file
from flawscope_station.settings.openid import OpenIdSettings
from flawscope_station.settings.plugins import ConfiguredPlugin, read_connections, read_pages
from flawscope_station.settings.shifts import ShiftSettings, times_of_day
from flawscope_station.settings.sinks import SinkSettings, read_broker, read_sinks
from flawscope_station.settings.sources import FolderSourceSettings, SourceSettings, read_source
from flawscope_station.settings.values import (
    CONFIG,
    Age,
    FilePath,
    Section,
    Share,
    Size,
    name_validator,
    read_as,
    redact_address,
    seconds_such_as,
    secret,
    split_host_port,
    with_password,
    worded_errors,
)

DEFAULT_NAME = "station"  # default name of a station
DEFAULT_FOLDER = "station"  # default folder of the store
DATABASE_FILE = "station.sqlite"  # in the store
RESERVED_NAMES = ("static", "api", "sign-in", "sign-out", "language", "healthz", "readyz", "metrics")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_GERMAN = {ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue", ord("ß"): "ss"}  # the same as in new.js
_NAME_RULE = "use letters, digits, dot, dash and underscore, 64 at most"

AtLeastOne = Annotated[int, Field(ge=1)]


def check_product_name(name: str) -> str:
    """Return the name of a product. InputError: it cannot stand in the addresses of the product's pages."""
    if name.lower() in RESERVED_NAMES:
        raise InputError(f"{name!r} cannot be a product's name: it is a page of its own; choose another")
    if not re.fullmatch(_NAME, name):
        raise InputError(f"{name!r} cannot be a product's name: {_NAME_RULE}")
    return name


def find_namesake(name: str, product_names: Iterable[str]) -> str:
    """Return the name that differs from `name` only in upper and lower case; "": there is none.

    On Windows and macOS, files named after the two products, such as reports, would overwrite each other.
    """
    for product_name in product_names:
        if product_name != name and product_name.lower() == name.lower():
            return product_name
    return ""


def _check_namesakes(
    products: dict[str, ProductSettings], info: ValidationInfo
) -> dict[str, ProductSettings]:
    """Return the products unchanged. InputError: two names in a settings file differ only in case."""
    if info.context is None:  # not from a file: a station may have such products from before
        return products
    for name in products:
        if namesake := find_namesake(name, products):
            raise InputError(f"product {name} differs from {namesake} in capital letters alone: rename it")
    return products


def _read_sources(value: object, info: ValidationInfo) -> tuple[SourceSettings, ...]:
    """Read the setting `sources` of a product.

    Raises:
        InputError: The value is no list, or a source in it is wrong.
    """
    entries = value or []
    if not isinstance(entries, list | tuple):
        raise InputError("sources is not a list: write `- folder: DIR` or `- camera: ADDRESS` below it")
    return tuple(read_source(entry, info.context or Path()) for entry in entries)


def _check_upload(upload_bytes: int, info: ValidationInfo) -> int:
    """Return the limit of a request's size unchanged. InputError: a settings file has less than 64 KB."""
    is_from_file = info.context is not None
    if is_from_file and upload_bytes < 64 * 1024:
        raise InputError("64 KB or more: no page could be used with less")
    return upload_bytes


def _check_engine(engine: str) -> str:
    if engine not in files.ENGINES:
        raise InputError(f"{engine!r:.40} is none: choose {' or '.join(files.ENGINES)}")
    return engine


@dataclass(frozen=True, config=CONFIG)
class LearningSettings(Section):
    """Settings of learning from verdicts.

    Attributes:
        after: Number of corrections after which a version is made.
        keep: Number of unused versions that are kept.
        trained: File of the trained model (.safetensors) from which the product's `model` was exported; None:
            `model` is the trained model itself.
        pictures: Folder of the pictures that the model was fitted on, for methods that are trained anew;
            None: such methods cannot learn.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "rule": "a person activates a version, on the page Models or by the API: leave it out"
    }

    after: AtLeastOne = 5
    keep: AtLeastOne = 5
    trained: FilePath | None = None
    pictures: FilePath | None = None


@dataclass(frozen=True, config=CONFIG)
class ProductSettings(Section):
    """Settings of an inspected product.

    Attributes:
        model: Model file of any kind; a joint model has several products, which all have these settings.
            None: the model is made on the station's pages.
        folder: Folder whose pictures are inspected; None: none.
        drift: Bound of the probability of a false alarm of drift; None: drift is not tested.
        camera_checks: Report pictures that are dark, overexposed or of another size, and do not answer a
            picture that repeats that of an earlier part.
        sinks: Systems that get the product's inspections.
        sources: Folders and cameras whose pictures are inspected, besides `folder`.
        learn: When versions are made from corrections; None: only on request.
        deadline: Seconds in which a request must be answered that has no deadline of its own; None: it waits.
        part_deadline: Seconds for which a folder waits for the other views of a part before it reports those
            that are missing.
        false_alarm_rate: Share of good parts that may be called anomalous, such as `2 %`, for every version;
            None: each version's own rate, which people can change on the page of models.
        challenge: Times of day and names of shifts at which the challenge parts must pass, besides after
            every change; None: no times.
        tolerances: File of the rules that tolerate an anomalous part; None: nothing is tolerated.
    """

    model: FilePath | None = None
    folder: FilePath | None = None
    drift: Share | None = 0.01
    camera_checks: bool = True
    sinks: Annotated[
        tuple[SinkSettings, ...],
        BeforeValidator(lambda value, info: read_sinks(value, info.context or Path())),
    ] = ()
    sources: Annotated[tuple[SourceSettings, ...], BeforeValidator(_read_sources)] = ()
    learn: LearningSettings | None = None
    deadline: Annotated[float, seconds_such_as("800 ms")] | None = None
    part_deadline: Annotated[float, seconds_such_as("10 s")] = 10.0
    false_alarm_rate: Share | None = None
    challenge: tuple[str, ...] | None = None
    tolerances: FilePath | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_model(cls, settings: object) -> object:
        """Return the settings; a single text is taken for the setting `model`. InputError: they are None."""
        if settings is None:
            raise InputError("it has no model: write `model: FILE` below it, or `model: null`")
        return {"model": settings} if isinstance(settings, str) else settings

    @property
    def all_sources(self) -> tuple[SourceSettings, ...]:
        """Settings of all sources, those of `folder` first."""
        if self.folder is None:
            return self.sources
        return (FolderSourceSettings(self.folder), *self.sources)


@dataclass(frozen=True, config=CONFIG)
class Limits(Section):
    """Limits that are checked before a picture is decoded.

    Attributes:
        queue: Largest number of parts that wait or are being judged; further ones are refused with 503.
        wait: Seconds in which a part must be answered; after them it fails, and frees its place and memory.
        upload: Largest number of bytes of a request; all requests that are being received or answered hold at
            most four times as many.
        pixels: Largest number of pixels of a picture; large pictures, and those of one part, together take at
            most ten times as many bytes while they are decoded.
        stalled: Seconds after which a client that sends nothing more or does not read its answer is cut off.
    """

    queue: AtLeastOne = 64
    wait: Annotated[float, seconds_such_as("5 min")] = 300.0
    upload: Annotated[Size, AfterValidator(_check_upload)] = 100 * 1024**2
    pixels: AtLeastOne = 200_000_000
    stalled: Annotated[float, Field(ge=0.1)] = 30.0

    @property
    def decoding_bytes(self) -> int:
        """Largest number of bytes that large pictures may take together while they are decoded."""
        return 10 * self.pixels  # bytes per pixel while a picture is decoded


@dataclass(frozen=True, config=CONFIG)
class RetentionSettings(Section):
    """Seconds for which pictures and records are kept; None: forever.

    An inspection's record stays when its picture is removed. A picture that a model version learnt from is
    never removed.

    Attributes:
        good: Seconds for pictures that the model passed and nobody reviewed.
        anomalous: Seconds for pictures that the model flagged and nobody reviewed.
        reviewed: Seconds for pictures with a verdict.
        records: Seconds for inspections themselves, with their verdicts; trends are kept forever.
        space: Largest number of bytes of all pictures together; beyond it the oldest are removed, good ones
            first, reviewed ones last. None: no limit.
    """

    good: Age | None = 30 * 86400.0
    anomalous: Age | None = 365 * 86400.0
    reviewed: Age | None = None
    records: Age | None = 5 * 365 * 86400.0
    space: Size | None = None


def _check_public_address(address: str) -> str:
    """Return an address of the station unchanged.

    Raises:
        InputError: The address has a path: a station's pages cannot lie below one.
    """
    path = address.rpartition("://")[2].partition("/")[2]
    if path.strip("/ "):
        raise InputError(
            f"{address!r:.80} is no name of a station, which needs one of its own, or a port: write "
            "line3.example, line3.example:8443 or https://line3.example"
        )
    return address


def _check_syslog(text: str) -> str:
    """Return the address of the syslog server unchanged. InputError: it is not HOST:PORT."""
    split_host_port(text, "syslog")
    return text


@dataclass(frozen=True, config=CONFIG)
class Settings(Section):
    """Settings of a station.

    Attributes:
        products: Settings of each product, by name.
        name: Name of the station, in messages to other systems.
        store: Folder of everything that the station keeps.
        database: URL of a PostgreSQL database (`postgresql://user:password@host/name`); None: SQLite in the
            store.
        password_file: File with the password, which the URL leaves out.
        host: Address at which the station listens; another one than this machine's requires users or tokens.
        port: Port at which the station listens.
        public: Names and addresses of the station, besides those of this machine.
        proxy: Whether a proxy on this machine stands in front and names the client (X-Forwarded-For,
            X-Forwarded-Proto).
        engine: Inference engine, as for `predict`; None: ONNX Runtime.
        device: Device, as for `predict`.
        threads: Number of threads, as for `predict`; None: all cores but one.
        near: Good pictures with p-values up to this multiple of the model's false-alarm rate are offered for
            review, too.
        limits: Limits of parts and requests.
        keep: How long pictures and records are kept.
        mqtt: Broker that gets all inspections; None: none.
        connections: Plugins that send pictures and get the decisions, such as a PLC.
        pages: Plugins whose pages the station shows beside its own.
        shifts: Begins of the shifts; None: there are no shifts.
        openid: Provider of a company's accounts; None: people have accounts of the station alone.
        syslog: HOST:PORT of a syslog server that gets the events; None: none.
    """

    products: Annotated[
        dict[Annotated[str, AfterValidator(check_product_name)], ProductSettings],
        AfterValidator(_check_namesakes),
    ] = field(default_factory=dict)
    name: Annotated[str, name_validator(_NAME, _NAME_RULE, "a station's")] = DEFAULT_NAME
    store: Annotated[FilePath, Field(validate_default=True)] = DEFAULT_FOLDER
    database: str | None = None
    password_file: FilePath | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public: tuple[Annotated[str, AfterValidator(_check_public_address)], ...] = ()
    proxy: bool = False
    engine: Annotated[str, AfterValidator(_check_engine)] | None = None
    device: str = "auto"
    threads: AtLeastOne | None = None
    near: Annotated[float, Field(ge=0)] = near_threshold.NEAR
    limits: Limits = Limits()
    keep: RetentionSettings = RetentionSettings()
    mqtt: Annotated[
        SinkSettings | None, BeforeValidator(lambda value, info: read_broker(value, info.context or Path()))
    ] = None
    connections: Annotated[
        tuple[ConfiguredPlugin, ...],
        BeforeValidator(lambda value, info: read_connections(value, info.context or Path())),
    ] = ()
    pages: Annotated[
        tuple[ConfiguredPlugin, ...],
        BeforeValidator(lambda value, info: read_pages(value, info.context or Path())),
    ] = ()
    shifts: ShiftSettings | None = None
    openid: OpenIdSettings | None = None
    syslog: Annotated[str, AfterValidator(_check_syslog)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, settings: object) -> object:
        """Return the settings that are not None; the others get their defaults."""
        if not isinstance(settings, Mapping):
            return settings
        return {name: value for name, value in settings.items() if value is not None}

    def __post_init__(self) -> None:
        _ = self.url  # InputError where it is wrong
        for name, product in self.products.items():
            try:
                times_of_day(product.challenge or (), self.shifts)  # InputError where a name is wrong
            except InputError as error:
                raise InputError(f"product {name}: {error}") from None

    @property
    def url(self) -> str:
        """URL of the database for SQLAlchemy, with the password.

        Raises:
            InputError: The setting `database` or `password_file` is wrong.
        """
        if self.database is None:
            if self.password_file is not None:
                raise InputError(
                    "setting password_file is PostgreSQL's: name its `database`, or leave it out"
                )
            return f"sqlite:///{Path(self.store).resolve() / DATABASE_FILE}"
        scheme, separator, after_scheme = self.database.partition("://")
        if not separator or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise InputError(
                f"setting database: {redact_address(self.database)!r} is not postgresql://user@host/name"
            )
        url = f"postgresql+psycopg://{after_scheme}"
        if self.password_file is None:
            return url
        password = secret(self.password_file, "setting password_file")
        hint = "setting password_file: write `database` as postgresql://user@host/name"
        return with_password(url, password, hint)


def read_settings(path: str | Path) -> Settings:
    """Read a settings file; all paths, also those in included files, are relative to this file's folder.

    Raises:
        InputError: The file cannot be read, or has unknown settings or values of the wrong kind.
    """
    try:
        return read_as(Settings, read_file(path), home=Path(path).resolve().parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def suggest_product_name(text: str) -> str:
    """Return a valid name of a product that is as similar to the text as possible."""
    decomposed = normalize("NFKD", text.translate(_GERMAN))  # é becomes e, followed by a combining accent
    without_accents = "".join(character for character in decomposed if not combining(character))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", without_accents).strip("-._")[:64] or "product"
    return f"{name}-1" if name.lower() in RESERVED_NAMES else name


def single_product_settings(model: str, name: str, folder: str | None = None) -> Settings:
    """Return the settings of a station with one product.

    Args:
        model: Model file of the product.
        name: Name of the product.
        folder: Folder whose pictures are inspected; None: none.

    Raises:
        InputError: The file is no model by its suffix, or the name cannot be a product's.
    """
    files.suffix_of(model)  # raises InputError
    with worded_errors():
        return Settings({name: ProductSettings(model, folder)})


def override_settings(settings: Settings, **values: object) -> Settings:
    """Return the settings with some values replaced.

    Args:
        settings: Settings of the file.
        values: New values by the settings' names; None: the setting stays as it is.

    Raises:
        InputError: A value is wrong.
    """
    overrides: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    with worded_errors():
        return replace(settings, **overrides)
