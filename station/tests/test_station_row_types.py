"""The types of rows and of JSON name what is there: columns of the tables, fields of the API."""

import inspect

import pytest

from flawscope_station.store import inspection, rows, schema

COLUMNS = {
    rows.UserRow: [schema.users],
    rows.MemberRow: [schema.users],
    rows.AccountRow: [schema.tokens],
    rows.TokenRow: [schema.tokens],
    rows.SessionRow: [schema.sessions, schema.users],
    rows.ProductRow: [schema.products],
    rows.EventRow: [schema.events],
    rows.ShownEventRow: [schema.events],
    rows.UndeliveredRow: [schema.undelivered],
    rows.DecisionRow: [schema.inspections],
    rows.InspectionRow: [schema.inspections],
    rows.ShownInspectionRow: [schema.inspections, schema.pictures],
    rows.ChallengeInspectionRow: [schema.inspections, schema.pictures],
    rows.KeyedInspectionRow: [schema.inspections],
    rows.ReviewedRow: [schema.inspections, schema.pictures],
    rows.LatestRow: [schema.inspections],
    rows.DrawnRow: [schema.inspections, schema.pictures],
    rows.LearntPictureRow: [schema.inspections, schema.pictures],
    rows.VersionRow: [schema.versions],
    rows.CalledVersionRow: [schema.versions],
    rows.ViewRow: [schema.views, schema.pictures],
    rows.VerdictRow: [schema.verdicts],
    rows.ChallengePartRow: [schema.challenge_parts],
    rows.ChallengeViewRow: [schema.challenge_views],
    rows.StoredPictureRow: [schema.inspections, schema.pictures],
    rows.RemovableRow: [schema.inspections, schema.pictures],
    rows.FileKeyRow: [schema.removed_files],
    rows.DeliveryRow: [schema.deliveries],
    rows.JobRow: [schema.jobs],
    rows.CandidateRow: [schema.jobs],
}
# that a query makes; of SQLAlchemy's row
LABELS = {"product", "number", "version_state", "called", "contradicts", "_mapping"}


def names_of(kind: type) -> set[str]:
    annotated = {name for base in kind.__mro__ for name in inspect.get_annotations(base)}
    properties = {name for name, value in inspect.getmembers(kind) if isinstance(value, property)}
    return {name for name in annotated | properties if not name.startswith("_is_")} - {"__slots__"}


@pytest.mark.parametrize("kind", COLUMNS, ids=lambda kind: kind.__name__)
def test_a_row_names_columns_of_its_tables(kind):
    columns = {column.name for table in COLUMNS[kind] for column in table.columns}
    assert names_of(kind) - LABELS <= columns


def test_every_kind_of_row_is_tried():
    kinds = {
        kind for _, kind in inspect.getmembers(rows, inspect.isclass) if kind.__module__ == rows.__name__
    }
    assert kinds == set(COLUMNS)


def test_facts_of_an_inspection_are_fields_of_the_api():
    assert inspection.InspectionFacts.__annotations__.keys() <= inspection.Inspection.model_fields.keys()
    assert inspection.ViewFacts.__annotations__.keys() <= inspection.SeenView.model_fields.keys()
