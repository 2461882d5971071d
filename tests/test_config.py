"""Settings from YAML, flags and code: typed, and a wrong one is told with the right one beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from flawscope.config import build, known, parse_assignments, read_config
from flawscope.errors import InputError
from flawscope.methods import registry


@dataclass(frozen=True)
class Example:
    ratio: float = 0.1
    count: int | None = None
    size: tuple[int, int] = (256, 256)
    crop: tuple[int, int] | None = None
    stages: tuple[int, ...] = (2, 3)
    score: Literal["reweighted", "maximum"] = "reweighted"
    flag: bool = False
    name: str = ""
    weights: str | None = None
    hosts: tuple[str, ...] = ()


def yaml(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_of_stored_values_those_whose_settings_have_gone_are_left_out() -> None:
    stored = {"ratio": 0.2, "gone": [1, 2], "flag": True, "": None}
    assert known(Example, stored) == {"ratio": 0.2, "flag": True}
    assert build(Example, known(Example, stored)) == Example(ratio=0.2, flag=True)
    with pytest.raises(InputError, match="unknown setting gone"):
        build(Example, stored)


# -------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("size: 384", (384, 384)),
        ("size: 256x320", (256, 320)),
        ("size: '256x320'", (256, 320)),
        ("size: 256,320", (256, 320)),
        ("size: [256, 320]", (256, 320)),
        ("size: [384]", (384, 384)),
        ("size: 256 x 320", (256, 320)),
    ],
)
def test_a_size_is_height_and_width_however_it_is_written(
    tmp_path: Path, text: str, size: tuple[int, int]
) -> None:
    assert build(Example, read_config(yaml(tmp_path, text))).size == size
    assert build(Example, parse_assignments([text.replace(": ", "=", 1)])).size == size


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ratio": 1}, Example(ratio=1.0)),
        ({"ratio": "1e-3"}, Example(ratio=0.001)),  # YAML 1.1 reads 1e-3 as a text
        ({"count": 5.0}, Example(count=5)),
        ({"count": None}, Example()),
        ({"crop": None}, Example()),
        ({"crop": 224}, Example(crop=(224, 224))),
        ({"stages": "1,2,3"}, Example(stages=(1, 2, 3))),
        ({"stages": 2}, Example(stages=(2,))),
        ({"score": "maximum"}, Example(score="maximum")),
        ({"flag": True}, Example(flag=True)),
        ({"weights": Path("a/b")}, Example(weights="a/b")),
        ({"name": 256}, Example(name="256")),  # YAML reads a size as a number
        ({}, Example()),
    ],
    ids=str,
)
def test_values_are_converted_only_where_nothing_is_lost(values: dict, expected: Example) -> None:
    made = build(Example, values)
    assert made == expected
    assert [type(v) for v in vars(made).values()] == [type(v) for v in vars(expected).values()]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"ratio": "much"}, "ratio: 'much' is not a number"),
        ({"ratio": True}, "is not a number"),
        ({"ratio": float("nan")}, "is not a number"),
        ({"ratio": float("inf")}, "is not a number"),
        ({"ratio": 10**400}, "is not a number"),
        ({"ratio": None}, "is not a number"),
        ({"count": 2.5}, "is not a whole number"),
        ({"count": float("inf")}, "is not a whole number or nothing"),
        ({"count": True}, "is not a whole number"),
        ({"size": [1, 2, 3]}, "is not a number or HxW"),
        ({"size": "large"}, "is not a number or HxW"),
        ({"size": "256x"}, "is not a number or HxW"),
        ({"size": []}, "is not a number or HxW"),
        ({"size": {"h": 3}}, "is not a number or HxW"),
        ({"stages": [1, "b"]}, "numbers like 2,3"),
        ({"score": "best"}, "one of reweighted, maximum"),
        ({"flag": 1}, "true or false"),
        ({"flag": "yes"}, "true or false"),
        ({"name": True}, "a text"),
        ({"name": 2.5}, "a text"),
        ({"weights": [1]}, "a text or nothing"),
    ],
    ids=str,
)
def test_a_wrong_type_is_told_in_words(values: dict, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        build(Example, values)
    assert next(iter(values)) in str(caught.value)


@pytest.mark.parametrize(("key", "near"), [("ratoi", "ratio"), ("Size", "size"), ("stage", "stages")])
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    with pytest.raises(InputError, match=f"unknown setting {key}; did you mean {near}"):
        build(Example, {key: 1})


def test_a_key_near_to_nothing_lists_all() -> None:
    with pytest.raises(InputError, match="known: ratio, count, size"):
        build(Example, {"zzz": 1})
    with pytest.raises(InputError, match="unknown setting 7"):
        build(Example, {7: 1})


# ---------------------------------------------------------------------------------------------------- YAML

CATEGORIES = """
ratio: 0.1
size: 256
categories:
  bottle: {size: 384}
  "01": {ratio: 0.5, size: 128x64}
