"""How many of 150 faults, put into the program at random, do the tests find?

    $ python tests/mutants.py --out mutants.json                # draw, run all tests once, try each fault
    $ python tests/mutants.py --out after.json --again mutants.json   # the same faults, later

A mutant is the program with one operator, constant, condition or returned value changed. Some are drawn
from every package, the rest by size, from --seed and the source. All of them are in one copy of the
program, each behind a switch (mutant schemata: Untch, Offutt and Harrold 1993): one run of the tests with
every switch off tells which tests come by which place, also in processes that tests start. Then each
mutant is switched on and runs the tests of `make test` that come by it, the quickest first, until one
fails, and where none does, the others; one that survives is printed with its line. Places that are gone
count apart. Goes on where it stopped.
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
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOUSES = {"flawscope": "src", "flawscope_station": "station/src", "flawscope_line": "line/src"}
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
MOST = 40  # tests of either kind that a mutant runs: of a place that all come by, the quickest tell
QUICK = "smoke or not whole"  # of the Makefile
LIMIT = 240  # seconds for a mutant: one that never ends is found
SWITCH = '''
import os

ON, LOG, seen = os.environ.get("MUTANT"), os.environ.get("MUTANT_LOG"), set()


def hit(number):
    """Whether this mutant is on. With a log: a test comes by its place."""
    if LOG and (key := (number, os.environ.get("PYTEST_CURRENT_TEST", ""))) not in seen:
        seen.add(key)
        with open(f"{LOG}/{os.getpid()}", "a") as file:
            file.write(f"{number}\\t{key[1]}\\n")
    return ON == str(number)
'''


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
            return ast.Constant(None)
    return None


@cache
def sites(path: Path) -> list[dict[str, Any]]:
    """All faults that the functions of a module can have."""
    text = path.read_text(encoding="utf-8")
    starts = [0, *accumulate(len(line.encode()) + 1 for line in text.split("\n"))]
    raw = text.encode()

    def walk(node: ast.AST, function: str) -> Iterator[dict[str, Any]]:
        if function and (made := changed(node)) is not None:
            node = node.value if isinstance(node, ast.Return) else node
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            facts = {"function": function, "line": node.lineno, "start": start, "end": end}  # in bytes
            yield facts | {"before": raw[start:end].decode(), "after": ast.unparse(made)}
        for name, field in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "args", "pattern") and not isinstance(
                node, ast.Call
            ):
                continue
            if isinstance(node, ast.JoinedStr):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from walk(child, f"{function}.{child.name}".lstrip("."))
                elif isinstance(child, ast.AST):
                    yield from walk(child, function)

    seen: dict[tuple[str, str, str], int] = {}
    every = list(walk(ast.parse(text), ""))
    for found in every:
        key = found["function"], found["before"], found["after"]
        # the same text may stand in a function several times
        found["nth"] = seen[key] = seen.get(key, -1) + 1
    return every


def drawn(number: int, seed: int) -> list[dict[str, Any]]:
    """Two mutants of every package (here: room), the others by size; none within another."""
    rooms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for package, source in HOUSES.items():
        for path in sorted((ROOT / source / package).rglob("*.py")):
            inner = path.relative_to(ROOT / source).parts
            room = f"{package}.{inner[1] if len(inner) > 2 else path.stem}"
            rooms[room] += [{"room": room, "module": str(path.relative_to(ROOT)), **s} for s in sites(path)]
    chance = random.Random(seed)
    for places in rooms.values():
        chance.shuffle(places)
    order = [one for places in rooms.values() for one in places[:2]]
    rest = [one for places in rooms.values() for one in places[2:]]
    chance.shuffle(rest)
    chosen: list[dict[str, Any]] = []
    taken = set()
    for one in order + rest:
        if len(chosen) < number and (place := (one["module"], one["line"])) not in taken:
            taken.add(place)
            chosen.append(one)
    return chosen


def switched(copy: Path, mutants: list[dict[str, Any]]) -> None:
    """Put every mutant into a copy of the program, behind its switch."""
    (copy / "src/mutant_switch.py").write_text(SWITCH, encoding="utf-8")
    by_module: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, one in enumerate(mutants):
        facts = ("function", "before", "after", "nth")
        found = [site for site in places(one) if all(site[fact] == one[fact] for fact in facts)]
        one["gone"] = not found
        for site in found[:1]:
            by_module[site["module"]].append((number, site))
    for module, here in by_module.items():
        path = copy / module
        raw = path.read_bytes()
        for number, site in sorted(here, key=lambda one: one[1]["start"], reverse=True):
            start, end, on = site["start"], site["end"], f"__import__('mutant_switch').hit({number})"
            either = f"(({site['after']}) if {on} else ({site['before']}))"
            raw = raw[:start] + either.encode() + raw[end:]
        ast.parse(raw)
        path.write_bytes(raw)


def places(mutant: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the mutant's module; of its package where the module is gone or has lost its function."""
    paths = [ROOT / mutant["module"]]
    package, room = mutant["room"].split(".")
    paths += sorted((ROOT / HOUSES[package] / package / room).rglob("*.py"))
    return [
        {"module": str(path.relative_to(ROOT)), **site}
        for path in paths
        if path.exists()
        for site in sites(path)
    ]


