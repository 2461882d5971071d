"""Options, output and checks that several commands share."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from flawscope.artefact.files import check_replaceable
from flawscope.errors import (
    MASK,
    UNREAD,
    Failure,
    FlawscopeError,
    InputError,
    decimal_point,
    join_names,
    message_with_type,
    one_line_message,
    pluralize,
    require_installed,
)
from flawscope.pages import report
from flawscope.progress import (
    Plan,
    ProgressCallback,
    Say,
    TerminalProgress,
    discard,
    ignore_progress,
    write_line,
)

if TYPE_CHECKING:
    from flawscope.artefact.model_facts import ModelFacts
    from flawscope.artefact.model_file import Manifest
    from flawscope.evaluation.result import Evaluation
    from flawscope.pictures.units import PartReader
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Router
    from flawscope.predictor.streaming import SourceResult
    from flawscope.results.advice import Advice
    from flawscope.types import Json

# Errors of a full disk, or of a user's share of it; EDQUOT is missing on Windows
DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

ADVICE_WIDTH = 120  # characters of a line


def parse_rate(text: str) -> float:
    """Parse a false-alarm rate, and return it as a share 0..1.

    Raises:
        argparse.ArgumentTypeError: The text is no valid rate.
    """
    from flawscope.calibration.threshold import parse_false_alarm_rate

    try:
        return parse_false_alarm_rate(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_number_parser(noun: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`.

    Args:
        noun: Name of the number in the error, such as "a seed".
        least: The smallest valid number.
        most: The largest valid number; None: there is no limit.
    """
    valid_numbers = f"{least} or more" if most is None else f"{least} to {most}"

    def parse(text: str) -> int:
        is_valid = text.isdecimal() and least <= int(text) and (most is None or int(text) <= most)
        if not is_valid:
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun}: write {valid_numbers}")
        return int(text)

    return parse


def count_parser(things: str) -> Callable[[str], int]:
    """Return a parser of numbers from 1; its error names the counted `things`, such as "threads"."""
    return whole_number_parser(f"a number of {things}", 1)


def time_parser(unit: str, example: str) -> Callable[[str], float]:
    """Return a parser of times above 0 and below a million.

    Args:
        unit: Unit of the time, such as "minutes", for the error.
        example: Examples of valid times, for the error.
    """

    def parse(text: str) -> float:
        try:
            value = float(decimal_point(text))
        except ValueError:
            value = 0.0  # refused below, like any number that is not above 0
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit}: write {example}")
        return value

    return parse


parse_minutes = time_parser("minutes", "30 or 0.5")
parse_seed = whole_number_parser("a seed", 0)
parse_port = whole_number_parser("a port", 0, 65535)  # 0: a free one
Options = argparse._ActionsContainer  # a parser, or a group of its options
Add = Callable[[Options], None]


class ArgumentSettings(TypedDict, total=False):
    """Settings of `add_argument` that options of the commands have."""

    action: str | type[argparse.Action]
    nargs: str
    const: object
    type: Callable[[str], object]
    choices: Sequence[str]
    metavar: str | None
    help: str


def _adder(option: str, **settings: Unpack[ArgumentSettings]) -> Add:
    """Return a function that adds an option to a parser; `settings` are arguments of `add_argument`."""

    def add(parser: Options) -> None:
        parser.add_argument(option, **settings)

    return add


add_json = _adder("--json", action="store_true", help="Print one JSON document.")
add_quiet = _adder("--quiet", action="store_true", help="Print no progress and no remarks.")
add_cluster = _adder(
    "--cluster",
    metavar="WHERE",
    help="Run on a Ray cluster: auto (the one that runs here), local (this machine alone), or an address "
    "such as ray://HOST:10001 or HOST:6379.",
)
add_product = _adder(
    "--product", metavar="NAME", help="Product of a joint model, or view; the others stay as they are."
)
add_group = _adder(
    "--group", metavar="PATTERN", help="Regular expression: names that match the same text show one part."
)
add_part = _adder(
    "--part",
    metavar="PATTERN",
    help="Regular expression: file names that match the same text show one part, which gets one decision.",
)
add_view = _adder(
    "--view",
    metavar="PATTERN",
    help="Regular expression of the view, with --part (default: the rest of the file's name).",
)
add_roi = _adder("--roi", metavar="MASK|x0,y0,x1,y1", help="Region of interest; a box is in fractions.")
add_good = _adder(
    "--good", metavar="NAME[,NAME]", help="Folders of good pictures, where their names do not say so; or all."
)


