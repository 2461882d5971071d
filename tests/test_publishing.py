"""What stands around the program for those who publish it."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import flawscope

ROOT = Path(__file__).parents[1]
NOTES = ROOT / ".ci/notes.py"
CHANGELOG = """# Changelog

## [Unreleased]

### Added
- New.

## [0.2.0] - 2026-12-01

### Fixed
- A fault ([decision 3](docs/decisions/3.md)).

## [0.1.0] - 2026-11-01
"""


def test_notes_are_the_section_of_a_version():
    notes = runpy.run_path(str(NOTES))["notes"]
    fixed = "### Fixed\n- A fault ([decision 3](docs/decisions/3.md))."
    assert notes(CHANGELOG, "0.2.0", "0.3.0") == notes(CHANGELOG, None, "0.2.0") == fixed
    assert notes(CHANGELOG, None, "0.3.0") == "### Added\n- New."
    for version in ("0.1.0", "9.9"):  # nothing in it; not there
        with pytest.raises(SystemExit, match=f"says nothing of {version}: it has Unreleased, 0.2.0"):
            notes(CHANGELOG, version, "0.3.0")
    done = subprocess.run([sys.executable, NOTES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### Added")


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
