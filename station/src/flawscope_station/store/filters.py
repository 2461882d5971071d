"""Filters of a search of inspections: a row for each, in `FILTERS`.

A row defines the column of `inspections` and its index (`schema`), the value recorded there (`insert`), the
condition (`search`), the parameter of the API with its words, the field in the form of the history, and the
column of exported tables. To add a filter, add a row here, a step in `steps`, and the text `history.NAME` of
each language. Facts of the library (`Prediction.to_dict`) are recorded under their names there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Column, ColumnElement, Double, ForeignKey, String

from flawscope_station.store.column_types import Key, Name
from flawscope_station.store.inspection import Inspection
from flawscope_station.store.purposes import CHALLENGE, PRODUCTION, TRIAL

# How a filter compares.
# since, until: a time at or after the value, a time before it.
# least, most, number: a number that is at least, at most, exactly the value.
# text: a text, or its beginning, as A12*. label: the same of a text that is normalised by `label_text`.
# choice: one of some words, each with a condition.
Kind = Literal["since", "until", "least", "most", "number", "text", "label", "choice"]
TEXTS = ("text", "label")  # kinds whose column has an index of its own
WITH_TRIALS = "with trials"  # word of the filter `purpose`


@dataclass(frozen=True)
class Choice:
    """Word that a filter may have.

    Attributes:
        word: Word in an address.
        condition: Condition that the inspections of this word meet.
        text: Key of its text in the form; "": the form does not offer the word.
    """

    word: str
    condition: ColumnElement[bool]
    text: str = ""


@dataclass(frozen=True)
class Filter:
    """Filter of inspections.

    Attributes:
        name: Name in addresses of the history, and in its form, where `history.NAME` is its text.
        kind: How it compares.
        columns: Columns of `inspections` that its condition uses; the first holds the compared value.
        says: Description in the API.
        choices: Words of a filter of kind `choice`.
        parameter: Name in the API; "": `name`.
        fact: Name of the searched field of an inspection; "": `name`.
        default: Word that is used where a search names none; "": any value passes.
    """

    name: str
    kind: Kind
    columns: tuple[Column[Any], ...]
    says: str = ""
    choices: tuple[Choice, ...] = ()
    parameter: str = ""
    fact: str = ""
    default: str = ""

    @property
    def column(self) -> Column[Any]:
        """Column of `inspections` that holds the compared value."""
        return self.columns[0]

    @property
    def words(self) -> tuple[str, ...]:
        """Words that the filter may have; empty: it is not of kind `choice`."""
        return tuple(choice.word for choice in self.choices)


def bounds(name: str, column: Column[Any], says: str = "") -> tuple[Filter, Filter]:
    """Make the filters NAME_min and NAME_max for the least and the largest value of a number.

    Args:
        name: NAME of the number.
        column: Column of `inspections` that holds the number.
        says: Description of both filters in the API.
    """
    lower = Filter(f"{name}_min", "least", (column,), says, fact=name)
    upper = Filter(f"{name}_max", "most", (column,), says, fact=name)
    return lower, upper


at = Column("at", BigInteger, nullable=False)
anomalous = Column("anomalous", Boolean, nullable=False)  # by its score, also where it is tolerated
tolerated = Column("tolerated", Boolean, nullable=False)
verdict = Column("verdict", String(8))  # last verdict that was not taken back; `verdicts` has the history
review = Column("review", String(8), nullable=False)  # none, waiting, done, skipped
unanswered = Column("unanswered", String(12))  # late, withdrawn, abandoned; NULL: its sender got the answer
# production; challenge: a part shown to see whether the station judges rightly; trial: a try by hand.
# Challenges and trials count in no figure
purpose = Column("purpose", String(12), nullable=False)

DECISIONS = (
    Choice("good", anomalous.is_(False), "common.good"),
    Choice("within tolerance", anomalous.is_(True) & tolerated.is_(True), "common.within tolerance"),
    Choice("anomalous", anomalous.is_(True) & tolerated.is_(False), "common.anomalous"),
)
VERDICTS = (
    Choice("good", verdict == "good", "common.good"),
    Choice("defect", verdict == "defect", "common.defect"),
    Choice("none", verdict.is_(None), "history.verdict_none"),
)
REVIEWS = tuple(
    Choice(word, review == word, f"history.review_{word}") for word in ("waiting", "done", "skipped", "none")
)
ANSWERS = (
    Choice("none", unanswered.is_(None), "history.unanswered_none"),
    Choice("any", unanswered.is_not(None), "history.unanswered_any"),
    Choice("late", unanswered == "late", "refused.late"),
    Choice("withdrawn", unanswered == "withdrawn", "refused.withdrawn"),
    Choice("abandoned", unanswered == "abandoned", "refused.abandoned"),
)
PURPOSES = (
    Choice(PRODUCTION, purpose == PRODUCTION, "history.purpose_production"),
    Choice(TRIAL, purpose == TRIAL, "history.trial"),
    Choice(CHALLENGE, purpose == CHALLENGE),
    Choice(WITH_TRIALS, purpose.in_((PRODUCTION, TRIAL))),
)

FILTERS: tuple[Filter, ...] = (
    Filter(
        "since",
        "since",
        (at,),
        "begin: 2026-11-22 or 2026-11-22T14:30 in the zone of `shifts`, or 2026-11-22T14:30:00Z",
        fact="at",
    ),
    Filter("until", "until", (at,), "end, in the same form; not included", fact="at"),
    Filter("decision", "choice", (anomalous, tolerated), choices=DECISIONS),
    Filter("verdict", "choice", (verdict,), choices=VERDICTS),
    Filter("review", "choice", (review,), choices=REVIEWS),
    Filter(
        "purpose",
        "choice",
        (purpose,),
        "challenge: challenge parts; trial: tries by hand. Neither is found without this filter",
        PURPOSES,
        default=PRODUCTION,
    ),
    Filter("unanswered", "choice", (unanswered,), "why the sender did not get the answer", ANSWERS),
    *bounds("score", Column("score", Double, nullable=False)),
    Filter("version", "number", (Column("version_id", Key, ForeignKey("versions.id"), nullable=False),)),
    Filter(
        "name",
        "text",
        (Column("name", Name, nullable=False),),
        "name of the picture, from its sender; A12* finds all names that begin with A12",
        parameter="file",
    ),
    # the sender gives the number, and a part may be inspected many times
    Filter(
        "part",
        "label",
        (Column("part", Name),),
        "number of the part; 4711* finds all numbers that begin with 4711",
    ),
    Filter(
        "batch",
        "label",
        (Column("batch", Name),),
        "batch of the part; 47* finds all batches that begin with 47",
    ),
)
BY_NAME = {filter_.name: filter_ for filter_ in FILTERS}


def asked_columns(filters: Sequence[Filter] = FILTERS) -> list[Column[Any]]:
    """Return the columns that the conditions of filters use, each only once, in the order of the filters."""
    return list(dict.fromkeys(column for filter_ in filters for column in filter_.columns))


def further_facts() -> list[str]:
    """Return the names of the facts that filters search, without the fields of `Inspection`.

    The returned facts come from the library. Exports have a column for each of them.
    """
    facts = dict.fromkeys(filter_.fact or filter_.name for filter_ in FILTERS)  # each name once
    return [name for name in facts if name not in Inspection.model_fields]
