"""Settings of a station in `station.yaml`: products, the store, limits, times of keeping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flawscope.artefact import files
from flawscope.config import build_config, read_config
from flawscope.errors import InputError
from flawscope_station.settings.openid import OpenIdSettings, read_openid
from flawscope_station.settings.plugins import ConfiguredPlugin, read_connections
from flawscope_station.settings.shifts import ShiftSettings, clock_text, read_shifts, times_of_day
from flawscope_station.settings.sinks import (
    MqttSettings,
    PluginSinkSettings,
    SinkSettings,
    read_mqtt,
    read_sinks,
)
from flawscope_station.settings.sources import FolderSourceSettings, SourceSettings, read_source
from flawscope_station.settings.values import (
    parse_age,
    parse_share,
    parse_size,
    redact_address,
    resolve_paths,
    secret,
    time_of,
    with_password,
)

DEFAULT_NAME = "station"  # default name of a station
DEFAULT_FOLDER = "station"  # default folder of the store
DATABASE_FILE = "station.sqlite"  # in the store
MIN_UPLOAD_BYTES, MIN_STALLED_SECONDS = 64 * 1024, 0.1  # bytes, seconds
RESERVED_NAMES = ("static", "api", "sign-in", "sign-out", "language", "healthz", "readyz", "metrics")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = "use letters, digits, dot, dash and underscore, 64 at most"


@dataclass(frozen=True)
class LearningSettings:
    """Settings of learning from verdicts.

    rule: `ask`: a version waits for a click; `auto`: it goes live where it loses no known defect and has
    fewer false alarms.
    after: number of corrections after which a version is made.
    keep: number of versions that were made and never used and are kept.
    trained: the trained model (.safetensors) of which `model` is an export.
    pictures: folder of the pictures that the model was fitted on, for methods that are trained anew.
    """

    rule: Literal["ask", "auto"] = "ask"
    after: int = 5
    keep: int = 5
    trained: str | None = None
    pictures: str | None = None

    def __post_init__(self) -> None:
        if self.after < 1 or self.keep < 1:
            raise InputError("after and keep must be 1 or more")


@dataclass(frozen=True)
class ProductSettings:
    """Settings of an inspected product.

    model: a model file of any kind; a joint one stands for all of its products, which have these settings;
    None: one that is made on the station's pages.
    folder: pictures that appear in it are inspected, too.
    drift: bound of the probability of a false alarm of drift; None: drift is not tested.
    camera_checks: pictures that are dark, overexposed or of another size are reported; a picture that comes
    again and again is not answered.
    sinks: where its inspections go.
    sources: folders and cameras beside `folder`.
    learn: how versions are made from corrections by themselves; None: only on request.
    deadline: time in which a request that names none must be answered; None: it waits.
    part_deadline: time for which a folder waits for the other views of a part before it says what is missing.
    false_alarm_rate: share of good parts that may be called anomalous, `2 %`, whichever version judges; None:
    as the version was made, and as people change it on the page of models.
    challenge: times of day and names of shifts at which the challenge parts must pass, as after every change;
    None: never.
    tolerances: file of the rules that tolerate an anomalous part; None: nothing is tolerated.
    """

    model: str | None = None
    folder: str | None = None
    drift: str | None = "1 %"
    camera_checks: bool = True
    sinks: tuple[SinkSettings | PluginSinkSettings, ...] = ()
    sources: tuple[SourceSettings, ...] = ()
    learn: LearningSettings | None = None
    deadline: str | None = None
    part_deadline: str = "10 s"
    false_alarm_rate: str | float | None = None
    challenge: tuple[str, ...] | None = None
    tolerances: str | None = None

    @property
    def wanted_rate(self) -> float | None:
        """`false_alarm_rate` as a share, 0 to 0.5, both exclusive; None: as the version has it."""
        rate = self.false_alarm_rate
        return None if rate is None else parse_share(str(rate), "false_alarm_rate")

    @property
    def part_seconds(self) -> float:
        return time_of(self.part_deadline, "part_deadline", "a time such as 10 s")

    @property
    def deadline_seconds(self) -> float | None:
        return None if self.deadline is None else time_of(self.deadline, "deadline", "a time such as 800 ms")

    @property
    def drift_bound(self) -> float | None:
        """Bound of the probability of a false alarm, 0 to 0.5, both exclusive; None: drift is not tested."""
        return None if self.drift is None else parse_share(self.drift, "drift")

    @property
    def all_sources(self) -> tuple[SourceSettings, ...]:
        """All sources, `folder` first."""
        return self.sources if self.folder is None else (FolderSourceSettings(self.folder), *self.sources)


@dataclass(frozen=True)
class Limits:
    """Limits that are checked before a picture is decoded.

    queue: pictures that wait or are being judged, at most; more are refused with 503.
    upload: bytes of a request; all that are being received or answered hold four times as many, at most.
    pixels: of a picture; large ones take ten times as many bytes together while they are decoded, at most.
    stalled: seconds after which a client that sends nothing more or does not read its answer is cut off.
    """

    queue: int = 64
    upload: str = "100 MB"
    pixels: int = 200_000_000
    stalled: float = 30.0

    @property
    def upload_bytes(self) -> int:
        return parse_size(self.upload, "limits: upload")

    @property
    def decoding_bytes(self) -> int:
        """Bytes that large pictures may take together while they are decoded."""
        return 10 * self.pixels


@dataclass(frozen=True)
class RetentionSettings:
    """Times for which pictures are kept, by kind; null is for ever. Records stay when a picture is removed.

    good: the model passed it, and nobody reviewed it.
    anomalous: the model flagged it, and nobody reviewed it.
    reviewed: there is a verdict.
    records: inspections themselves.
    space: of all pictures together; beyond it the oldest are removed, good ones first, reviewed ones last.

    A picture that a model version learnt from is never removed.
    """

    good: str | None = "30 days"
    anomalous: str | None = "1 year"
    reviewed: str | None = None
    records: str | None = None
    space: str | None = None

    def seconds(self, kind: str) -> float | None:
        """Return the time for which a kind is kept; None: for ever."""
        value = getattr(self, kind)
        return None if value is None else parse_age(value, f"keep: {kind}")

    @property
    def space_bytes(self) -> int | None:
        return None if self.space is None else parse_size(self.space, "keep: space")


@dataclass(frozen=True)
class Settings:
    """Settings of a station.

    name: of the station, in messages to other systems.
    store: folder of everything that the station keeps.
    database: URL of a PostgreSQL data base (`postgresql://user:password@host/name`); None: SQLite in the
    store.
    password_file: holds the password that the URL leaves out.
    host, port: where the station listens; another host than this machine requires users or tokens.
    public: names and addresses of the station beside this machine's.
    proxy: a proxy on this machine stands in front and names the client (X-Forwarded-For, X-Forwarded-Proto).
    engine, device, threads: as for `predict`; None: ONNX Runtime, all cores but one.
    near: good pictures with p-values up to this multiple of the model's false-alarm rate are reviewed, too.
    mqtt: the broker that gets all inspections.
    connections: plugins that have pictures judged and are answered, such as a PLC.
    shifts: when shifts begin, and where reports of them go.
    openid: the provider of a company's accounts; None: people have accounts of the station alone.
    """

    products: Mapping[str, ProductSettings] = field(default_factory=dict)
    name: str = DEFAULT_NAME
    store: str = DEFAULT_FOLDER
    database: str | None = None
    password_file: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    public: tuple[str, ...] = ()
    proxy: bool = False
    engine: str | None = None
    device: str = "auto"
    threads: int | None = None
    near: float = 1.5
    limits: Limits = Limits()
    keep: RetentionSettings = RetentionSettings()
    mqtt: MqttSettings | None = None
    connections: tuple[ConfiguredPlugin, ...] = ()
    shifts: ShiftSettings | None = None
    openid: OpenIdSettings | None = None

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
    """Read a settings file; paths in it are relative to the file.

    Raises:
        InputError: the file cannot be read, or has unknown settings or values of the wrong kind.
    """
    values, home = read_config(path), Path(path).resolve().parent
    products = values.pop("products", None) or {}
    if not isinstance(products, dict):
        raise InputError(f"{path}: `products` must map a name to its model")
    try:
        mqtt = read_mqtt(values.pop("mqtt", None), home)
        connections = read_connections(values.pop("connections", None), home)
        shifts = read_shifts(values.pop("shifts", None), home)
        openid = read_openid(values.pop("openid", None), home)
        given = {key: one for key, one in values.items() if one is not None or key not in ("limits", "keep")}
        settings = resolve_paths(build_config(Settings, given), home, "store", "password_file")
        read = {check_product_name(str(key)): read_product(key, one, home) for key, one in products.items()}
        settings = replace(settings, products=read, mqtt=mqtt, connections=connections)
        return check_settings(replace(settings, shifts=shifts, openid=openid))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_settings(settings: Settings) -> Settings:
    """Return the same settings. InputError where a value is not allowed."""
    if not _NAME.fullmatch(settings.name):
        raise InputError(f"name {settings.name!r:.80} cannot be a station's: {_NAME_RULE}")
    _ = settings.url, settings.limits.upload_bytes, settings.keep.space_bytes
    for kind in ("good", "anomalous", "reviewed", "records"):
        settings.keep.seconds(kind)
    for name, product in settings.products.items():
        try:
            _ = product.drift_bound, product.deadline_seconds, product.part_seconds, product.wanted_rate
            times_of_day(product.challenge or (), settings.shifts)
        except InputError as error:
            raise InputError(f"product {name}: {error}") from None
    if not 0 <= settings.port < 65536:
        raise InputError(f"port {settings.port} is not one: choose 1 to 65535, or 0 for a free one")
    if settings.limits.queue < 1 or settings.limits.pixels < 1:
        raise InputError("limits: queue and pixels must be 1 or more")
    if settings.limits.upload_bytes < MIN_UPLOAD_BYTES or settings.limits.stalled < MIN_STALLED_SECONDS:
        raise InputError(
            "limits: upload must be 64 KB or more, stalled 0.1 s: no page could be used with less"
        )
    if settings.engine not in (None, *files.ENGINES):
        raise InputError(f"engine {settings.engine!r:.40} is none: choose {' or '.join(files.ENGINES)}")
    if settings.near < 0:
        raise InputError("near must be 0 or more")
    return settings


def check_product_name(name: str) -> str:
    """Return the name of a product, which stands in addresses. InputError."""
    if name.lower() in RESERVED_NAMES:
        raise InputError(f"{name!r} cannot be a product's name: it is a page of its own; choose another")
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a product's name: {_NAME_RULE}")
    return name


def suggest_product_name(text: str) -> str:
    """Return the nearest name that a product can have."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "product"
    return f"{name}-1" if name.lower() in RESERVED_NAMES else name


