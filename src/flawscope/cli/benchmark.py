"""Fit and evaluate a grid of categories, methods and seeds, and write the literature's tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.artefact.files import CSV_ENCODING, atomic_write, check_replaceable
from flawscope.cli import common, fit_one, fit_options
from flawscope.cluster import connect, tasks
from flawscope.errors import InputError, pluralize, require_installed
from flawscope.methods.options import BENCHMARK
from flawscope.methods.options.record import records_of
from flawscope.progress import JobsProgress

JSON_TABLE = "results.json"
CSV_TABLE = "results.csv"
MARKDOWN_TABLE = "results.md"
DEFAULT_DRAWS = 3  # seeds of a grid with `--shots`

if TYPE_CHECKING:
    from flawscope.evaluation.benchmark.cell import CellStore, RunPlan
    from flawscope.evaluation.benchmark.grid import Cell, Grid
    from flawscope.evaluation.benchmark.run import Pool
    from flawscope.evaluation.benchmark.tables import Results
    from flawscope.types import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope benchmark` to its parser."""
    parser.add_argument("--data", required=True, metavar="ROOT", help="Folder of categories, or one of them.")
    parser.add_argument(
        "--categories",
        default="all",
        metavar="LIST",
        help="Categories: all, or names with commas; textures and objects mean MVTec AD's (default: all).",
    )
    parser.add_argument(
        "--methods", default="patchcore", metavar="LIST", help="Methods with commas (default: patchcore)."
    )
    parser.add_argument("--seeds", metavar="LIST", help="Seeds such as 0,1,2 (default: 0).")
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="Folder of results; cells that are done there are not done again.",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="METHOD=FILE", help="YAML file of settings."
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.KEY=VALUE",
        help="Setting that wins over the file.",
    )
    parser.add_argument(
        "--shots",
        metavar="LIST",
        help="Numbers of good pictures to fit each method on, instead of all, such as 1,2,4,8.",
    )
    parser.add_argument(
        "--draws",
        type=common.count_parser("draws"),
        metavar="N",
        help=f"Draw the pictures of --shots N times, with the seeds 0 to N-1 (default: {DEFAULT_DRAWS}).",
    )
    parser.add_argument(
        "--jobs",
        type=common.count_parser("cells at a time"),
        metavar="N",
        help="Cells at a time (default: as cores and memory allow).",
    )
    parser.add_argument("--keep-models", action="store_true", help="Keep the model files, in DIR/models.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document, as results.json.")
    common.add_cluster(parser)
    common.add_quiet(parser)
    fit_options.add_options(parser.add_argument_group("options of each fit"), BENCHMARK)


def run(args: argparse.Namespace) -> int:
    """Run the grid's cells that are not done, and print and write the tables; return the exit code."""
    from flawscope.evaluation.benchmark.cell import CellStore
    from flawscope.evaluation.benchmark.run import finished_cells

    if args.cluster is not None:
        connect.check_address(args.cluster)
    grid = _plan_and_report(args)
    if args.cluster is None:  # on a cluster, only the nodes need these
        require_installed("fitting", "torch", "timm", extras="train")
    out = common.prepare_output_folder(args.out)
    for name in (JSON_TABLE, CSV_TABLE, MARKDOWN_TABLE):
        check_replaceable(out / name)
    say = common.say_unless_quiet(args)
    store = CellStore(out)
    with store.lock():
        store.prepare()
        finished = finished_cells(grid, store)
        cells_to_run = [cell for cell in grid.cells if cell.name not in finished]
        _say_plan(args, grid, store, finished_count=len(finished))
        results = _run_cells(args, grid, store, cells_to_run)
    if args.json:
        print(json.dumps(results.to_dict(), indent=1, allow_nan=False))
    else:
        print(_summary(results))
    say(f"wrote {out / MARKDOWN_TABLE}, {CSV_TABLE} and {JSON_TABLE}")
    return _exit_code(results)


def _say_plan(args: argparse.Namespace, grid: Grid, store: CellStore, finished_count: int) -> None:
    """Print which cells the grid has, and how many of them are done already."""
    from flawscope.evaluation.benchmark.tables import methods_and_seeds

    say = common.say_unless_quiet(args)
    categories = ", ".join(dict.fromkeys(cell.category for cell in grid.cells))
    finished_text = f"; {finished_count} done already" if finished_count else ""
    say(f"{pluralize(len(grid.cells), 'cell')}: {categories}; {methods_and_seeds(grid)}{finished_text}")
    is_finished = finished_count >= len(grid.cells)
    if not (args.keep_models and is_finished):
        return
    # no cell is fitted any more, and a cell that was done without --keep-models has no model file
    lacks_models = not all(store.model_path(cell).is_file() for cell in grid.cells)
    if lacks_models:
        say(f"some were done without --keep-models: remove their files in {store.cells} to fit anew")


