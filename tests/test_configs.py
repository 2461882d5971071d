"""The shipped configurations say what the code does."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml

from flawscope import config
from flawscope.methods import registry
from flawscope.station.settings import station as settings

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "station")


def test_every_method_ships_one():
    assert {path.stem for path in SHIPPED} == set(registry.BUILT_IN)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_lists_every_setting_with_its_default(path):
    values = config.read_config(path)
    cls = registry.method(path.stem).config
    assert set(values) == {field.name for field in fields(cls)}
    assert config.build(cls, values) == cls()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_its_example_of_categories_works(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    head, found, example = text.partition("# categories:\n")
    assert found, "the example is missing"
    example = "".join(line.removeprefix("# ") for line in (found + example).splitlines(keepends=True))
    overrides = yaml.safe_load(example)["categories"]
    assert overrides
    copy = tmp_path / path.name
    copy.write_text(head + example, encoding="utf-8")
    cls = registry.method(path.stem).config
    for category, changed in overrides.items():
        built = config.build(cls, config.read_config(copy, category))
        assert built == config.build(cls, {**asdict(cls()), **changed})
        assert built != cls()
    assert config.build(cls, config.read_config(copy, "another")) == cls()


def test_the_stations_lists_every_setting_with_its_default():
    values = config.read_config(CONFIGS / "station.yaml")
    assert set(values) == {field.name for field in fields(settings.Settings)}
    for part, cls in (("limits", settings.Limits), ("keep", settings.Keep)):
        assert set(values[part]) == {field.name for field in fields(cls)}
    read = settings.read_settings(CONFIGS / "station.yaml")
    assert read.products == {
        "plate": settings.Product(str(CONFIGS / "part.safetensors"), learn=settings.Learn())
    }
    learn = values["products"]["plate"]["learn"]
    assert set(learn) == {field.name for field in fields(settings.Learn)}
    assert replace(read, products={}, store=settings.FOLDER) == settings.Settings()
