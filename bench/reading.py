"""How much does a reader have to keep in mind: branches on features in shared code, functions that calls go
through, and modules?

    python bench/reading.py

A branch is a condition (if, while, conditional expression, filter of a comprehension) that tests a setting of
a feature by its name, in a module that is not of the feature alone. Functions are the package's own, each
counted once, without lambdas and comprehensions.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import common
from common import Args, Cell

SRC = common.ROOT / "src" / "flawscope"
# names by which code asks for a feature: settings, options, and what holds them
FEATURES = {
    "align": {"align", "reference", "upright"},
    "several": {"several", "parts"},
    "region": {"roi", "region", "hidden", "masked"},
    "light": {"light", "normalization"},
    "tile": {"tile", "grid", "windows", "fusion"},
    "positions": {"positions", "tile_positions", "located", "tells_positions_apart", "by_place"},
    "part": {"part", "pattern", "view"},
    "group": {"group", "has_shared_units"},
    "lens": {"undistort", "corrections"},
}
# words that are counted as attributes alone: locals are called so, too
ATTRIBUTES = {"part", "parts", "view", "several", "group", "grid"}
# modules of one feature alone, and those that only read or write what a person gave
OF_FEATURES = {
    "pictures": "frames light roi undistort several_parts several_parts_learning part_views pose congealing "
    "views units defect_size near_duplicates channels",
    "calibration": "parts recognition",
    "fitting": "alignment light_calibration joining tile_calibration picture_views",
    "predictor": "parts part_names several_parts router kinds tolerating",
    "methods": "conflicts patchcore/places",
    "results": "alignment found_parts part by_product tolerance",
    "evaluation": "trials",
    "artefact": "router_file",
}
WITHOUT_SETTINGS = ("cluster", "cli", "testing", "synthesis", "datasets")


def branches() -> Iterator[tuple[str, str, int]]:
    """Feature, module and line of each branch."""
    for path in sorted(SRC.rglob("*.py")):
        module = path.relative_to(SRC).with_suffix("").as_posix()
        folder, _, name = module.partition("/")
        if folder in WITHOUT_SETTINGS or name in OF_FEATURES.get(folder, "").split():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            tests = node.ifs if isinstance(node, ast.comprehension) else [getattr(node, "test", None)]
            for test in tests if not isinstance(node, ast.Assert) else []:
                nodes = list(ast.walk(test or ast.Pass()))
                called = {node.func for node in nodes if isinstance(node, ast.Call)}
                names = {n.attr for n in nodes if isinstance(n, ast.Attribute) and n not in called}
                names |= {node.id for node in nodes if isinstance(node, ast.Name)} - ATTRIBUTES
                for feature, words in FEATURES.items():
                    if names & words:
                        yield feature, module, test.lineno  # type: ignore[union-attr]
                        break


def functions(work: Callable[[], Any]) -> Counter[str]:
    """Functions of the package that run in `work`, by module."""
    seen = set()

    def note(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(SRC)) and not code.co_name.startswith("<"):
            seen.add((code.co_filename, code.co_qualname))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return Counter(Path(file).relative_to(SRC).with_suffix("").as_posix() for file, _ in seen)


def count_branches(args: Args) -> Cell:
    found = list(branches())
    return {
        "branches": len(found),
        "features": dict(Counter(feature for feature, *_ in found).most_common()),
        "modules": dict(Counter(module for _, module, _ in found).most_common()),
    }


def count_functions(args: Args) -> dict[str, Counter[str]]:
    """Functions of a fit until its coreset is selected, of all of it, and of a prediction; all once before,
    so that nothing is imported."""
    import numpy as np
    import torch

    import flawscope
    from flawscope.methods.patchcore import coreset

    torch.set_num_threads(1)
    rng, calls = np.random.default_rng(1), []
    pictures = [rng.integers(0, 255, (96, 96, 3), np.uint8) for _ in range(9)]

    def fit(**options: Any) -> Any:
        return flawscope.fit(pictures[:8], size=64, device="cpu", **options)

    def until_coreset() -> None:
        with suppress(_CoresetSelectedError), mock.patch.object(coreset, "select", stop):
            fit()

    def stop(*given: Any, **named: Any) -> None:
        calls.append(select(*given, **named))
        raise _CoresetSelectedError

    select, model = coreset.select, fit()
    works = {
        "fit until the coreset": until_coreset,
        "fit": fit,
        "predict": lambda: model.predict(pictures[8]),
    }
    return {name: functions(work) for name, work in works.items()}


class _CoresetSelectedError(Exception):
    """The coreset of a fit is selected."""


def summarise(called: Counter[str]) -> Cell:
    """Functions and modules, and how many of these are of `fitting` and `methods`."""
    of_fits = sum(module.startswith(("fitting/", "methods/")) for module in called)
    return {"functions": called.total(), "modules": len(called), "of fits": of_fits, "each": dict(called)}


def main() -> int:
    parser = common.make_parser(__doc__, "reading", data=False)
    args = common.parse_arguments(parser)
    record = common.Record(args, "what a reader has to keep in mind")
    if cell := record.attempt("branches", partial(count_branches, args)):
        features = [{"feature": name, "branches": count} for name, count in cell["features"].items()]
        common.print_table(f"{cell['branches']} branches on features in shared code", features)
    called: dict[str, Counter[str]] = {}
    rows = []
    for name in ("fit until the coreset", "fit", "predict"):

        def work(name: str = name) -> Cell:
            called.update(called or count_functions(args))
            return summarise(called[name])

        if cell := record.attempt(name, work):
            rows.append({"call": name, **{key: cell[key] for key in ("functions", "modules", "of fits")}})
    common.print_table("functions that a call goes through", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