def single_product_settings(model: str, name: str, folder: str | None = None) -> Settings:
    """Return the settings of a station for one model file."""
    files.suffix_of(model)
    return Settings(products={check_product_name(name): ProductSettings(model, folder)})


def override_settings(settings: Settings, **values: Any) -> Settings:
    """Return the settings with the values that are not None, as the command line gives them."""
    return check_settings(
        replace(settings, **{name: value for name, value in values.items() if value is not None})
    )


def read_product(name: str, value: Any, home: Path) -> ProductSettings:
    """Read what stands below a product's name; paths are relative to `home`. InputError."""
    given = {"model": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise InputError(f"product {name} has no model: write `model: FILE` below it, or `model: null`")
    listed = given.get("sources") or []
    try:
        if not isinstance(listed, list):
            raise InputError("sources is not a list: write `- folder: DIR` or `- camera: ADDRESS` below it")
        plain = {key: one for key, one in given.items() if key not in ("sources", "sinks")}
        if isinstance(times := plain.get("challenge"), list):
            plain["challenge"] = [clock_text(time) for time in times]
        found = resolve_paths(build_config(ProductSettings, plain), home, "model", "folder", "tolerances")
        sinks, sources = read_sinks(given.get("sinks"), home), tuple(read_source(one, home) for one in listed)
    except InputError as error:
        raise InputError(f"product {name}: {error}") from None
    learn = found.learn and resolve_paths(found.learn, home, "trained", "pictures")
    return replace(found, sources=sources, sinks=sinks, learn=learn)
