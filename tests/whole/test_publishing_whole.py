"""What stands around the program for those who publish it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
