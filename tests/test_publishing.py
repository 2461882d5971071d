"""What stands around the program for those who publish it."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import flawscope

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == flawscope.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("house", ["station", "line"])
def test_the_houses_have_one_version(house):
    project = tomllib.loads((ROOT / house / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == flawscope.__version__


def test_the_workflow_runs_what_is_there():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    calls = [step["run"] for step in steps if "run" in step]
    assert ".ci/run" in calls
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = {call.split()[1] for call in calls if call.startswith("make ")}
    assert asked == {"dist", "notes"} <= set(targets)


@pytest.mark.parametrize("name", ["bug.yml", "wish.yml"])
def test_issue_forms_are_forms(name):
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part.get("validations", {}).get("required") for part in fields)