def add_scale(parser: Options) -> None:
    """Add `--scale-mm`, the length of a pixel in mm."""
    parser.add_argument(
        "--scale-mm", metavar="MM", type=parse_length, help="Millimetres of a pixel: regions get their sizes."
    )


def parse_length(text: str) -> float:
    """Parse the length of a pixel in mm.

    Raises:
        argparse.ArgumentTypeError: The text is not a valid length.
    """
    from flawscope.pictures.form import positive_length

    try:
        return positive_length(float(decimal_point(text)))
    except ValueError:
        error = f"{text!r} is not a length: write millimetres, such as 0.05"
        raise argparse.ArgumentTypeError(error) from None


def add_device(parser: Options, threads: str = "all cores") -> None:
    """Add `--device` and `--threads`; `threads` is the default number of threads, as the help words it."""
    parser.add_argument(
        "--device", default="auto", help="Device: auto, cpu, cuda, mps; with OpenVINO gpu, npu."
    )
    add_threads(parser, threads)


def add_threads(parser: Options, threads: str = "all cores") -> None:
    """Add `--threads`; `threads` is the default number of threads, as the help words it."""
    parser.add_argument(
        "--threads",
        type=count_parser("threads"),
        metavar="N",
        help=f"Threads that compute on a CPU (default: {threads}).",
    )


def add_engine(parser: Options, threads: str = "all cores") -> None:
    """Add `--engine`, `--device` and `--threads`; `threads` is the default number, as the help words it."""
    parser.add_argument(
        "--engine",
        choices=("onnxruntime", "openvino"),
        help="Engine of an .onnx model (default: onnxruntime; openvino for a model in bf16).",
    )
    add_device(parser, threads)


def add_rate(parser: Options, default: str) -> None:
    """Add `--false-alarm-rate`; `default` is the rate without the option, as the help words it."""
    parser.add_argument(
        "--false-alarm-rate",
        type=parse_rate,
        metavar="RATE",
        help=f"Share of good pictures that may be called anomalous (default: {default}).",
    )


def add_data(parser: Options, *, more_meanings: str = "", required: bool = True) -> None:
    """Add the options of the data set, `--data` and `--category`.

    Args:
        parser: Parser, or group of its options.
        more_meanings: Text of the help on further values of `--category`.
        required: Whether a call must have `--data`.
    """
    parser.add_argument("--data", required=required, metavar="ROOT", help="Folder of pictures or categories.")
    category_help = f"Category to take, where ROOT holds several{more_meanings}."
    parser.add_argument("--category", metavar="NAME", help=category_help)


def add_settings(parser: Options, preset_help: str) -> None:
    """Add the options that `read_settings` reads; `preset_help` is the help of `--preset`."""
    parser.add_argument("--preset", help=preset_help)
    parser.add_argument("--config", metavar="FILE", help="YAML file of options and settings.")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="Setting that wins over the file."
    )


def read_settings(args: argparse.Namespace, flags: Iterable[str], category: str | None = None) -> Json:
    """Read the settings of a call.

    They come from `--config`, then from the options in `flags`, then from `--set`; a later value replaces an
    earlier one.

    Args:
        args: Arguments of the call.
        flags: Names of the options that are settings; an option that the call lacks (None) is left out.
        category: Category whose section of the file is read, too; None: no section is read.
    """
    from flawscope.config import merge_settings

    flagged = {name: value for name in flags if (value := getattr(args, name)) is not None}
    return merge_settings(args.config, flagged, args.set, category)


def add_pictures(parser: Options) -> None:
    """Add the options on the form of the files in `--out`."""
    parser.add_argument(
        "--decimal-comma",
        action="store_true",
        help="Write CSV with semicolons and decimal commas, as Excel reads it in German, French and others; "
        "it stays so for this --out; FILE.xlsx needs none.",
    )
    parser.add_argument(
        "--maps",
        choices=("png16", "tiff", "npy", "none"),
        help="Form of the maps: 16-bit PNG, 32-bit TIFF or numpy; maps/scale.json says what a value means "
        "(default: png16).",
    )


