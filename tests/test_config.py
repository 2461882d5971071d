"""Settings from YAML, flags and code: typed, and a wrong one is told with the right one beside it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import pytest
from yaml import safe_load

from flawscope.config import build_config, keep_known_settings, parse_assignments, read_config
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope_station.settings import station as settings

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "station")


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
    recipes: Mapping[int, str] = field(default_factory=dict)


def yaml(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_of_stored_values_those_whose_settings_have_gone_are_left_out():
    stored = {"ratio": 0.2, "gone": [1, 2], "flag": True, "": None}
    assert keep_known_settings(Example, stored) == {"ratio": 0.2, "flag": True}
    assert build_config(Example, keep_known_settings(Example, stored)) == Example(ratio=0.2, flag=True)
    with pytest.raises(InputError, match="unknown setting gone"):
        build_config(Example, stored)


@pytest.mark.parametrize("text", ["256x320", "'256x320'", "256,320", "[256, 320]", "256 x 320"])
def test_a_size_is_height_and_width_however_it_is_written(tmp_path, text):
    assert build_config(Example, read_config(yaml(tmp_path, f"size: {text}"))).size == (256, 320)
    assert build_config(Example, parse_assignments([f"size={text}"])).size == (256, 320)
    assert build_config(Example, {"hosts": "box.example"}).hosts == ("box.example",)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ratio": 1}, Example(ratio=1.0)),
        ({"ratio": "1e-3"}, Example(ratio=0.001)),
        ({"count": 5.0}, Example(count=5)),
        ({"count": "010"}, Example(count=10)),  # eight in YAML 1.1
        ({"count": "1.0e3"}, Example(count=1000)),
        ({"count": None}, Example()),
        ({"crop": 224}, Example(crop=(224, 224))),
        ({"size": [384]}, Example(size=(384, 384))),
        ({"stages": "1,2,3"}, Example(stages=(1, 2, 3))),
        ({"stages": 2}, Example(stages=(2,))),
        ({"score": "maximum"}, Example(score="maximum")),
        ({"flag": True}, Example(flag=True)),
        ({"flag": "On"}, Example(flag=True)),
        ({"flag": "no"}, Example(flag=False)),
        ({"weights": Path("a/b")}, Example(weights="a/b")),
        ({"name": 256}, Example(name="256")),  # YAML reads a size as a number
        ({"recipes": {1: "plate", 2.0: 7}}, Example(recipes={1: "plate", 2: "7"})),
        ({}, Example()),
    ],
    ids=str,
)
def test_values_are_converted_only_where_nothing_is_lost(values, expected):
    made = build_config(Example, values)
    assert made == expected
    assert [type(v) for v in vars(made).values()] == [type(v) for v in vars(expected).values()]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"ratio": "much"}, "ratio: 'much' is not a number"),
        ({"ratio": True}, "is not a number"),
        ({"ratio": float("inf")}, "is not a number"),
        ({"ratio": 10**400}, "is not a number"),
        ({"ratio": None}, "ratio: no value is not a number"),
        ({"score": "maximumm"}, "'maximumm' is not one of reweighted, maximum"),
        ({"count": 2.5}, "is not a whole number"),
        ({"count": True}, "is not a whole number"),
        ({"size": [1, 2, 3]}, "is not a number or HxW"),
        ({"size": "256x"}, "is not a number or HxW"),
        ({"size": []}, "is not a number or HxW"),
        ({"size": {"h": 3}}, "is not a number or HxW"),
        ({"stages": [1, "b"]}, "numbers like 2,3"),
        ({"score": "best"}, "one of reweighted, maximum"),
        ({"flag": 1}, "true or false"),
        ({"flag": "1"}, "true or false"),
        ({"count": "12:30"}, "'12:30' is not a whole number"),  # 750 in YAML 1.1
        ({"recipes": {"1": "plate", "01": "lid"}}, "lines of `key: value`"),
        ({"name": True}, "a text"),
        ({"weights": [1]}, "a text or nothing"),
        ({"recipes": {"one": "plate"}}, "lines of `key: value`"),
        ({"recipes": ["plate"]}, "lines of `key: value`"),
    ],
    ids=str,
)
def test_a_wrong_type_is_told_in_words(values, match):
    with pytest.raises(InputError, match=match) as caught:
        build_config(Example, values)
    assert next(iter(values)) in str(caught.value)


def test_an_unknown_key_names_the_nearest_or_all():
    for key, said in (
        ("ratoi", "ratoi; did you mean ratio"),
        ("Size", "Size; did you mean size"),
        ("zzz", "known: ratio, count, size"),
        (7, "unknown setting 7"),
    ):
        with pytest.raises(InputError, match=said):
            build_config(Example, {key: 1})


CATEGORIES = """
ratio: 0.1
size: 256
categories:
  bottle: {size: 384}
  01: {ratio: 0.5, size: 128x64}
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
def test_a_category_overrides_only_what_it_names(tmp_path, category, ratio, size):
    made = build_config(Example, read_config(yaml(tmp_path, CATEGORIES), category))
    assert (made.ratio, made.size) == (ratio, size)
    for nothing in ("", "# nothing\n", "categories:\n"):
        assert read_config(yaml(tmp_path, nothing), category) == {}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ratio: [1, 2", "is not YAML"),
        ("a: b: c", "is not YAML"),
        (b"ratio: \xff\xfe", "is not YAML"),
        ("ratio: 1\nsize: 2\nratio: 1", "ratio stands twice, line 3; mend that line"),
        ("categories: {a: {size: 2, 'size': 2}}", "size stands twice, line 1"),
        ("rtsp://a:word@h: 1\nrtsp://a:word@h: 2", "YAML: a name stands twice, line 2"),
        ("[a, b]: 1", "a name is no text, line 1"),
        ("ratio: 1".encode("utf-16-le"), "no text in UTF-8; save it as UTF-8"),
        ("ratio: größer".encode("cp1252"), "letters are not UTF-8; save it as UTF-8"),
        ("x: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("[" * 2000, "is nested more than 20 deep"),
        ("{a: " * 1000 + "1" + "}" * 1000, "is nested more than 20 deep"),
        ("\n".join(" " * k + "a:" for k in range(200)), "is nested more than 20 deep"),
        ("- " * 1000, "is nested more than 20 deep"),
        ("a: 1\n" * 21_000, "more than 100,000 characters"),
        ("a: &a [1, 1]\nb: [" + "*a, " * 40 + "1]", "more than 30 aliases"),
        ("- a\n- b", "key: value"),
        ("categories: [a]", "categories"),
        ("categories: {a: 3}", "categories"),
    ],
)
def test_a_bad_file_is_one_line_with_its_name(tmp_path, text, match):
    path = yaml(tmp_path, text)
    with pytest.raises(InputError, match=match) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    for missing in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(InputError, match="name an existing YAML file"):
            read_config(missing)


def test_assignments_are_read_as_lines_of_a_file_and_the_last_one_wins():
    words = "ratio=0.05|keep-aspect=true|weights=|a=b=c|size=[1, 2]|ratio=0.2"
    values = parse_assignments(words.split("|"))
    expected = {"ratio": "0.2", "keep_aspect": "true", "weights": None, "a": "b=c", "size": ["1", "2"]}
    assert values == expected


@pytest.mark.parametrize("pair", ["ratio", "=3", " =3", "a=[1", "a={b: 1, b: 2}", "a=" + "[" * 2000])
def test_a_bad_assignment_is_one_line(pair):
    with pytest.raises(InputError, match="--set") as caught:
        parse_assignments([pair])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", registry.names())
def test_every_preset_is_valid_and_a_stored_configuration_builds_the_same_again(method):
    declared = registry.method(method)
    for name in declared.presets:
        assert declared.configure(name).seed == 0, name
    made = build_config(declared.config, {"size": "320x288", "seed": 3})
    assert build_config(declared.config, json.loads(json.dumps(asdict(made)))) == made


def test_every_method_ships_a_configuration():
    assert {path.stem for path in SHIPPED} == set(registry.BUILT_IN)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_configuration_lists_every_setting_with_its_default_and_its_example_of_categories_works(
    path, tmp_path
):
    values, cls = read_config(path), registry.method(path.stem).config
    assert set(values) == {field.name for field in fields(cls)}
    assert build_config(cls, values) == cls()
    head, mark, example = path.read_text(encoding="utf-8").partition("# categories:\n")
    assert mark, "the example is missing"
    example = "".join(line.removeprefix("# ") for line in (mark + example).splitlines(keepends=True))
    overrides = safe_load(example)["categories"]
    assert overrides
    copy = tmp_path / path.name
    copy.write_text(head + example, encoding="utf-8")
    for category, changed in overrides.items():
        built = build_config(cls, read_config(copy, category))
        assert built == build_config(cls, {**asdict(cls()), **changed})
        assert built != cls()
    assert build_config(cls, read_config(copy, "another")) == cls()


def test_the_stations_lists_every_setting_with_its_default():
    values = read_config(CONFIGS / "station.yaml")
    assert set(values) == {field.name for field in fields(settings.Settings)}
    for part, cls in (("limits", settings.Limits), ("keep", settings.RetentionSettings)):
        assert set(values[part]) == {field.name for field in fields(cls)}
    read = settings.read_settings(CONFIGS / "station.yaml")
    plate = settings.ProductSettings(str(CONFIGS / "part.safetensors"), learn=settings.LearningSettings())
    assert read.products == {"plate": plate}
    learn = values["products"]["plate"]["learn"]
    assert set(learn) == {field.name for field in fields(settings.LearningSettings)}
    assert replace(read, products={}, store=settings.DEFAULT_FOLDER) == settings.Settings()
