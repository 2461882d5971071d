"""The main job on pictures drawn here: draw a data set, fit, evaluate, report. No network, no data needed."""

from __future__ import annotations

import argparse
from pathlib import Path

from flawscope.cli import common
from flawscope.errors import InputError

BOARD = "board"
TRAIN, BOARDS = 60, 20  # good pictures to draw, small ones and large ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for everything (default: demo)")
    parser.add_argument(
        "--category", default="plate", help="plate, fabric, or board: large pictures (default: plate)"
    )
    parser.add_argument(
        "--train",
        type=common.count("pictures"),
        metavar="N",
        help=f"good pictures to draw (default: {TRAIN}, of boards {BOARDS})",
    )
    parser.add_argument(
        "--picture-size", metavar="WxH", help="of boards; parts and defects keep theirs (default: 4000x3000)"
    )
    parser.add_argument(
        "--defect-size", metavar="FROM-TO", help="of defects of boards, in pixels (default: 8-20)"
    )
    parser.add_argument("--only-draw", action="store_true", help="draw DIR/CATEGORY and fit nothing")
    parser.add_argument("--seed", type=common.seed, default=0, help="of the drawing (default: 0)")
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope import report
    from flawscope.cli import main

    if not args.only_draw:
        report.require()
    out = common.folder_for_results(args.out)
    root = out if args.only_draw else out / "data"
    for_fit = _draw(args, root)
    if args.only_draw:
        print(root / args.category)
        return 0
    data = ["--data", str(root), "--category", args.category]
    model = str(out / f"{args.category}.safetensors")
    rest = ["--device", args.device, *(["--quiet"] if args.quiet else [])]
    rest += ["--threads", str(args.threads)] if args.threads else []
    for command in (
        ["fit", *data, *for_fit, "--out", model, *rest],
        ["evaluate", model, *data, "--out", str(out / "results"), *rest],
    ):
        common.say(f"\n$ flawscope {' '.join(command)}")
        code = main(command)
        if code:
            return code
    common.say("\nOpen the report in a browser; overlays, maps and a contact sheet lie beside it:")
    print(out / "results" / report.NAME)
    return 0


def _draw(args: argparse.Namespace, root: Path) -> list[str]:
    """Draw the data set; returns what `fit` must be told of it."""
    from flawscope.demo import board, dataset

    if args.category not in (*dataset.CATEGORIES, BOARD):
        known = ", ".join((*dataset.CATEGORIES, BOARD))
        raise InputError(f"--category {args.category}: there is no such drawn category; choose of {known}")
    if args.category != BOARD:
        if args.picture_size or args.defect_size:
            raise InputError("--picture-size and --defect-size are for boards: add --category board")
        common.say(f"drawing a data set of category {args.category} in {root}")
        dataset.draw_dataset(root, category=args.category, train=args.train or TRAIN, seed=args.seed)
        return []
    width, height = _pair("picture-size", args.picture_size, "x") or board.SIZE[::-1]
    extent = _pair("defect-size", args.defect_size, "-") or board.EXTENT
    common.say(
        f"drawing boards of {width}x{height} px with defects of {extent[0]} to {extent[1]} px in {root}"
    )
    dataset.draw_boards(
        root,
        train=args.train or BOARDS,
        size=(height, width),
        extent=extent,
        seed=args.seed,
        step=common.step_for(args),
    )
    return ["--min-defect", f"{extent[0]}px"]


def _pair(option: str, text: str | None, between: str) -> tuple[int, int] | None:
    """ "4000x3000" or "8-20"; None where nothing was said."""
    if text is None:
        return None
    first, _, second = text.lower().partition(between)
    if not (first.isdecimal() and second.isdecimal()):
        example = {"x": "4000x3000", "-": "8-20"}[between]
        raise InputError(f"--{option} {text}: write two numbers of pixels, such as {example}")
    return int(first), int(second)