# Suffixes of files that the program cannot write. If `--out` has one, a file was meant: no folder is made
NO_FOLDERS = {".parquet", ".ods", ".xls", ".xlsm", ".tsv", ".txt", ".json", ".html", ".pdf", ".xml"}


def is_table(out: str) -> bool:
    """Return whether `--out` names a table, .csv or .xlsx, and not a folder."""
    from flawscope.results.table import EXCEL_SUFFIX, TABLE_SUFFIX

    return out.lower().endswith((TABLE_SUFFIX, EXCEL_SUFFIX)) and not os.path.isdir(out)


def check_output(args: argparse.Namespace) -> None:
    """Check that `--out` can be written, before anything is loaded, and make a results folder.

    Also set `--decimal-comma` if the call replaces a table that has decimal commas, and refuse options for
    files that the call does not write.
    """
    _keep_decimal_commas(args)
    if args.out and not is_table(args.out):
        check_results_folder(args.out)
        return
    writes_csv = bool(args.out) and not args.out.lower().endswith(".xlsx")
    if args.decimal_comma and not writes_csv:
        raise InputError("--decimal-comma is for CSV: add --out FILE.csv or --out DIR, or leave it out")
    if args.maps:
        raise InputError("--maps has nothing to write to: add --out DIR")
    if args.out:
        folder = Path(args.out).absolute().parent
        if not folder.is_dir():
            raise InputError(f"--out {args.out}: there is no folder {folder}; make it first")
        check_replaceable(Path(args.out))


def _keep_decimal_commas(args: argparse.Namespace) -> None:
    """Set `--decimal-comma` if the table that is to be replaced has decimal commas."""
    from flawscope.results.run import TABLE_NAME
    from flawscope.results.table import has_decimal_commas

    if not args.out or args.out.lower().endswith(".xlsx"):
        return
    earlier_table = args.out if is_table(args.out) else Path(args.out, TABLE_NAME)
    if not args.decimal_comma:
        args.decimal_comma = has_decimal_commas(earlier_table)


def check_results_folder(path: str, *names: str) -> None:
    """Make the results folder of a run, and check that its files and those of an earlier run can be written.

    Args:
        path: The results folder.
        names: Files to check, beside the tables, the summary and the report.
    """
    from flawscope.results.run import SUMMARY_NAME, TABLE_NAME, WORKBOOK_NAME
    from flawscope.results.table import OutputFiles

    output = OutputFiles(prepare_output_folder(path))
    output.check(TABLE_NAME, WORKBOOK_NAME, SUMMARY_NAME, report.REPORT_NAME, *names)


def check_earlier_results(
    args: argparse.Namespace, product: str, pictures: Collection[str | os.PathLike[str]] | None
) -> None:
    """Check that results in `--out` are of the same product, and of at least one of the same pictures.

    Nothing is checked with `--force`, or if `--out` is a table.

    Args:
        args: Arguments of the call.
        product: The model's product, as `results.json` names it.
        pictures: Files to judge; None: they are not known yet.

    Raises:
        InputError: `--out` holds other results.
    """
    from flawscope.results.run import earlier_paths, earlier_product

    if not args.out or is_table(args.out) or args.force:
        return
    remedy = "choose another folder, or replace them with --force"
    other_product = earlier_product(Path(args.out))
    if other_product not in ("", product):
        raise InputError(
            f"--out {args.out} holds results of {other_product}, the model is of {product}: {remedy}"
        )
    if not pictures:
        return
    earlier_pictures = earlier_paths(Path(args.out))
    new_paths = {os.path.abspath(path) for path in pictures}
    if earlier_pictures and new_paths.isdisjoint(map(os.path.abspath, earlier_pictures)):
        example = earlier_pictures[0]
        other_pictures = f"{pluralize(len(earlier_pictures), 'other picture')}, such as {example}"
        raise InputError(f"--out {args.out} holds results of {other_pictures}: {remedy}")