def _run_cells(
    args: argparse.Namespace, grid: Grid, store: CellStore, cells_to_run: Sequence[Cell]
) -> Results:
    """Run the cells that are not done, and write the tables after each cell; return the grid's results."""
    from flawscope.evaluation.benchmark.run import finished_cells, run_grid
    from flawscope.evaluation.benchmark.tables import Results

    out = Path(args.out)
    say = common.say_unless_quiet(args)
    latest_results = Results(grid, done={}, failed={})

    def write_results(results: Results) -> None:
        nonlocal latest_results
        latest_results = results
        _write_tables(results, out)

    live = JobsProgress(say, common.say, terminal=sys.stderr.isatty() and not args.quiet)
    try:
        with _pool(args, cells_to_run, live) as (plan, pool):
            run_grid(grid, store, plan, pool, live, write_results)
    except KeyboardInterrupt:
        finished_count = len(finished_cells(grid, store))
        cells = pluralize(len(grid.cells), "cell")
        live.print_line(f"stopped with {finished_count} of {cells} done; the same call goes on from there")
        raise
    return latest_results


@contextmanager
def _pool(
    args: argparse.Namespace, cells_to_run: Sequence[Cell], live: JobsProgress
) -> Iterator[tuple[RunPlan, Pool]]:
    """Yield the plan of a run, and the pool that runs its cells, on this machine or on the cluster."""
    from flawscope.evaluation.benchmark.cell import RunPlan
    from flawscope.evaluation.benchmark.run import Processes, jobs_and_threads

    cell_count = len(cells_to_run)
    if args.cluster is None or not cells_to_run:
        jobs = 1
        threads = 1
        if cells_to_run:
            jobs, threads = jobs_and_threads(cell_count, args.jobs, args.threads, args.device, live.say)
        plan = RunPlan(args.data, jobs, threads, keep_models=args.keep_models)
        yield plan, Processes(jobs, threads, live.step)
        return
    arguments_by_label = {cell.label: _fit_arguments(cell, args.data) for cell in cells_to_run}
    with (
        connect.cluster_connection(args.cluster),
        tasks.task_pool(
            "cell",
            arguments_by_label,
            fit_one.predict_memory,
            data=args.data,
            out=args.out,
            live=live,
            most=min(cell_count, args.jobs or cell_count),
            threads=args.threads,
            device=args.device,
        ) as pool,
    ):
        threads = pool.resources.threads
        yield RunPlan(args.data, pool.max_concurrency, threads, keep_models=args.keep_models), pool


def _fit_arguments(cell: Cell, root: str) -> Json:
    """Return the arguments with which `fit_one.predict_memory` predicts the memory of a cell's fit."""
    needed_names = {"good"}  # names of the options that the memory depends on
    for argument_record in fit_one.MEMORY_ARGUMENTS:
        needed_names |= {option.name for option in records_of(argument_record)}
    shared_options = {name: value for name, value in cell.shared.items() if name in needed_names}
    own_options = {"method": cell.base_method, "category": cell.category, "seen": cell.seen}
    return {"images": os.path.abspath(root), **own_options, **shared_options, **cell.options}


def _plan_and_report(args: argparse.Namespace) -> Grid:
    """Plan the grid, and report missing and unusable categories."""
    from flawscope.evaluation.benchmark.grid import plan_grid

    if args.draws and (args.seeds or not args.shots):
        raise InputError("--draws is the number of seeds for --shots: give --shots, and leave out --seeds")
    seed_count = 1
    if args.shots:
        seed_count = args.draws or DEFAULT_DRAWS
    seeds = args.seeds or ",".join(map(str, range(seed_count)))
    grid = plan_grid(
        args.data,
        categories=args.categories,
        methods=args.methods,
        seeds=seeds,
        configs=args.config,
        sets=args.set,
        shots=args.shots,
        **{option.name: getattr(args, option.name) for option in BENCHMARK},
    )
    if grid.missing:
        common.say(f"not in {args.data}, their rows stay blank: {', '.join(grid.missing)}")
    for category, reason in grid.unusable.items():
        common.say(f"{category}: failed: {' '.join(reason.split())}")
    return grid


def _write_tables(results: Results, out: Path) -> None:
    """Write the results as JSON, CSV and Markdown into the folder `out`."""
    from flawscope.evaluation.benchmark.cell import write_json
    from flawscope.evaluation.benchmark.markdown import render

    write_json(out / JSON_TABLE, results.to_dict())
    with atomic_write(out / CSV_TABLE) as file:
        file.write(results.to_csv().encode(CSV_ENCODING))
    with atomic_write(out / MARKDOWN_TABLE) as file:
        file.write(render(results).encode("utf-8"))


def _summary(results: Results) -> str:
    """Return a table for a terminal: a row for each category and method, without averages."""
    from flawscope.evaluation.benchmark.tables import METRICS

    rows = []
    for category in results.grid.rows:
        if category in results.grid.missing:
            continue
        for method in results.grid.methods:
            row = [category, method]
            for metric in METRICS:
                value = results.value(metric, method, category).mean
                row.append("" if value is None else f"{value:.4f}")
            rows.append(row)
    return common.format_table(rows, ("category", "method", *METRICS.values()))


def _exit_code(results: Results) -> int:
    """Report skipped pictures and the number of failed cells; return 1 if there are any, else 0."""
    if results.failed:
        common.say(f"{pluralize(len(results.failed), 'cell')} failed; the same call tries again")
    skipped = [line for document in results.done.values() for line in document["skipped"]]
    unique_lines = list(dict.fromkeys(skipped))  # cells of one category skip the same pictures
    code = common.report_failures(unique_lines)
    return 1 if results.failed or results.grid.unusable else code
