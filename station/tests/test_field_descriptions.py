"""The API's page describes fields by the docstrings of types."""

from pydantic import TypeAdapter

from flawscope import Region
from flawscope.results import PartPose
from flawscope_station.access.audit import AuditEvent
from flawscope_station.web.field_descriptions import describe_fields


def described(cls):
    schema = TypeAdapter(cls).json_schema()
    describe_fields(schema)
    return schema


def test_attributes_become_descriptions_of_fields():
    region = described(Region)
    assert "Attributes" not in region["description"]
    assert region["description"].startswith("A connected part of the mask")
    assert region["properties"]["area"]["description"] == "area in square pixels"
    kinds = region["properties"]["kinds"]["description"]
    assert kinds.endswith("None: the model names none"), "lines of an entry are joined"


def test_names_share_an_entry():
    pose = described(PartPose)["properties"]
    assert pose["x"]["description"] == pose["y"]["description"]


def test_typed_dictionaries_are_described_and_a_description_of_a_field_stays():
    assert described(AuditEvent)["properties"]["who"]["description"].startswith("user, token")
    schema = {
        "description": "Thing.\n\nAttributes:\n    a: First.\n    b: ID of it.\n\nNote.",
        "properties": {"a": {"description": "given"}, "b": {}},
    }
    describe_fields(schema)
    assert schema == {
        "description": "Thing.\n\nNote.",
        "properties": {"a": {"description": "given"}, "b": {"description": "ID of it"}},
    }


def test_a_description_without_attributes_stays():
    schema = {"description": "Thing.", "properties": {"a": {}}}
    describe_fields(schema)
    assert schema == {"description": "Thing.", "properties": {"a": {}}}


def test_no_type_of_the_api_lists_its_fields_in_its_text(api):
    assert "Attributes:" not in api.get("openapi.json").text
