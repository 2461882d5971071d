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
        "movement, focus and white pixels, names faults and what they cost.",
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
    """Check a folder of pictures, or the camera, and print what was found; return the exit code."""
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
    """Check a data set. Where an alignment fails, its error is raised after all else was shown."""
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
    aligned = None
    problem = None
    if args.align:
        try:
            aligned = _check_alignment(args, dataset, step)
        except InputError as error:  # the rest is told and shown all the same
            problem = error
    if args.out:
        _write_page(args.out, dataset, report, aligned)
    steps = [] if args.align else advise_before(dataset)
    _show_checks(args, report, aligned, steps)
    if problem is not None:
        raise problem
    is_aligned = aligned is None or not aligned.problem
    return 0 if report.ok and is_aligned else 1


def _write_page(out: str, dataset: Dataset, report: CheckReport, aligned: Alignment | None) -> None:
    from flawscope.pages.report import write_page
    from flawscope.pages.report.pages import check_page

    write_page(out, check_page(dataset, report, aligned))


def _show_checks(
    args: argparse.Namespace, report: CheckReport, aligned: Alignment | None, steps: Sequence[Advice]
) -> None:
    """Print what was found and advised, with `--json` as one document."""
    if args.json:
        document = report.to_dict()
        if aligned is not None:
            document["alignment"] = aligned.to_dict()
        document["advice"] = [step._asdict() for step in steps]
        common.show(common.as_json(document))
        return
    lines = list(report.lines())
    if aligned is not None:
        lines += aligned.lines()
    common.show("\n".join(lines))
    for step in steps:
        common.show(common.next_step(step))


def _check_camera(args: argparse.Namespace) -> int:
    """Measure frames of a still part, and how well a model's score repeats."""
    if args.data:
        raise InputError("--data checks a data set, --still and --again a camera: check one at a time")
    if bool(args.again) != bool(args.model):
        raise InputError("--again needs --model, which judges its pictures, and --model needs --again")
    reports: dict[str, StillReport | Repeatability] = {}
    if args.still:
        reports["still"] = _measure_still_frames(args)
    if args.again:
        reports["again"] = _measure_repeatability(args)
    if args.json:
        common.show(common.as_json({name: report.to_dict() for name, report in reports.items()}))
    else:
        for report in reports.values():
            common.show("\n".join(report.lines()))
    has_faults = any(report.is_fault for report in reports.values())
    return 1 if has_faults else 0


def _measure_still_frames(args: argparse.Namespace) -> StillReport:
    from flawscope.pictures.listing import list_pictures
    from flawscope.pictures.still_frames import check_still_frames

    step = common.progress_for(args)
    return check_still_frames(
        list_pictures(args.still), lambda done, total: step("still frames", done, total)
    )


def _measure_repeatability(args: argparse.Namespace) -> Repeatability:
    from flawscope.evaluation.repeatability import Repeatability
    from flawscope.pictures.listing import list_pictures
    from flawscope.predictor.router import load

    severities = list[float]()
    for _, judged in load(args.model).stream(list_pictures(args.again)):
        if isinstance(judged, InputError):
            raise judged
        severities.append(judged.severity)
    return Repeatability.of(severities)


def _check_alignment(args: argparse.Namespace, dataset: Dataset, step: ProgressCallback) -> Alignment:
    """Find the parts in all pictures by a reference from the good ones."""
    from flawscope.results.alignment import Alignment

    good = [item.path for item in dataset.train]
    others = [item.path for item in dataset.test]
    root = dataset.root
    say = lambda done, all_: step("alignment", done, all_)  # noqa: E731
    return Alignment.learn(good, others, args.align, root, say, several=args.several)


# --------------------------------------------------------------------------------------------------- the demo


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
        known = ", ".join(dataset.CATEGORIES)
        raise InputError(f"--category {args.category}: there is no such drawn category; choose of {known}")
    if not args.only_draw:
        fit_one.require_training()  # whose extra brings what a report needs, too
        report.require_libraries()
    out = common.prepare_output_folder(args.out)
    root = out if args.only_draw else out / "data"
    common.say(f"drawing a data set of category {args.category} in {root}")
    # few defects: all of it is to be over within a minute
    dataset.draw_dataset(root, category=args.category, train=args.train, bad_per_kind=4, seed=args.seed)
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
    program = _program_as_typed()
    for words in (
        ["predict", model, str(root / args.category / "test"), "--out", str(out / "found")],
        ["info", model],
        ["fit", "--data", str(root / args.category / "train"), "--out", "part.safetensors"],
    ):
        common.say(f"$ {program} {shlex.join(words)}")
    return 0


def _program_as_typed() -> str:
    """Return the words that start this program from the current folder.

    They are its name where it is on the path, else the path to it.
    """
    started = Path(sys.argv[0])
    if not started.stem.startswith("flawscope"):  # by `python -m flawscope`
        return f"{_from_here(Path(sys.executable))} -m flawscope"
    on_path = shutil.which(started.name)
    if on_path is not None and started.exists() and started.samefile(on_path):
        return started.stem
    return _from_here(started)


def _from_here(path: Path) -> str:
    """Return a path for a shell, relative where it lies below the current folder."""
    whole = Path(os.path.abspath(path))
    here = Path.cwd()
    return shlex.quote(str(whole.relative_to(here) if whole.is_relative_to(here) else whole))
