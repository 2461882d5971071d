"""What stands around the program for those who publish it."""

import hashlib
import importlib
import inspect
import re
import shutil
import tomllib
from functools import cached_property
from pathlib import Path

import pytest
import yaml

import flawscope
from public_names import member_names, public_names

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == flawscope.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def release(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "deploy"))
    return importlib.import_module("release")


def test_all_distributions_and_their_pins_have_one_version(release):
    found = release.versions_found()
    assert set(found.values()) == {flawscope.__version__}
    assert "station/pyproject.toml: flawscope" in found
    assert "line/pyproject.toml: flawscope-station" in found
    assert "pyproject.toml: flawscope-weights" in found


def test_a_version_is_written_into_every_place(release, monkeypatch, tmp_path):
    for name in {*release.VERSION_PLACES, *release.PROJECTS}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    release.set_version("1.2.3rc1")
    assert set(release.versions_found().values()) == {"1.2.3rc1"}


def test_links_of_a_page_lead_into_the_repository(release):
    page = "[a](docs/a.md#part) ![b](images/b.png) [c](https://x.org) [d](#here) [e](../NOTICE)"
    assert release.absolute_links(page, "station", "https://forge.example/o/f") == (
        "[a](https://forge.example/o/f/blob/main/station/docs/a.md#part) "
        "![b](https://forge.example/o/f/raw/main/station/images/b.png) [c](https://x.org) [d](#here) "
        "[e](https://forge.example/o/f/blob/main/NOTICE)"
    )


def test_the_copies_of_the_licence_and_of_the_build_backend_are_equal():
    """Each distribution is built from its own folder, so each holds its own copy."""
    licence = (ROOT / "LICENSE").read_bytes()
    for folder in ("station", "line", "weights", "weights/dinov2"):
        assert (ROOT / folder / "LICENSE").read_bytes() == licence
        assert not (ROOT / folder / "LICENSE").is_symlink()
    backends = [(ROOT / folder / "collect.py").read_bytes() for folder in ("weights", "weights/dinov2")]
    assert backends[0] == backends[1]


def requirements(folder):
    """Names of what a distribution needs, by extra; the project's own are left out."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    lines = [*project.get("dependencies", []), *(line for each in extras.values() for line in each)]
    development = {re.match(r"[\w-]+", line)[0] for name in ("dev", "docs") for line in extras.get(name, [])}
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    return {name for name in names - development if not name.startswith("flawscope")}


@pytest.mark.parametrize("folder", [".", "station", "line"])
def test_the_notice_names_every_package_that_is_needed(folder):
    notice = (ROOT / folder / "NOTICE").read_text(encoding="utf-8").lower().replace("_", "-")
    spelled = {"openvino": "openvino", "av": "pyav"}
    missing = [name for name in requirements(folder) if spelled.get(name, name.lower()) not in notice]
    assert not missing


def test_the_weights_are_those_that_the_library_looks_for():
    """Each hash stands where the file is fetched, where it is read, and on the package's page."""
    from flawscope.methods.features.weights import PACKAGED

    for folder in ("weights", "weights/dinov2"):
        settings = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
        page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        for entry in settings["tool"]["flawscope"]["weights"]:
            name = Path(entry["file"]).name
            (packaged,) = [one for one in PACKAGED.values() if one.file == name]
            assert packaged.sha256 == entry["sha256"]
            assert packaged.distribution == settings["project"]["name"]
            assert f"| `{name}` |" in page
            assert entry["sha256"] in page


def test_the_teachers_are_those_on_the_page_of_the_weights():
    page = (ROOT / "weights/README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "weights/src/flawscope_weights").glob("*.safetensors")):
        assert f"| `{path.name}` |" in page
        assert hashlib.sha256(path.read_bytes()).hexdigest() in page


def test_the_workflow_runs_what_is_there():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    calls = [step["run"] for step in steps if "run" in step]
    assert ".ci/run" in calls
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = {call.split()[1] for call in calls if call.startswith("make ")}
    assert asked == {"dist", "docs", "notes"} <= set(targets)


@pytest.mark.parametrize("name", ["bug.yml", "wish.yml"])
def test_issue_forms_are_forms(name):
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_no_public_name_changes_unseen():
    """What changes here changes for others: docs/stability.md says how. After a wanted change:
    python tests/public_names.py > tests/fixtures/public-names.txt"""
    known = (ROOT / "tests/fixtures/public-names.txt").read_text(encoding="utf-8").splitlines()
    found = public_names()
    assert sorted({*known} - {*found}) == [], "gone: warn for one version first"
    assert sorted({*found} - {*known}) == [], "new: add them to the list"


def undescribed_names() -> list[str]:
    """Promised classes, functions and members of classes that no docstring says anything of."""
    missing = []
    for name in sorted(flawscope._LAZY_IMPORTS):
        value = getattr(flawscope, name)
        if not inspect.getdoc(value):
            missing.append(name)
        if not inspect.isclass(value):
            continue
        of_classes = " ".join(inspect.getdoc(base) or "" for base in value.__mro__)
        for member in member_names(value):
            found = inspect.getattr_static(value, member, None)
            is_described = callable(found) or isinstance(found, property | cached_property | classmethod)
            if is_described and inspect.getdoc(getattr(value, member)):
                continue
            if not re.search(rf"\b{member}\b", of_classes):
                missing.append(f"{name}.{member}")
    return missing


def test_a_promised_name_says_what_it_is():
    assert undescribed_names() == []
