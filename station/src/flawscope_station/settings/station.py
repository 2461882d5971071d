"""Settings of a station in `station.yaml`: products, the store, limits, times of keeping."""

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
    named,
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
_GERMAN = {ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue", ord("ß"): "ss"}  # as new.js has them
_NAME_RULE = "use letters, digits, dot, dash and underscore, 64 at most"

AtLeastOne = Annotated[int, Field(ge=1)]


def check_product_name(name: str) -> str:
    """Return the name of a product, which stands in addresses. InputError."""
    if name.lower() in RESERVED_NAMES:
        raise InputError(f"{name!r} cannot be a product's name: it is a page of its own; choose another")
    if not re.fullmatch(_NAME, name):
        raise InputError(f"{name!r} cannot be a product's name: {_NAME_RULE}")
    return name


def find_namesake(name: str, known: Iterable[str]) -> str:
    """Return the known product whose name differs in capital letters alone; "": there is none.

    Files that are named by products, such as reports, would be one on Windows and macOS.
    """
    return next((other for other in known if other != name and other.lower() == name.lower()), "")


def _check_namesakes(
    products: dict[str, ProductSettings], info: ValidationInfo
) -> dict[str, ProductSettings]:
    for name in products if info.context is not None else ():  # of a file: what a station has goes on
        if namesake := find_namesake(name, products):
            raise InputError(f"product {name} differs from {namesake} in capital letters alone: rename it")
    return products


def _read_sources(given: object, info: ValidationInfo) -> tuple[SourceSettings, ...]:
    entries = given or []
    if not isinstance(entries, list | tuple):
        raise InputError("sources is not a list: write `- folder: DIR` or `- camera: ADDRESS` below it")
    return tuple(read_source(entry, info.context or Path()) for entry in entries)


def _enough_for_pages(upload: int, info: ValidationInfo) -> int:
    if upload < 64 * 1024 and info.context is not None:
        raise InputError("64 KB or more: no page could be used with less")
    return upload


def _one_of_engines(engine: str) -> str:
    if engine not in files.ENGINES:
        raise InputError(f"{engine!r:.40} is none: choose {' or '.join(files.ENGINES)}")
    return engine


@dataclass(frozen=True, config=CONFIG)
class LearningSettings(Section):
    """Settings of learning from verdicts.

    Attributes:
        after: Number of corrections after which a version is made.
        keep: Number of versions that were made and never used and are kept.
        trained: The trained model (.safetensors) from which `model` was exported.
        pictures: Folder of the pictures that the model was fitted on, for methods that are trained anew.
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
        model: A model file of any kind; a joint one stands for all of its products, which have these
            settings. None: a model that is made on the station's pages.
        folder: Pictures that appear in it are inspected, too.
        drift: Bound of the probability of a false alarm of drift; None: drift is not tested.
        camera_checks: Pictures that are dark, overexposed or of another size are reported; a picture that
            repeats that of an earlier part is not answered.
        sinks: Where its inspections go.
        sources: Folders and cameras beside `folder`.
        learn: How versions are made from corrections by themselves; None: only on request.
        deadline: Seconds in which a request that names none must be answered; None: it waits.
        part_deadline: Seconds for which a folder waits for the other views of a part before it reports those
            that are missing.
        false_alarm_rate: Share of good parts that may be called anomalous, `2 %`, whichever version judges;
            None: as the version was made, and as people change it on the page of models.
        challenge: Times of day and names of shifts at which the challenge parts must pass, as after every
            change; None: never.
        tolerances: File of the rules that tolerate an anomalous part; None: nothing is tolerated.
    """

    model: FilePath | None = None
    folder: FilePath | None = None
    drift: Share | None = 0.01
    camera_checks: bool = True
    sinks: Annotated[
        tuple[SinkSettings, ...],
        BeforeValidator(lambda given, info: read_sinks(given, info.context or Path())),
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
    def _read_model(cls, given: object) -> object:
        if given is None:
            raise InputError("it has no model: write `model: FILE` below it, or `model: null`")
        return {"model": given} if isinstance(given, str) else given

    @property
    def all_sources(self) -> tuple[SourceSettings, ...]:
        """All sources, `folder` first."""
        return self.sources if self.folder is None else (FolderSourceSettings(self.folder), *self.sources)


@dataclass(frozen=True, config=CONFIG)
class Limits(Section):
    """Limits that are checked before a picture is decoded.

    Attributes:
        queue: Parts that wait or are being judged, at most; more are refused with 503.
        wait: Seconds in which a part must be answered; one that is not fails, and gives back its place and
            memory.
        upload: Bytes of a request; all that are being received or answered hold four times as many, at most.
        pixels: Of a picture; large ones, and those of one part, take ten times as many bytes together while
            they are decoded, at most.
        stalled: Seconds after which a client that sends nothing more or does not read its answer is cut off.
    """

    queue: AtLeastOne = 64
    wait: Annotated[float, seconds_such_as("5 min")] = 300.0
    upload: Annotated[Size, AfterValidator(_enough_for_pages)] = 100 * 1024**2
    pixels: AtLeastOne = 200_000_000
    stalled: Annotated[float, Field(ge=0.1)] = 30.0

    @property
    def decoding_bytes(self) -> int:
        """Bytes that large pictures may take together while they are decoded."""
        return 10 * self.pixels


@dataclass(frozen=True, config=CONFIG)
class RetentionSettings(Section):
    """Seconds for which pictures are kept, by kind; None: forever. Records stay when a picture is removed.

    A picture that a model version learnt from is never removed.

    Attributes:
        good: The model passed it, and nobody reviewed it.
        anomalous: The model flagged it, and nobody reviewed it.
        reviewed: There is a verdict.
        records: Inspections themselves, with their verdicts; trends are kept forever.
        space: Bytes of all pictures together; beyond it the oldest are removed, good ones first, reviewed
            ones last.
    """

    good: Age | None = 30 * 86400.0
    anomalous: Age | None = 365 * 86400.0
    reviewed: Age | None = None
    records: Age | None = 5 * 365 * 86400.0
    space: Size | None = None


def _without_path(address: str) -> str:
    """Return an address of the station, which has no path: its pages lie at the top."""
    if address.rpartition("://")[2].partition("/")[2].strip("/ "):
        raise InputError(
            f"{address!r:.80} is no name of a station, which needs one of its own, or a port: write "
            "line3.example, line3.example:8443 or https://line3.example"
        )
    return address


def _host_and_port(text: str) -> str:
    split_host_port(text, "syslog")
    return text


@dataclass(frozen=True, config=CONFIG)
class Settings(Section):
    """Settings of a station.

    Attributes:
        products: Settings of each product, by name.
        name: Of the station, in messages to other systems.
        store: Folder of everything that the station keeps.
        database: URL of a PostgreSQL data base (`postgresql://user:password@host/name`); None: SQLite in the
            store.
        password_file: Holds the password that the URL leaves out.
        host: Where the station listens; another host than this machine requires users or tokens.
        port: Where the station listens.
        public: Names and addresses of the station beside this machine's.
        proxy: A proxy on this machine stands in front and names the client (X-Forwarded-For,
            X-Forwarded-Proto).
        engine: As for `predict`; None: ONNX Runtime.
        device: As for `predict`.
        threads: As for `predict`; None: all cores but one.
        near: Good pictures with p-values up to this multiple of the model's false-alarm rate are reviewed,
            too.
        limits: Of parts and requests.
        keep: How long pictures and records are kept.
        mqtt: The broker that gets all inspections.
        connections: Plugins that have pictures judged and are answered, such as a PLC.
        pages: Plugins whose pages the station shows beside its own.
        shifts: When shifts begin.
        openid: The provider of a company's accounts; None: people have accounts of the station alone.
        syslog: HOST:PORT of a syslog server, which gets the events; None: nobody does.
    """

    products: Annotated[
        dict[Annotated[str, AfterValidator(check_product_name)], ProductSettings],
        AfterValidator(_check_namesakes),
    ] = field(default_factory=dict)
    name: Annotated[str, named(_NAME, _NAME_RULE, "a station's")] = DEFAULT_NAME
    store: Annotated[FilePath, Field(validate_default=True)] = DEFAULT_FOLDER
    database: str | None = None
    password_file: FilePath | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public: tuple[Annotated[str, AfterValidator(_without_path)], ...] = ()
    proxy: bool = False
    engine: Annotated[str, AfterValidator(_one_of_engines)] | None = None
    device: str = "auto"
    threads: AtLeastOne | None = None
    near: Annotated[float, Field(ge=0)] = near_threshold.NEAR
    limits: Limits = Limits()
    keep: RetentionSettings = RetentionSettings()
    mqtt: Annotated[
        SinkSettings | None, BeforeValidator(lambda given, info: read_broker(given, info.context or Path()))
    ] = None
    connections: Annotated[
        tuple[ConfiguredPlugin, ...],
        BeforeValidator(lambda given, info: read_connections(given, info.context or Path())),
    ] = ()
    pages: Annotated[
        tuple[ConfiguredPlugin, ...],
        BeforeValidator(lambda given, info: read_pages(given, info.context or Path())),
    ] = ()
    shifts: ShiftSettings | None = None
    openid: OpenIdSettings | None = None
    syslog: Annotated[str, AfterValidator(_host_and_port)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: object) -> object:
        """Leave out settings without a value, which have their default."""
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if value is not None}

    def __post_init__(self) -> None:
        _ = self.url
        for name, product in self.products.items():
            try:
                times_of_day(product.challenge or (), self.shifts)
            except InputError as error:
                raise InputError(f"product {name}: {error}") from None

    @property
    def url(self) -> str:
        """URL of the data base for SQLAlchemy, with the password. InputError."""
        if self.database is None:
            if self.password_file is not None:
                raise InputError(
                    "setting password_file is PostgreSQL's: name its `database`, or leave it out"
                )
            return f"sqlite:///{Path(self.store).resolve() / DATABASE_FILE}"
        scheme, found, rest = self.database.partition("://")
        if not found or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise InputError(
                f"setting database: {redact_address(self.database)!r} is not postgresql://user@host/name"
            )
        url = f"postgresql+psycopg://{rest}"
        if self.password_file is None:
            return url
        password = secret(self.password_file, "setting password_file")
        right = "setting password_file: write `database` as postgresql://user@host/name"
        return with_password(url, password, right)


def read_settings(path: str | Path) -> Settings:
    """Read a settings file; paths in it, and in files that it includes, are relative to the file.

    Raises:
        InputError: the file cannot be read, or has unknown settings or values of the wrong kind.
    """
    try:
        return read_as(Settings, read_file(path), Path(path).resolve().parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def suggest_product_name(text: str) -> str:
    """Return the nearest name that a product can have."""
    plain = "".join(
        character for character in normalize("NFKD", text.translate(_GERMAN)) if not combining(character)
    )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:64] or "product"
    return f"{name}-1" if name.lower() in RESERVED_NAMES else name


def single_product_settings(model: str, name: str, folder: str | None = None) -> Settings:
    """Return the settings of a station for one model file. InputError."""
    files.suffix_of(model)
    with worded_errors():
        return Settings({name: ProductSettings(model, folder)})


def override_settings(settings: Settings, **values: object) -> Settings:
    """Return the settings with the values that are not None, as the command line gives them. InputError."""
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    with worded_errors():
        return replace(settings, **given)
