"""Tables of the database, for SQLite and PostgreSQL. Times are microseconds since 1970 in UTC.

A change of a table needs a step in the folder `steps`, as `migrations` explains; a test compares the migrated
tables with these.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    ScalarSelect,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
    or_,
    select,
)

from flawscope_station.store.column_types import Hash, Key, Name
from flawscope_station.store.filters import FILTERS, TEXTS, asked_columns
from flawscope_station.store.purposes import CHALLENGE, PRODUCTION, TRIAL

HOUR = 3_600_000_000  # microseconds
GOOD = "good"  # decision on a picture
ANOMALOUS = "anomalous"  # decision on a picture
WITHIN = "within tolerance"  # decision on a picture: anomalous, and a person's rules tolerate it
# reasons why a sender got no answer
LATE = "late"
WITHDRAWN = "withdrawn"
ABANDONED = "abandoned"
UNANSWERED = (LATE, WITHDRAWN, ABANDONED)
EARLIER_RELEASE = ""  # value of `challenges.state_hash` from a release that computed the hash otherwise
REPORT_VIEW = "inspection_report"  # view for other programs: its columns stay (docs/station-shifts.md)
# SQL of a time from microseconds: a text in SQLite, a timestamp with time zone in PostgreSQL
_TIME_SQL = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {0} / 1000000.0, 'unixepoch')",
    "postgresql": "to_timestamp({0} / 1000000.0)",
}


def create_view_sql(dialect: str) -> str:
    """Return the SQL that makes the view `REPORT_VIEW` for other programs."""
    at = _TIME_SQL[dialect].format("inspections.at")
    return f"""
CREATE VIEW {REPORT_VIEW} AS SELECT
    inspections.id AS inspection, stations.name AS station, products.name AS product, {at} AS at,
    CASE WHEN inspections.tolerated THEN 'within tolerance'
        WHEN inspections.anomalous THEN 'anomalous' ELSE 'good' END AS decision,
    inspections.score AS score, inspections.score_threshold AS threshold, inspections.p_value AS p_value,
    inspections.severity AS severity, inspections.verdict AS verdict, inspections.part AS part,
    inspections.batch AS batch, inspections.view AS view, inspections.name AS picture,
    inspections.source AS source, versions.id AS version, versions.file AS model,
    inspections.unanswered AS unanswered
FROM inspections JOIN products ON products.id = inspections.product_id
JOIN stations ON stations.id = products.station_id JOIN versions ON versions.id = inspections.version_id
WHERE inspections.purpose = '{PRODUCTION}'
"""


metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_name)s",
        "uq": "%(table_name)s_%(column_0_name)s_once",
        "fk": "%(table_name)s_%(column_0_name)s_of",
        "pk": "%(table_name)s_key",
    }
)


def _id_column() -> Column[int]:
    """Make a column of numbers that the database gives to new rows."""
    return Column("id", Key, primary_key=True, autoincrement=True)


def _product_column(primary_key: bool = False) -> Column[int]:
    """Make a column with the number of a row's product."""
    return Column(
        "product_id",
        Key,
        ForeignKey("products.id"),
        primary_key=primary_key,
        autoincrement=False,
        nullable=False,
    )


def _picture_foreign_key(table: str) -> ForeignKeyConstraint:
    """Make the foreign key from a table's columns `product_id` and `picture` to `pictures`."""
    columns = ["product_id", "picture"]
    return ForeignKeyConstraint(columns, ["pictures.product_id", "pictures.hash"], name=f"{table}_picture_of")


def _partial_index(
    name: str, where: ColumnElement[bool], *columns: Column[Any], unique: bool = False
) -> None:
    """Add an index of those rows of a table that meet the condition `where`."""
    Index(name, *columns, sqlite_where=where, postgresql_where=where, unique=unique)


