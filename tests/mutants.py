"""How many of 200 faults, put into the program at random, do the tests find?

    $ python tests/mutants.py --out mutants.json

A mutant is the program with one operator, constant, condition or returned value changed. Which ones are drawn
follows from --seed and the source. Each runs the tests of its area that execute its statement, the quickest
first, until one fails; one that survives is printed with its line. `--again FILE` runs the mutants of an
earlier run on today's source and tests: those whose place is gone count apart. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from coverage import CoverageData

ROOT = Path(__file__).resolve().parents[1]
# area -> its modules and its tests, as patterns
SOURCES = ("src", "station/src", "line/src")
AREAS = {
    "pictures": ("src/flawscope/pictures/*.py", "tests/pictures"),
    "calibration": ("src/flawscope/calibration/*.py", "tests/calibration"),
    "metrics": ("src/flawscope/evaluation/metrics/*.py", "tests/evaluation/metrics"),
    "coreset": ("src/flawscope/methods/patchcore/coreset.py", "tests/methods/patchcore/test_coreset.py"),
    "artefact": ("src/flawscope/artefact/*.py", "tests/artefact"),
    "predictor": (
        "src/flawscope/predictor/*.py",
        "tests/test_predictor.py tests/results tests/runtime/test_tiled.py tests/cli/test_call.py "
        "tests/fitting/test_fitting.py tests/evaluation",
    ),
}
# rooms of the station -> words in the names of their tests
for _room, _words in {
    "store": "store retention backup clock identity migrations faults api one_station parts",
    "inspecting": "api deadline threads interlock unanswered tolerances parts",
    "challenge": "challenge",
    "sinks/outbox.py": "store_machine outbox sinks",
}.items():
    _place = _room if _room.endswith(".py") else f"{_room}/*.py"
    _tests = " ".join(f"station/tests/*{word}*.py" for word in _words.split())
    AREAS[Path(_room).stem] = f"station/src/flawscope_station/{_place}", _tests
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
LIMIT = 900  # seconds for a mutant: one that never ends is found


def changed(node: ast.AST) -> ast.AST | None:
    """The node with a fault; None where it can have none."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in OTHER:
            return ast.Compare(node.left, [OTHER[type(op)]()], node.comparators)
        case ast.BoolOp():
            return ast.BoolOp(OTHER[type(node.op)](), node.values)
        case ast.BinOp() if type(node.op) in OTHER:
            return ast.BinOp(node.left, OTHER[type(node.op)](), node.right)
        case ast.UnaryOp(op=ast.Not()):
            return node.operand
        case ast.Constant(value=bool(value)):
            return ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            return ast.Constant(value + 1 if isinstance(value, int) or not value else value * 2)
        case ast.Return(value=ast.AST()) if not isinstance(node.value, ast.Constant):
            return ast.Return(ast.Constant(None))
    return None


def sites(path: Path) -> Iterator[dict[str, Any]]:
    """All faults that the functions of a module can have."""
    text = path.read_text(encoding="utf-8")

    def walk(node: ast.AST, function: str) -> Iterator[dict[str, Any]]:
        if function and (made := changed(node)) is not None:
            before = ast.get_source_segment(text, node)
            after = ast.unparse(made)
            after = after if isinstance(node, ast.Return) else f"({after})"
            place = {"line": node.lineno, "column": node.col_offset, "end": node.end_lineno}  # in bytes
            yield {"function": function, **place, "before": before, "after": after}
        for name, field in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from walk(child, f"{function}.{child.name}".lstrip("."))
                elif isinstance(child, ast.AST):
                    yield from walk(child, function)

    seen: dict[tuple[str, str, str], int] = {}
    for found in walk(ast.parse(text), ""):
        key = found["function"], found["before"], found["after"]
        # the same text may stand in a function several times
        found["nth"] = seen[key] = seen.get(key, -1) + 1
        yield found


def modules(area: str) -> list[Path]:
    return sorted(ROOT.glob(AREAS[area][0]))


def is_same(site: dict[str, Any], mutant: dict[str, Any]) -> bool:
    return all(site[key] == mutant[key] for key in ("function", "before", "after", "nth"))


def mutated(text: str, mutant: dict[str, Any], path: Path) -> str | None:
    """The module's text with the fault; None where its place is gone."""
    found = next((site for site in sites(path) if is_same(site, mutant)), None)
    if found is None:
        return None
    lines = text.split("\n")
    start = sum(len(line) + 1 for line in lines[: found["line"] - 1])
    start += len(lines[found["line"] - 1].encode()[: found["column"]].decode())
    return text[:start] + found["after"] + text[start + len(found["before"]) :]