def add_force(parser: Options) -> None:
    """Add `--force`, which replaces the results of another run."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="Replace results of another product or of other pictures in --out DIR, too.",
    )


def add_figures(parser: Options, out_help: str, metavar: str = "DIR") -> None:
    """Add the options on metrics and on where the figures go; `out_help` is the help of `--out`."""
    parser.add_argument(
        "--full-resolution", action="store_true", help="Compute pixel metrics at the pictures' size, too."
    )
    parser.add_argument("--out", metavar=metavar, help=out_help)
    add_force(parser)


def seed_and_group(model: Manifest | ModelFacts) -> tuple[int, PartReader | None]:
    """Return a model's seed and the reader of its parts' names; without parts, the reader is None.

    A data set that is opened with both is split as it was for the fit.

    Raises:
        InputError: The model is damaged, or its views have different seeds.
    """
    from flawscope.artefact.model_facts import ModelFacts
    from flawscope.methods import registry

    def seed_of(manifest: Manifest) -> int:
        return int(registry.method(manifest.method).parse_stored(manifest.config).seed)

    facts = ModelFacts.of(model)
    return facts.shared("seeds", seed_of), facts.part_reader


def say(line: str) -> None:
    """Print a remark for a person on stderr: stdout is for results."""
    write_line(line)


def format_advice(step: Advice) -> str:
    """Return the text that advises a step, in lines of at most `ADVICE_WIDTH` characters."""
    return textwrap.fill(
        f"next: {step.line()}",
        ADVICE_WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def say_unless_quiet(args: argparse.Namespace) -> Say:
    """Return the function that prints remarks, or with `--quiet` one that drops them."""
    return discard if args.quiet else say


def show(line: str, *, flush: bool = False) -> None:
    """Print a line of the result on stdout; with `flush`, write it at once to a file or pipe, too."""
    if sys.stdout.isatty():
        write_line(line, sys.stdout)
    else:
        print(line, flush=flush)


def show_document(args: argparse.Namespace, document: object, lines: Callable[[], str]) -> None:
    """Print a result at once, so that it is not lost if a later step fails.

    Args:
        args: Arguments of the call.
        document: The result for JSON, which is printed with `--json`.
        lines: Returns the result as text, which is printed without `--json`.
    """
    show(as_json(document) if args.json else lines(), flush=True)


def as_json(document: object) -> str:
    """Return a document as JSON.

    Raises:
        ValueError: The document holds a number that is not finite.
    """
    return json.dumps(document, indent=1, allow_nan=False)


# Seconds of each stage, measured with 30 pictures and 8 new ones on one core. Only their proportions are
# used. A stage that a call skips counts as done when the next stage begins
FIT = Plan(
    "fit",
    (
        ("near-duplicates", 0.5),
        ("features", 16),
        ("coreset", 5),
        ("leave-one-out", 4),
        ("calibration", 4),
        ("simulated defects", 8),
    ),
)
UPDATE = Plan(
    "update",
    (
        ("reading pictures", 0.1),
        ("judging", 2),
        ("features", 4),
        ("coreset", 1),
        ("leave-one-out", 1),
        ("simulated defects", 12),
    ),
)
CALIBRATE = Plan("calibrate", (("reading pictures", 0.1), ("calibration", 3)))
_running_displays: list[TerminalProgress] = []  # the display of the running command, or none


def progress_for(args: argparse.Namespace, plan: Plan | None = None) -> ProgressCallback:
    """Return a callback that shows the command's progress on the terminal; with `--quiet` it shows nothing.

    A command has one display. The first call of this function makes it; the plans of later calls are ignored.

    Args:
        args: Arguments of the call.
        plan: Stages of the command, to show the progress of the whole command in percent; None: only the
            progress of the current stage is shown.
    """
    if args.quiet:
        return ignore_progress
    if not _running_displays:
        _running_displays.append(TerminalProgress(alive=True, plan=plan))
    return _running_displays[0]


def stop_progress() -> None:
    """End the display of progress: the command has ended, or waits for input."""
    while _running_displays:
        _running_displays.pop().stop()


def require_torch(model: str) -> None:
    """Raise InputError if a model file needs torch, and torch is not installed."""
    from flawscope.artefact.files import TRAINED_SUFFIX

    if model.lower().endswith(TRAINED_SUFFIX):
        require_installed("running a .safetensors model", "torch", "timm", extras="train")


def load_model(args: argparse.Namespace, path: str) -> Predictor | Router:
    """Load a model of any kind, with the engine, device, threads and rate of the call."""
    from flawscope.predictor.router import load

    model = load(path, engine=args.engine, device=args.device, threads=args.threads)
    return model if args.false_alarm_rate is None else model.with_rate(args.false_alarm_rate)


def load_single(args: argparse.Namespace, path: str) -> Predictor:
    """Load a model of one product, with the engine, device, threads and rate of the call.

    Raises:
        InputError: The model is of several products or views.
    """
    from flawscope.predictor import Predictor

    model = Predictor.opened(path, args.engine, args.device, args.threads)
    return model if args.false_alarm_rate is None else model.with_rate(args.false_alarm_rate)


def product_names(model: Predictor | Router, args: argparse.Namespace) -> list[str]:
    """Return the names of the products that a call changes: that of `--product`; without it, all.

    Raises:
        InputError: The model has no product of this name.
    """
    if args.product is not None and args.product not in model.products:
        raise InputError(f"{args.model} has no product {args.product}: leave out --product, or name another")
    return [*model.products] if args.product is None else [args.product]


def stream_of(model: Predictor | Router, product: str | None) -> Callable[..., Iterator[SourceResult]]:
    """Return the model's function `stream`, which judges pictures one after the other.

    Args:
        model: Model of one product or of several.
        product: For a joint model, the product that all pictures show; None: it is recognised in each.

    Raises:
        InputError: The model has no such product.
    """
    if product is None:
        return model.stream
    if not model.kind:
        raise InputError("--product is for joint models: leave it out")
    model.product(product)  # raises InputError if the model lacks it
    return partial(model.stream, product=product)


def prepare_output_folder(path: str) -> Path:
    """Make an output folder if it is missing, and check that it can be written."""
    folder = Path(path)
    has_file_suffix = folder.suffix.lower() in NO_FOLDERS
    if has_file_suffix and not folder.exists():
        raise InputError(f"--out {path}: tables are FILE.csv or FILE.xlsx; name one, or a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path} cannot be made: {error.strerror}; choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"--out {path} cannot be written: choose another folder")
    return folder


MAX_LINES_OF_REASON = 5  # if more pictures are skipped for one reason, they share a line


def report_failures(
    failures: Sequence[str], *, already_reported: bool = False, total: int | None = None
) -> int:
    """Report skipped pictures and masks, and return the exit code.

    Args:
        failures: A line for each skipped picture or mask.
        already_reported: Whether the lines were printed before; if so, only their number is reported.
        total: Number of all pictures; None: it is unknown, but larger than that of the skipped pictures.

    Returns:
        1 if there are failures, else 0.
    """
    typed_failures = [line if isinstance(line, Failure) else Failure(line) for line in failures]
    if not already_reported:
        _say_failures(typed_failures)
    skipped_count = sum(failure.kind != MASK for failure in typed_failures)
    if skipped_count:
        were = "was" if skipped_count == 1 else "were"
        has_others = total is None or skipped_count < total
        others = "; the others are done" if has_others else ""
        say(f"{pluralize(skipped_count, 'picture')} {were} skipped{others}")
    return 1 if typed_failures else 0


def _say_failures(failures: Sequence[Failure]) -> None:
    """Report each failure on a line; many pictures that cannot be read for the same reason share a line."""
    unread_names_by_reason: dict[str, list[str]] = {}
    for failure in failures:
        if failure.kind == UNREAD:
            unread_names_by_reason.setdefault(failure.reason, []).append(failure.name)
        else:
            outcome = "mask not used" if failure.kind == MASK else "skipped"
            say(f"{outcome}: {' '.join(failure.split())}")
    for reason, names in unread_names_by_reason.items():
        if len(names) > MAX_LINES_OF_REASON:
            all_names = join_names(names, limit=len(names))
            say(f"skipped: cannot read {pluralize(len(names), 'picture')}: {reason}: {all_names}")
            continue
        for name in names:
            say(f"skipped: cannot read picture {name}: {reason}")


def left_out_line(result: Evaluation, learner: str) -> str:
    """Return a line with the numbers of pictures, by kind, that an evaluation left out.

    Args:
        result: The evaluation.
        learner: Who has learnt from these pictures, such as "the model".
    """
    counts = ", ".join(f"{count} {kind}" for kind, count in result.left_out.items())
    return f"left out, because {learner} was fitted or calibrated on them: {counts}"


def format_table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Return a table as text. Columns of numbers are aligned to the right, the others to the left."""
    rows_of_text = [["" if value is None else str(value) for value in row] for row in rows]
    columns = []
    for index, title in enumerate(header):
        cells = [row[index] for row in rows_of_text]
        columns.append(_align_column(title, cells))
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join(lines)