# One row: the station to which the database belongs
stations = Table(
    "stations",
    metadata,
    _id_column(),
    Column("name", String(64), nullable=False, unique=True),
    Column("folder", String(32), unique=True),  # identity of the station's folder; NULL: not known yet
    Column("started_at", BigInteger),
    Column("clock_at", BigInteger),  # last time at which the computer's clock was right
    Column("settings", Text),  # JSON: fingerprint of each setting at the last start
)

products = Table(
    "products",
    metadata,
    _id_column(),
    Column("station_id", Key, ForeignKey("stations.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("entry_id", Key),  # entry whose joint model has the product; NULL: the product has its own model
    UniqueConstraint("station_id", "name"),
)

# States of a version
MAKING = "making"  # its file is being kept, or the new model is being judged
READY = "ready"  # it may be activated
ACTIVE = "active"  # it judges
RETIRED = "retired"  # it has judged earlier
REMOVED = "removed"  # its file was removed; the row stays, so that the number names no other file
versions = Table(
    "versions",
    metadata,
    _id_column(),
    _product_column(),
    Column("hash", Hash, nullable=False),
    Column("file", Text, nullable=False),  # path below the station's folder
    Column("origin", Text, nullable=False),  # where the file came from, for a person
    Column("facts", Text, nullable=False),  # JSON: facts about the model, for a person
    Column("created_at", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
)
Index("versions_product", versions.c.product_id, versions.c.id)
# literals, not parameters: a partial index serves only queries that state its condition
IS_ACTIVE = versions.c.state == literal_column(f"'{ACTIVE}'")
IS_KEPT = versions.c.state != literal_column(f"'{REMOVED}'")
_partial_index("versions_active", IS_ACTIVE, versions.c.product_id, unique=True)
_partial_index("versions_once", IS_KEPT, versions.c.product_id, versions.c.hash, unique=True)
Index("versions_hash", versions.c.hash)  # for the question whether any product needs a file


def active_version(product: Column[int] | int) -> ScalarSelect[int]:
    """Return an SQL expression: the number of a product's active version; NULL: no version is active."""
    active_versions = versions.alias()  # an alias, because the query around it may use `versions` itself
    is_active = active_versions.c.state == literal_column(f"'{ACTIVE}'")
    query = select(active_versions.c.id).where(active_versions.c.product_id == product, is_active)
    return query.scalar_subquery()


# Two products may have the same picture, and keep it for different times
pictures = Table(
    "pictures",
    metadata,
    _product_column(primary_key=True),
    Column("hash", Hash, primary_key=True),
    Column("suffix", String(8), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("pixels", Hash),  # hash of the decoded pixels
    Column("removed_at", BigInteger),  # time at which the file was removed; the records stay
)
Index("pictures_hash", pictures.c.hash)  # for the question whether any product has a file's picture
# pictures that were not removed, whose bytes are often summed up
_partial_index(
    "pictures_there",
    pictures.c.removed_at.is_(None),
    pictures.c.product_id,
    pictures.c.hash,
    pictures.c.bytes,
)

# Judged parts: a row each time that a part came. For a part in several views, the facts of a picture are
# those of the most unusual one; `views` has them all. `filters` has the columns that are searched
inspections = Table(
    "inspections",
    metadata,
    _id_column(),
    _product_column(),
    Column("picture", Hash, nullable=False),
    Column("source", String(16), nullable=False),
    Column("key", String(200)),  # from the sender; a key is recorded once
    Column("p_value", Double, nullable=False),
    Column("severity", Double, nullable=False),
    Column("score_threshold", Double, nullable=False),
    Column("near", Boolean, nullable=False),
    Column("record", Text, nullable=False),  # JSON: the library's answer, and facts of the station
    Column("kind", Name),  # kind of the defect in the last verdict; NULL: not named
    Column("request_hash", Hash),  # hash of all that came under the sender's key
    Column("view", Name),  # view that the picture shows; NULL: the part has a single picture
    Column("challenge_id", Key, ForeignKey("challenges.id")),  # NULL: it belongs to no challenge
    Column("challenge_part_id", Key, ForeignKey("challenge_parts.id")),
    *asked_columns(),
    _picture_foreign_key("inspections"),
)
_texts = asked_columns([filter_ for filter_ in FILTERS if filter_.kind in TEXTS])
# Covers all filters except texts, so that a search filters a million rows in the index alone. The order is
# that of arrival, which a wrong clock does not change
Index(
    "inspections_search",
    inspections.c.product_id,
    inspections.c.id,
    *asked_columns([filter_ for filter_ in FILTERS if filter_.kind not in TEXTS]),
)
for _text in _texts:
    if _text.nullable:
        _has_text = _text.is_not(None)
        _partial_index(
            f"inspections_{_text.name}", _has_text, inspections.c.product_id, _text, inspections.c.id
        )
    else:
        Index(f"inspections_{_text.name}", inspections.c.product_id, _text)
Index("inspections_at", inspections.c.product_id, inspections.c.at)
_is_waiting = inspections.c.review == "waiting"
_partial_index("inspections_waiting", _is_waiting, inspections.c.product_id, inspections.c.id)
IS_REVIEWED = inspections.c.verdict.is_not(None)  # condition
_partial_index("inspections_reviewed", IS_REVIEWED, inspections.c.product_id, inspections.c.id)
# partial, because most parts have no key: a planner would conclude from them that a key finds many rows
_has_key = inspections.c.key.is_not(None)
_partial_index("inspections_by_key", _has_key, inspections.c.product_id, inspections.c.key, unique=True)
Index("inspections_picture", inspections.c.product_id, inspections.c.picture)
IS_PRODUCTION = inspections.c.purpose == literal_column(f"'{PRODUCTION}'")  # condition


def on_line(product_id: int) -> ColumnElement[bool]:
    """Return the SQL condition that an inspection is of a product and of the production.

    Challenges, and trials by hand, are left out. Every query that learns, shows trends or counts uses it.
    """
    return and_(inspections.c.product_id == product_id, IS_PRODUCTION)


# literals, not parameters: a partial index serves only queries that state its condition
IS_CHALLENGE = inspections.c.purpose == literal_column(f"'{CHALLENGE}'")
_partial_index("inspections_challenge", IS_CHALLENGE, inspections.c.product_id, inspections.c.id)
IS_TRIAL = inspections.c.purpose == literal_column(f"'{TRIAL}'")
_partial_index("inspections_trial", IS_TRIAL, inspections.c.product_id, inspections.c.id)
_partial_index("inspections_trial_version", IS_TRIAL, inspections.c.version_id)

# Pictures of a part in several views, in the order of the model's views
views = Table(
    "views",
    metadata,
    Column("inspection_id", Key, ForeignKey("inspections.id"), primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    _product_column(),
    Column("picture", Hash, nullable=False),
    Column("view", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("key", String(200)),  # key of a folder's file
    Column("score", Double, nullable=False),
    Column("p_value", Double, nullable=False),
    Column("severity", Double, nullable=False),
    Column("score_threshold", Double, nullable=False),
    Column("anomalous", Boolean, nullable=False),
    Column("tolerated", Boolean, nullable=False),
    Column("record", Text, nullable=False),
    _picture_foreign_key("views"),
)
Index("views_picture", views.c.product_id, views.c.picture)
_partial_index("views_file", views.c.key.is_not(None), views.c.product_id, views.c.key)

verdicts = Table(
    "verdicts",
    metadata,
    _id_column(),
    Column("inspection_id", Key, ForeignKey("inspections.id"), nullable=False, index=True),
    _product_column(),  # product of the inspection: a sink reads the verdicts of one product
    Column("verdict", String(8), nullable=False),  # good, defect, skip; undo: takes the last verdict back
    Column("at", BigInteger, nullable=False),
    Column("who", String(64), nullable=False),
    Column("mask", Hash),  # hash of the file with the mask; NULL: nobody drew a mask
    Column("note", Text, nullable=False),
    Column("kind", Name),  # kind of the defect; NULL: not named
    Column("key", String(200)),  # from the sender; a key is recorded once for each inspection
)
Index("verdicts_product", verdicts.c.product_id, verdicts.c.id)
_partial_index("verdicts_mask", verdicts.c.mask.is_not(None), verdicts.c.mask)
Index("verdicts_once", verdicts.c.inspection_id, verdicts.c.key, unique=True)

# Sums of each hour and model version, updated with every inspection and verdict, for trends over months
hours = Table(
    "hours",
    metadata,
    Column("product_id", Key, ForeignKey("products.id"), primary_key=True),
    Column("version_id", Key, ForeignKey("versions.id"), primary_key=True),
    Column("hour", BigInteger, primary_key=True),  # hours since 1970
    Column("inspected", Integer, nullable=False),
    Column("anomalous", Integer, nullable=False),  # without inspections within tolerance
    Column("within_tolerance", Integer, nullable=False),
    Column("unanswered", Integer, nullable=False),
    Column("score_sum", Double, nullable=False),
    Column("score_min", Double, nullable=False),
    Column("score_max", Double, nullable=False),
    Column("reviewed", Integer, nullable=False),
    Column("defects", Integer, nullable=False),  # verdicts
    Column("false_alarms", Integer, nullable=False),  # decided anomalous, and a person said good
    Column("misses", Integer, nullable=False),  # decided good or within tolerance, and a person said defect
)
Index("hours_hour", hours.c.product_id, hours.c.hour)

# Pictures of the station that a model version was learnt from; they are never removed
learnt = Table(
    "learnt",
    metadata,
    Column("version_id", Key, ForeignKey("versions.id"), primary_key=True),
    Column("product_id", Key, primary_key=True),  # product of the picture
    Column("picture", Hash, primary_key=True),
    _picture_foreign_key("learnt"),
)

# Hashes of the decoded pixels of all pictures that a model version was learnt from, as the model file has
# them; the station need not have the pictures
learnt_pixels = Table(
    "learnt_pixels",
    metadata,
    Column("version_id", Key, ForeignKey("versions.id"), primary_key=True),
    Column("pixels", Hash, primary_key=True),
)
Index("learnt_pixels_pixels", learnt_pixels.c.pixels)

# Keys of a folder's pictures whose records were removed by the setting `keep`: a file that is still in the
# folder is not inspected again
removed_files = Table(
    "removed_files",
    metadata,
    _product_column(primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("picture", Hash, nullable=False),
    Column("inspection_id", BigInteger, nullable=False),  # number of the removed record
)

# Jobs that make models: versions from verdicts, and models of new products
QUEUED = "queued"
RUNNING = "running"
jobs = Table(
    "jobs",
    metadata,
    _id_column(),
    Column("kind", String(12), nullable=False),  # corrections, fit
    Column("product_id", Key, ForeignKey("products.id")),  # NULL: of a new product
    Column("draft", String(64)),  # name of the new product
    Column("start_version_id", Key, ForeignKey("versions.id")),  # version from which the model is made
    Column("version_id", Key, ForeignKey("versions.id")),  # version that the model became
    Column("status", String(12), nullable=False),  # queued, running, done, stopped, rejected, failed
    Column("who", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("facts", Text, nullable=False),  # JSON: options, verdicts, judgement, error
)
Index("jobs_product", jobs.c.product_id, jobs.c.id)
# literals, not parameters: a partial index serves only queries that state its condition
_is_queued = jobs.c.status == literal_column(f"'{QUEUED}'")
_is_running = jobs.c.status == literal_column(f"'{RUNNING}'")
IS_UNFINISHED = or_(_is_queued, _is_running)
_partial_index("jobs_unfinished", IS_UNFINISHED, jobs.c.id)
_partial_index("jobs_draft", jobs.c.draft.is_not(None), jobs.c.draft)

users = Table(
    "users",
    metadata,
    _id_column(),
    Column("name", String(64), nullable=False, unique=True),
    Column("password", Text, nullable=False),  # argon2 hash; "": signs in with the company's account
    Column("role", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("subject", Text),  # issuer and ID of the company's account; NULL: an account of the station
)

Index("users_subject", users.c.subject, unique=True)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", Hash, primary_key=True),  # hash of the cookie
    Column("user_id", Key, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    _id_column(),
    Column("name", String(64), nullable=False, unique=True),
    Column("hash", Hash, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("expires_at", BigInteger),
)

# Kinds of events about a picture that was not inspected
UNREADABLE = "unreadable"
VANISHED = "gone"
PASSED_OVER = "passed over"
REPEATED = "the same again"
MISSED = "not inspected"  # a part that was in front of a camera, or whose picture came to a folder
NOT_INSPECTED_EVENTS = (UNREADABLE, VANISHED, PASSED_OVER, REPEATED, MISSED)

# Events of the station: sign-ins, activations, new users, verdicts and so on
events = Table(
    "events",
    metadata,
    _id_column(),
    Column("at", BigInteger, nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("who", String(64), nullable=False),
    Column("product_id", Key, ForeignKey("products.id")),
    Column("text", Text, nullable=False),
    Column("address", String(64)),  # IP address of the request's sender; NULL: there was no request
)
Index("events_kind", events.c.product_id, events.c.kind, events.c.id)
Index("events_product", events.c.product_id, events.c.id)

# Position of each sink: later inspections and verdicts are still to be delivered
deliveries = Table(
    "deliveries",
    metadata,
    _product_column(primary_key=True),
    Column("sink", String(80), primary_key=True),  # kind of the sink, and a hash of its name or address
    Column("inspection_id", BigInteger, nullable=False),  # last inspection that was delivered or left out
    Column("verdict_id", BigInteger, nullable=False),  # last verdict that was delivered or left out
    Column("delivered", BigInteger, nullable=False),  # number of messages since the sink was added
    Column("refused", BigInteger, nullable=False),  # number of messages that the receiver refused
)

# Messages that the receiver refused for good, which a person may send again
undelivered = Table(
    "undelivered",
    metadata,
    _product_column(primary_key=True),
    Column("sink", String(80), primary_key=True),  # as in `deliveries`
    Column("inspection_id", BigInteger, primary_key=True, autoincrement=False),
    # 0: the message was about the inspection itself
    Column("verdict_id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("why", Text, nullable=False),  # reason of the refusal
    Column("again", Boolean, nullable=False),  # whether the message is to be sent again
)

# Parts with a known answer, which a product must judge rightly before it answers requests
challenge_parts = Table(
    "challenge_parts",
    metadata,
    _id_column(),
    _product_column(),
    Column("name", Name, nullable=False),  # number of the part with which a sender shows it
    Column("expected", String(12), nullable=False),  # decision: good, anomalous
    Column("note", Text, nullable=False),
    Column("removed_at", BigInteger),
)

# Stored picture of each view of a challenge part
challenge_views = Table(
    "challenge_views",
    metadata,
    Column("part_id", Key, ForeignKey("challenge_parts.id"), primary_key=True),
    Column("view", Name, primary_key=True),  # "": the part has a single picture
    Column("pixels", Hash, nullable=False),
    Column("boxes", Text, nullable=False),  # JSON: boxes of the regions, as shares of the picture's sides
    Column("picture", LargeBinary, nullable=False),  # WebP
)

# Challenges; the result of a challenge follows from the inspections that belong to it
challenges = Table(
    "challenges",
    metadata,
    _id_column(),
    _product_column(),
    Column("version_id", Key, ForeignKey("versions.id"), nullable=False),
    Column("state_hash", Hash, nullable=False),  # hash of the settings and the challenge parts
    Column("parts", Text, nullable=False),  # JSON: number of each challenge part, and its decision
    Column("cause", String(12), nullable=False),  # why the challenge was due
    Column("who", String(64), nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("reason", Text),  # reason of an override; NULL: no override, parts are shown
)
Index("challenges_product", challenges.c.product_id, challenges.c.id)
