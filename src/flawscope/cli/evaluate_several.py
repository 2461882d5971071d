"""`evaluate MODELS/ --category all`: the model of each category on its test pictures, in one table."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flawscope.cli import common, several
from flawscope.errors import InputError
from flawscope.progress import counted, duration

Found = Mapping[str, dict[str, Any]]  # by category, what `evaluate --json` prints


def run(args: argparse.Namespace, measured: Callable[[argparse.Namespace], Any]) -> int:
    """Evaluate each by `measured`; the table, averages last, is printed at the end and written to `--out`."""
    from flawscope.results.output_manifest import OwnFiles
    from flawscope.results.run import TABLE

    names = several.asked(args)
    _check(args)
    say = common.say_for(args)
    folder = Path(args.out) if args.out and not common.is_table(args.out) else None
    own = None
    if folder:
        common.folder_for_results(args.out)
        own = OwnFiles(folder)
        own.refuse_foreign(TABLE)
    found: dict[str, dict[str, Any]] = {}

    def work(name: str) -> int:
        out = str(folder / name) if folder else None
        alone = {"category": name, "model": str(_model(args.model, name)), "out": out}
        result, failures = measured(argparse.Namespace(**{**vars(args), **alone}))
        found[name] = result.to_dict()
        say(f"{name}: {counted(result.images, 'test picture')} in {duration(result.seconds)}")
        return common.report_failures(failures)

    code, failed = several.each(names, work, debug=args.debug)
    if not found:
        return code
    averages = _averages(found)
    document = {"categories": found, "averages": averages, "failed": failed}
    common.show(
        json.dumps(document, indent=1, allow_nan=False) if args.json else _table(found, averages), flush=True
    )
    if args.out:
        path = own.path(TABLE) if own else Path(args.out)
        _write(path, found, averages)
    return code


def _check(args: argparse.Namespace) -> None:
    if not Path(args.model).is_dir():
        raise InputError(
            f"--category {args.category} measures a model for each category: give the folder of "
            f"CATEGORY.safetensors that `fit` wrote instead of {args.model}"
        )
    if args.out and args.out.lower().endswith(".parquet"):
        raise InputError("the table of several categories is no .parquet: give --out FILE.csv, or a folder")
    if not args.out or common.is_table(args.out):
        common.check_out(args)


def _model(folder: str, category: str) -> Path:
    """The category's model file, the trained one first."""
    from flawscope.runtime import FORMATS

    every = [Path(folder) / f"{category}{suffix}" for suffix in FORMATS]
    for path in every:
        if path.is_file():
            return path
    raise InputError(f"{folder} has no {every[0].name}: fit it with --category {category}")


def _averages(found: Found) -> dict[str, dict[str, Any]]:
    """The rows below the papers' tables: the means over the categories that were measured, and which."""
    from flawscope.benchmark.tables import groups

    averages = {}
    for group in groups(tuple(found)):
        measured = [name for name in group.categories if name in found]
        means: dict[str, float | None] = {}
        for metric in _metrics(found):
            values = [found[name]["metrics"].get(metric) for name in measured]
            known = [value for value in values if value is not None]
            means[metric] = sum(known) / len(known) if known else None
        averages[group.label] = {"categories": measured, "of": len(group.categories), "metrics": means}
    return averages


def _metrics(found: Found) -> list[str]:
    return list(dict.fromkeys(metric for one in found.values() for metric in one["metrics"]))


def _table(found: Found, averages: Mapping[str, Mapping[str, Any]]) -> str:
    """The table that a person reads: the papers' metrics."""
    from flawscope.benchmark.tables import METRICS

    rows: list[Sequence[str]] = []
    for name, one in found.items():
        alarms = one["false_alarms"]
        rate = "" if alarms["measured"] is None else f"{alarms['measured']:.1%}"
        rows.append((name, *_cells(one["metrics"], METRICS), rate))
    for label, average in averages.items():
        covered = len(average["categories"])
        of = "" if covered == average["of"] else f" ({covered} of {average['of']})"
        rows.append((f"average: {label}{of}", *_cells(average["metrics"], METRICS), ""))
    return common.table(rows, ("category", *METRICS.values(), "false alarms"))


def _cells(metrics: Mapping[str, float | None], names: Mapping[str, str]) -> list[str]:
    return ["n/a" if (value := metrics.get(name)) is None else f"{value:.4f}" for name in names]


def _write(path: Path, found: Found, averages: Mapping[str, Mapping[str, Any]]) -> None:
    from flawscope.artefact.files import atomic

    metrics, alarms = _metrics(found), ("measured", "expected", "images")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = ("false_alarms", "false_alarms_expected", "good_pictures")
    writer.writerow(["category", "method", "pictures", *metrics, *more])
    for name, one in found.items():
        values = [one["metrics"].get(metric) for metric in metrics]
        facts = [one["false_alarms"][key] for key in alarms]
        writer.writerow([name, one["method"], one["images"], *values, *facts])
    for label, average in averages.items():
        values = [average["metrics"][metric] for metric in metrics]
        writer.writerow([f"average: {label}", "", "", *values, "", "", ""])
    with atomic(path) as out:
        out.write(file.getvalue().encode())