def _align_column(title: str, values: Sequence[str]) -> list[str]:
    """Return the cells of a column, padded to one width: its title, a rule, then the values."""
    width = max(len(text) for text in (title, *values))
    # a cell counts as a number if it is empty, is n/a, or begins with a digit or a sign
    has_only_numbers = all(re.match(r"$|n/a$|[+\-0-9]", text) for text in values)
    align = str.rjust if has_only_numbers else str.ljust
    return [align(text, width) for text in (title, "-" * width, *values)]


# --------------------------------------------------- --category all|objects|textures|a,b: one after the other

SEVERAL_HELP = "; all, objects, textures (MVTec AD's) or names with commas: "  # for the help of `--category`


def has_several_categories(args: argparse.Namespace) -> bool:
    """Return whether `--category` is a group or a list of categories, not the name of one."""
    from flawscope.datasets.layouts import names_several

    return bool(args.category) and names_several(args.data, args.category)


def selected_categories(args: argparse.Namespace, file_word: str = "") -> tuple[str, ...]:
    """Return the categories that `--category` means, in the order of the tables.

    Args:
        args: Arguments of the call.
        file_word: Word for the files that are written, one for each category, such as "models"; empty: no
            files are written.

    Raises:
        InputError: A category is missing; or files are written, and `--out` names a file instead of a folder.
    """
    from flawscope.datasets.layouts import present_categories

    if file_word and args.out.endswith(".safetensors"):
        raise InputError(
            f"--category {args.category} makes several {file_word}: give --out a folder instead of "
            f"{args.out}; it gets CATEGORY.safetensors"
        )
    return present_categories(args.data, args.category, "--category")