def pytest(copy: Path, arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired where a mutant never ends."""
    path = os.pathsep.join(str(copy / source) for source in HOUSES.values())
    env = {**os.environ, "PYTHONPATH": path, **env}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *arguments]
    limit = LIMIT if "MUTANT" in env else None
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=limit)


def come_by(copy: Path, folder: Path) -> dict[int, list[list[str]]]:
    """Tests that come by each mutant's place and pass, the quickest first: of `make test`, and the others."""
    log, table = folder / "log", folder / "durations.tsv"
    log.mkdir(parents=True, exist_ok=True)
    pytest(copy, ["-n", "auto", "--dist", "worksteal"], MUTANT_LOG=str(log), DURATIONS=str(table))
    quick = set(pytest(copy, ["--collect-only", "--verbosity=-1", "-m", QUICK]).stdout.splitlines())
    seconds = {}
    for line in table.read_text(encoding="utf-8").splitlines()[1:]:
        cost, outcome, name = line.split("\t")
        if outcome == "passed":
            seconds[name] = float(cost)
    found: dict[int, set[str]] = defaultdict(set)
    for file in log.iterdir():
        for line in file.read_text(encoding="utf-8").splitlines():
            number, test = line.split("\t")
            found[int(number)].add(test.rpartition(" (")[0])
    return {
        number: [
            sorted(names & seconds.keys(), key=seconds.__getitem__)
            for names in (tests & quick, tests - quick)
        ]
        for number, tests in found.items()
    }


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--again", type=Path, help="results of an earlier run")
    parser.add_argument("--number", type=int, default=150)
    parser.add_argument("--seed", type=int, default=76)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.out.exists():
        mutants = json.loads(args.out.read_text())
    elif args.again:
        answers = ("found", "quick", "tests", "gone")
        mutants = [
            {k: v for k, v in one.items() if k not in answers} for one in json.loads(args.again.read_text())
        ]
    else:
        mutants = drawn(args.number, args.seed)
    folder = args.out.absolute().with_suffix("")  # kept: hours of work lie in it
    if not (folder / "tests.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        left_out = ("__pycache__", ".hypothesis", ".venv", ".git", "build", "dist", folder.name)
        ignored = shutil.ignore_patterns(*left_out)
        shutil.copytree(ROOT, folder / "copy", ignore=ignored)
        switched(folder / "copy", mutants)
        (folder / "tests.json").write_text(json.dumps(come_by(folder / "copy", folder)))
        args.out.write_text(json.dumps(mutants, indent=1) + "\n")
    tests = {int(number): names for number, names in json.loads((folder / "tests.json").read_text()).items()}

    def finds(number: int, names: list[str]) -> bool:
        chosen = folder / f"{number}.txt"
        chosen.write_text("\n".join(names[:MOST]), encoding="utf-8")
        try:
            return (
                bool(names)
                and pytest(folder / "copy", ["-x", f"@{chosen}"], MUTANT=str(number)).returncode != 0
            )
        except subprocess.TimeoutExpired:
            return True

    def judge(number: int) -> None:
        one, (quick, others) = mutants[number], tests.get(number, [[], []])
        mutants[number] = one | {"tests": len(quick) + len(others), "quick": finds(number, quick)}
        mutants[number]["found"] = mutants[number]["quick"] or finds(number, others)
        args.out.write_text(json.dumps(mutants, indent=1) + "\n")
        place = f"{number} {one['module']} {one['line']}"
        print(f"{place} {one['before']} -> {one['after']} : {mutants[number]['found']}", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(judge, [n for n, one in enumerate(mutants) if "found" not in one and not one["gone"]]))
    gone = sum(one["gone"] for one in mutants)
    found = sum(one.get("found", False) for one in mutants)
    quick = sum(one.get("quick", False) for one in mutants)
    print(f"{found} found ({quick} by `make test`), {len(mutants) - found - gone} survive, {gone} gone")


if __name__ == "__main__":
    main()
