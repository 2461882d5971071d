"""The scripts in bench/: what they say of themselves, that they run, and where their results came from."""

import json
import re
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
SHARED = ("closed_layouts.py", "common.py", "drawn.py", "models.py", "searches.py")
SCRIPTS = sorted(p.name for p in BENCH.glob("*.py") if p.name not in SHARED)


def rows():
    """Of the tables in bench/README.md: the cells of each row."""
    lines = (BENCH / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def test_the_table_has_every_script():
    listed = [row[1].strip("`") for row in rows() if len(row) == 2 and row[1].startswith("`")]
    assert sorted(listed) == sorted([*SCRIPTS, "peers/run.py", "peers/differences.py"])


def test_the_table_has_every_result_and_the_commits_that_made_it():
    listed = {row[0].strip("`"): row for row in rows() if len(row) == 4 and row[0].startswith("`")}
    assert {name for name in listed if name.endswith(".json")} == {
        path.name for path in (BENCH / "results").glob("*.json")
    }
    for name, (_, _, today, then) in listed.items():
        for script in re.findall(r"`([\w/]+\.py)", today):
            assert (BENCH / script).is_file(), script
        if not name.endswith(".json"):
            continue
        cells = json.loads((BENCH / "results" / name).read_text(encoding="utf-8")).get("cells", {})
        made = {cell["_"]["commit"].rstrip("+") for cell in cells.values()}
        assert made <= set(re.findall(r"\b[0-9a-f]{7,9}\b", then)), name
