"""Check a folder of pictures: counts, sizes, unreadable files, masks, copies; `data check --data ROOT`.

Or check the camera, by frames of one part that lies still: `data check --still FOLDER`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.artefact.files import check_writable
from flawscope.cli import common
from flawscope.errors import InputError

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.datasets.check import CheckReport
    from flawscope.evaluation.repeatability import Repeatability
    from flawscope.pictures.still_frames import StillReport
    from flawscope.progress import ProgressCallback
    from flawscope.results.advice import Advice
    from flawscope.results.alignment import Alignment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope data check` to its parser."""
    parser.add_argument("action", metavar="check", choices=["check"], help="Action: check.")
    common.add_data(parser, required=False)
    common.add_good(parser)
    parser.add_argument(
        "--still",
        metavar="FOLDER",
        help="Frames of one part that lies still, about 30, from the running camera: measures noise, light, "
        "movement, focus and white pixels, names faults and their effects.",
    )
    parser.add_argument(
        "--again",
        metavar="FOLDER",
        help="Pictures of one part that was put in five times: says how well the score of --model repeats.",
    )
    parser.add_argument("--model", metavar="MODEL", help="Model file that judges the pictures of --again.")
    parser.add_argument(
        "--align",
        choices=["shift", "turn", "full"],
        help="Pose of the parts; says how well they are found, and --out draws where.",
    )
    parser.add_argument(
        "--several", action="store_true", help="Find several parts in a picture, with --align."
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="Page to write, .html; it shows how each form of picture and mask is read, and with --align "
        "where parts are found.",
    )
    common.add_group(parser)
    parser.add_argument("--no-near", action="store_true", help="Skip the search for near-duplicates.")
    common.add_json(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Check a folder of pictures, or the camera, and print the findings; return the exit code."""
    if args.still or args.again:
        return _check_camera(args)
    if not args.data:
        raise InputError("give --data ROOT, or --still FOLDER with frames of one part that lies still")
    if args.several and not args.align:
        raise InputError("--several needs to know how parts lie: give --align shift, turn or full")
    if args.out:
        check_writable(Path(args.out), ".html")
    return _check_data(args)


def _check_data(args: argparse.Namespace) -> int:
    """Check a data set, print and write the findings, and return the exit code.

    Raises:
        InputError: The data set cannot be read; or its parts cannot be aligned, in which case the other
            findings are printed first.
    """
    from flawscope.datasets import open_dataset
    from flawscope.datasets.check import check
    from flawscope.datasets.dataset import group_warning
    from flawscope.evaluation.next_steps import advise_before

    step = common.progress_for(args)
    dataset = open_dataset(args.data, args.category, group=args.group, good=args.good)
    if group_remark := group_warning([item.path for item in dataset.train], args.group):
        common.say(group_remark)
    progress = partial(step, "check")
    report = check(dataset, near=not args.no_near, group=args.group, progress=progress)
    alignment = None
    alignment_error = None
    if args.align:
        try:
            alignment = _check_alignment(args, dataset, step)
        except InputError as error:  # raised below, after the other findings are printed
            alignment_error = error
    if args.out:
        _write_page(args.out, dataset, report, alignment)
    advised_steps = [] if args.align else advise_before(dataset)
    _show_checks(args, report, alignment, advised_steps)
    if alignment_error is not None:
        raise alignment_error
    is_alignment_good = alignment is None or not alignment.problem
    return 0 if report.ok and is_alignment_good else 1


def _write_page(out: str, dataset: Dataset, report: CheckReport, alignment: Alignment | None) -> None:
    """Write the page of a check to the file `out`."""
    from flawscope.pages.report import write_page
    from flawscope.pages.report.pages import check_page

    write_page(out, check_page(dataset, report, alignment))


def _show_checks(
    args: argparse.Namespace,
    report: CheckReport,
    alignment: Alignment | None,
    advised_steps: Sequence[Advice],
) -> None:
    """Print the findings and the advised steps; with `--json`, as one document."""
    if args.json:
        document = report.to_dict()
        if alignment is not None:
            document["alignment"] = alignment.to_dict()
        document["advice"] = [step._asdict() for step in advised_steps]
        common.show(common.as_json(document))
        return
    lines = list(report.lines())
    if alignment is not None:
        lines += alignment.lines()
    common.show("\n".join(lines))
    for step in advised_steps:
        common.show(common.format_advice(step))


def _check_camera(args: argparse.Namespace) -> int:
    """Measure frames of a still part, and how well a model's score repeats; return 1 for faults, else 0."""
    if args.data:
        raise InputError("--data checks a data set, --still and --again a camera: check one at a time")
    if bool(args.again) != bool(args.model):
        raise InputError("--again needs --model, which judges its pictures, and --model needs --again")
    report_by_option: dict[str, StillReport | Repeatability] = {}
    if args.still:
        report_by_option["still"] = _measure_still_frames(args)
    if args.again:
        report_by_option["again"] = _measure_repeatability(args)
    if args.json:
        common.show(common.as_json({name: report.to_dict() for name, report in report_by_option.items()}))
    else:
        for report in report_by_option.values():
            common.show("\n".join(report.lines()))
    has_faults = any(report.is_fault for report in report_by_option.values())
    return 1 if has_faults else 0


def _measure_still_frames(args: argparse.Namespace) -> StillReport:
    """Measure the frames of `--still`."""
    from flawscope.pictures.listing import list_pictures
    from flawscope.pictures.still_frames import check_still_frames

    step = common.progress_for(args)
    return check_still_frames(list_pictures(args.still), partial(step, "still frames"))


def _measure_repeatability(args: argparse.Namespace) -> Repeatability:
    """Judge the pictures of `--again`, and measure how far their severities spread."""
    from flawscope.evaluation.repeatability import Repeatability
    from flawscope.pictures.listing import list_pictures
    from flawscope.predictor.router import load

    severities = list[float]()
    for _, result in load(args.model).stream(list_pictures(args.again)):
        if isinstance(result, InputError):
            raise result
        severities.append(result.severity)
    return Repeatability.of(severities)


def _check_alignment(args: argparse.Namespace, dataset: Dataset, step: ProgressCallback) -> Alignment:
    """Learn a reference from the good pictures of a data set, and find the parts in all its pictures."""
    from flawscope.results.alignment import Alignment

    return Alignment.learn(
        good=[item.path for item in dataset.train],
        others=[item.path for item in dataset.test],
        kind=args.align,
        root=dataset.root,
        progress=partial(step, "alignment"),
        several=args.several,
    )


# --------------------------------------------------------------------------------------------------- the demo


DEMO_DEFECTS_PER_KIND = 4  # few: the demo shall end within a minute


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope demo` to its parser."""
    parser.add_argument("--out", default="demo", metavar="DIR", help="Folder for everything (default: demo).")
    parser.add_argument(
        "--category", default="plate", help="Category to draw: plate or fabric (default: plate)."
    )
    parser.add_argument(
        "--train",
        type=common.count_parser("pictures"),
        default=40,
        metavar="N",
        help="Number of good pictures to draw (default: %(default)s).",
    )
    parser.add_argument("--only-draw", action="store_true", help="Draw DIR/CATEGORY and fit nothing.")
    parser.add_argument("--seed", type=common.parse_seed, default=0, help="Seed of the drawing (default: 0).")
    common.add_device(parser)
    common.add_quiet(parser)


def demo(args: argparse.Namespace) -> int:
    """Do the main job on pictures drawn here: draw a data set, fit, evaluate, report. It needs no network."""
    from flawscope.cli import fit_one
    from flawscope.cli.program import main
    from flawscope.pages import report
    from flawscope.synthesis.demo import dataset

    if args.category not in dataset.CATEGORIES:
        categories = ", ".join(dataset.CATEGORIES)
        raise InputError(
            f"--category {args.category}: there is no such drawn category; choose of {categories}"
        )
    if not args.only_draw:
        # first, since the remedy in its error also installs the libraries of the report
        fit_one.require_training()
        report.require_libraries()
    out = common.prepare_output_folder(args.out)
    root = out if args.only_draw else out / "data"
    common.say(f"drawing a data set of category {args.category} in {root}")
    dataset.draw_dataset(
        root,
        category=args.category,
        train=args.train,
        bad_per_kind=DEMO_DEFECTS_PER_KIND,
        seed=args.seed,
    )
    if args.only_draw:
        print(root / args.category)
        return 0
    data = ["--data", str(root), "--category", args.category]
    model = str(out / f"{args.category}.safetensors")
    common_options = ["--device", args.device]
    if args.quiet:
        common_options.append("--quiet")
    if args.threads:
        common_options += ["--threads", str(args.threads)]
    fit_command = ["fit", *data, "--out", model, *common_options]
    evaluate_command = ["evaluate", model, *data, "--out", str(out / "results"), *common_options]
    for command in (fit_command, evaluate_command):
        common.say(f"\n$ flawscope {shlex.join(command)}")
        code = main(command)
        if code:
            return code
    common.say("\nOpen the report in a browser; overlays and maps lie beside it:")
    print(out / "results" / report.REPORT_NAME)
    common.say(
        "\nNext, as it is typed here; in the last one, name a folder with 20 good pictures of yours or more:"
    )
    program = _program_words()
    for words in (
        ["predict", model, str(root / args.category / "test"), "--out", str(out / "found")],
        ["info", model],
        ["fit", "--data", str(root / args.category / "train"), "--out", "part.safetensors"],
    ):
        common.say(f"$ {program} {shlex.join(words)}")
    return 0


def _program_words() -> str:
    """Return the words that start this program from the current folder.

    They are the program's name if the shell finds the program by it, else the program's path.
    """
    program = Path(sys.argv[0])
    if not program.stem.startswith("flawscope"):  # started by `python -m flawscope`
        return f"{_shell_path(Path(sys.executable))} -m flawscope"
    found_program = shutil.which(program.name)
    if found_program is not None and program.exists() and program.samefile(found_program):
        return program.stem
    return _shell_path(program)


def _shell_path(path: Path) -> str:
    """Return a path quoted for a shell, relative where it lies below the current folder."""
    absolute = Path(os.path.abspath(path))
    folder = Path.cwd()
    shown_path = absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute
    return shlex.quote(str(shown_path))