def run_for_each(
    names: Sequence[str], work: Callable[[str], int], *, debug: bool
) -> tuple[int, dict[str, str]]:
    """Call `work` with each name. A failure is reported and does not stop the other calls.

    Args:
        names: Names to call with.
        work: Function that does the work for a name, and returns the exit code.
        debug: Whether an unforeseen error is raised instead of reported (`reason_of`).

    Returns:
        The highest exit code, where a failed call counts as 1; and the reason of each failure, by the name.
    """
    codes = []
    reason_by_name = {}
    for name in names:
        try:
            codes.append(work(name))
        except Exception as error:
            reason_by_name[name] = reason_of(error, debug=debug)
            say(f"{name}: failed: {reason_by_name[name]}")
            codes.append(1)
    return max(codes), reason_by_name


def _innermost_visible(path: str | bytes) -> str:
    """Return the path, or its nearest parent folder that this user can see.

    Files in a folder that this user may not enter seem not to exist: for them, the folder is returned.
    """
    visible = os.fsdecode(path)
    while not os.path.lexists(visible):
        parent = os.path.dirname(visible)
        has_parent = parent not in ("", visible)
        if not has_parent:
            break
        visible = parent
    return visible


def reason_of(error: Exception, *, debug: bool = False) -> str:
    """Return the reason of a failure in one line; if `debug`, raise an unforeseen error again instead."""
    if isinstance(error, FlawscopeError):
        return one_line_message(error)
    if isinstance(error, MemoryError):
        return "not enough memory: choose a smaller --size or fewer pictures"
    if debug:
        raise error
    if isinstance(error, OSError):
        return _system_reason(error)
    return _unforeseen_reason(error)


def _system_reason(error: OSError) -> str:
    """Return the reason of an OSError, with a remedy for a full disk, missing rights or a missing /tmp."""
    if error.errno in DISK_FULL:
        output = error.filename or "the output"
        return f"cannot write {output}: {error.strerror}; free some space or send it elsewhere"
    if isinstance(error, PermissionError) and error.filename:
        return f"{_innermost_visible(error.filename)}: {error.strerror}; give this user the rights to it"
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # `tempfile`'s words
        return "no folder can be written for temporary files, such as /tmp: set TMPDIR to one"
    return _unforeseen_reason(error)


def _unforeseen_reason(error: Exception) -> str:
    """Return the reason of an error that no part of the program expects, with its type."""
    return f"unexpected {message_with_type(error)}; --debug shows where"
