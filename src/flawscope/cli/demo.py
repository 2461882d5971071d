"""The main job on pictures drawn here: draw a data set, fit, evaluate, report. No network, no data needed."""

from __future__ import annotations

import argparse

from flawscope.cli import common
from flawscope.errors import InputError

TRAIN = 60  # good pictures to draw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for everything (default: demo)")
    parser.add_argument("--category", default="plate", help="plate or fabric (default: plate)")
    parser.add_argument(
        "--train",
        type=common.count("pictures"),
        default=TRAIN,
        metavar="N",
        help="good pictures to draw (default: %(default)s)",
    )
    parser.add_argument("--only-draw", action="store_true", help="draw DIR/CATEGORY and fit nothing")
    parser.add_argument("--seed", type=common.seed, default=0, help="of the drawing (default: 0)")
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope import report
    from flawscope.cli import main
    from flawscope.synthesis.demo import dataset

    if args.category not in dataset.CATEGORIES:
        known = ", ".join(dataset.CATEGORIES)
        raise InputError(f"--category {args.category}: there is no such drawn category; choose of {known}")
    if not args.only_draw:
        report.require()
    out = common.folder_for_results(args.out)
    root = out if args.only_draw else out / "data"
    common.say(f"drawing a data set of category {args.category} in {root}")
    dataset.draw_dataset(root, category=args.category, train=args.train, seed=args.seed)
    if args.only_draw:
        print(root / args.category)
        return 0
    data = ["--data", str(root), "--category", args.category]
    model = str(out / f"{args.category}.safetensors")
    rest = ["--device", args.device, *(["--quiet"] if args.quiet else [])]
    rest += ["--threads", str(args.threads)] if args.threads else []
    for command in (
        ["fit", *data, "--out", model, *rest],
        ["evaluate", model, *data, "--out", str(out / "results"), *rest],
    ):
        common.say(f"\n$ flawscope {' '.join(command)}")
        code = main(command)
        if code:
            return code
    common.say("\nOpen the report in a browser; overlays, maps and a contact sheet lie beside it:")
    print(out / "results" / report.NAME)
    return 0