class Coverage:
    """Tests of an area that execute a line, found by one run of the area on an unchanged copy."""

    def __init__(self, area: str, copy: Path):
        tests = [str(t.relative_to(copy)) for p in AREAS[area][1].split() for t in copy.glob(p)]
        self.lines: dict[Path, dict[int, list[str]]] = {}
        with tempfile.TemporaryDirectory() as folder:
            database, times = Path(folder, "coverage"), Path(folder, "times.xml")
            where = ["--cov=src/flawscope", "--cov=station/src", "--cov-context=test", "--cov-report="]
            pytest(copy, [*where, f"--junitxml={times}", *tests], COVERAGE_FILE=str(database))
            data = CoverageData(str(database))
            data.read()
            for module in modules(area):
                here = copy / module.relative_to(ROOT)
                self.lines[here] = data.contexts_by_lineno(str(here))
            self.seconds = {}
            for case in ET.parse(times).iter("testcase"):
                file = case.get("classname", "").replace(".", "/")
                self.seconds[f"{file}.py::{case.get('name')}"] = float(case.get("time", 0))

    def tests(self, place: Path, text: str, mutant: dict[str, Any]) -> list[str]:
        """Tests that execute the mutant's statement, the quickest first."""
        site = next(s for s in sites(place) if is_same(s, mutant))
        around = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.stmt) and node.lineno <= site["line"] <= (node.end_lineno or 0)
        ]
        functions = [node for node in around if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        narrow, wide = max(around, key=lambda node: node.lineno), functions[-1]
        for first, last in ((narrow.lineno, site["end"]), (wide.lineno, wide.end_lineno or 0)):
            found = {
                name.rpartition("|")[0]
                for line in range(first, last + 1)
                for name in self.lines[place].get(line, [])
                if name
            }
            if found:
                return sorted(found, key=lambda name: self.seconds.get(name, 0.0))
        return []


def pytest(copy: Path, arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["-k", "not postgresql", "-m", "not slow and not browser", *arguments]
    path = os.pathsep.join([*(str(copy / house) for house in SOURCES), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **env}
    limit = LIMIT if "-x" in arguments else None
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=limit)


def run(mutant: dict[str, Any], copy: Path, coverage: Coverage, first: Path) -> dict[str, Any]:
    """Put the fault into a copy of the program, run the tests that execute it, take it out again."""
    for source in [ROOT / mutant["module"], *modules(mutant["area"])]:  # it may have moved since
        if not source.exists():
            continue
        place, text = copy / source.relative_to(ROOT), source.read_text(encoding="utf-8")
        if (wrong := mutated(text, mutant, source)) is not None:
            break
    else:
        return mutant | {"found": "gone"}
    tests = coverage.tests(first / source.relative_to(ROOT), text, mutant)
    if not tests:
        return mutant | {"found": None, "tests": 0}
    place.write_text(wrong, encoding="utf-8")
    begun = time.monotonic()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(tests))
            file.flush()
            done = pytest(copy, ["-x", f"@{file.name}"])
        failed = [line for line in done.stdout.split("\n") if line.startswith(("FAILED", "ERROR"))]
        found = failed[0].split(" - ")[0] if failed else None if done.returncode == 0 else done.stdout[-200:]
    except subprocess.TimeoutExpired:
        found = "time"
    finally:
        place.write_text(text, encoding="utf-8")
    return mutant | {"found": found, "seconds": round(time.monotonic() - begun, 1), "tests": len(tests)}


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", type=Path, help="results of an earlier run")
    parser.add_argument("--areas", default=",".join(AREAS), help="default: all")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=36)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.out.exists():
        drawn = json.loads(args.out.read_text())
    elif args.again:
        answers, earlier = ("found", "seconds", "tests"), json.loads(args.again.read_text())
        drawn = [{k: v for k, v in one.items() if k not in answers} for one in earlier]
    else:
        every = [
            {"area": area, "module": str(path.relative_to(ROOT)), **site}
            for area in args.areas.split(",")
            for path in modules(area)
            for site in sites(path)
        ]
        drawn = random.Random(args.seed).sample(every, args.number)
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as folder:
        for n in range(args.jobs):
            for part in ("src", "tests", "station", "line", "docs", "examples"):
                ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
                shutil.copytree(ROOT / part, Path(folder) / str(n) / part, ignore=ignored)
            for part in ("conftest.py", "pyproject.toml"):
                shutil.copy(ROOT / part, Path(folder) / str(n) / part)
            copies.put(Path(folder) / str(n))
        first = Path(folder) / "0"
        left = {one["area"] for one in drawn if "found" not in one}
        coverages = {area: Coverage(area, first) for area in AREAS if area in left}

        def judged(number: int) -> None:
            copy = copies.get()
            try:
                drawn[number] = run(drawn[number], copy, coverages[drawn[number]["area"]], first)
            finally:
                copies.put(copy)
            args.out.write_text(json.dumps(drawn, indent=1) + "\n")
            one = drawn[number]
            place = f"{number} {one['module']} {one['line']}"
            print(f"{place} {one['before']} -> {one['after']} : {one['found']}", flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(judged, [n for n, one in enumerate(drawn) if "found" not in one]))
    found = [one["found"] for one in drawn]
    survive, gone = found.count(None), found.count("gone")
    print(f"{len(found) - survive - gone} found, {survive} survive, {gone} gone")


if __name__ == "__main__":
    main()