"""


@pytest.mark.parametrize(
    ("category", "ratio", "size"),
    [
        (None, 0.1, (256, 256)),
        ("screw", 0.1, (256, 256)),
        ("bottle", 0.1, (384, 384)),
        ("01", 0.5, (128, 64)),
    ],
)
def test_a_category_overrides_only_what_it_names(
    tmp_path: Path, category: str | None, ratio: float, size: tuple[int, int]
) -> None:
    made = build(Example, read_config(yaml(tmp_path, CATEGORIES), category))
    assert (made.ratio, made.size) == (ratio, size)


@pytest.mark.parametrize("text", ["", "# nothing\n", "categories:\n", "{}"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str) -> None:
    assert read_config(yaml(tmp_path, text), "bottle") == {}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ratio: [1, 2", "is not YAML"),
        ("ratio: 'a\n  b: c", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("\tratio: 1", "is not YAML"),
        (b"ratio: \xff\xfe", "is not YAML"),
        ("ratio: 2020-13-45", "is not YAML"),
        ("x: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("- a\n- b", "key: value"),
        ("just text", "key: value"),
        ("categories: [a]", "categories"),
        ("categories: {a: 3}", "categories"),
        ("categories: {01: {ratio: 1}}", "in quotes"),
    ],
)
def test_a_bad_file_is_one_line_with_its_name(tmp_path: Path, text: str | bytes, match: str) -> None:
    path = yaml(tmp_path, text)
    with pytest.raises(InputError, match=match) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_a_folder_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(InputError, match="name an existing YAML file"):
            read_config(path)


# -------------------------------------------------------------------------------------------- --set KEY=VALUE


def test_assignments_are_read_as_yaml_and_the_last_one_wins() -> None:
    values = parse_assignments(
        ["ratio=0.05", "keep-aspect=true", "weights=", "a=b=c", "size=[1, 2]", "ratio=0.2"]
    )
    assert values == {"ratio": 0.2, "keep_aspect": True, "weights": None, "a": "b=c", "size": [1, 2]}


@pytest.mark.parametrize("pair", ["ratio", "=3", " =3", "a=[1", "a=2020-13-45", "a=" + "[" * 5000])
def test_a_bad_assignment_is_one_line(pair: str) -> None:
    with pytest.raises(InputError, match="--set") as caught:
        parse_assignments([pair])
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ the methods' own


@pytest.mark.parametrize("method", registry.names())
def test_every_preset_is_a_valid_configuration(method: str) -> None:
    declared = registry.method(method)
    for name in declared.presets:
        assert declared.configure(name).seed == 0, name


@pytest.mark.parametrize("method", registry.names())
def test_a_stored_configuration_builds_the_same_again(method: str) -> None:
    import dataclasses
    import json

    made = build(registry.method(method).config, {"size": "320x288", "seed": 3})
    stored = json.loads(json.dumps(dataclasses.asdict(made)))
    assert build(registry.method(method).config, stored) == made


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="no method called pathcore: did you mean patchcore"):
        registry.method("pathcore")


def test_a_size_is_divided_at_its_x_and_a_name_is_not() -> None:
    assert build(Example, {"size": "256x384", "hosts": "box.example"}).hosts == ("box.example",)
