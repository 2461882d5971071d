"""Do a fit, an update and a calibration cost what they cost at another commit?

    git worktree add ../before COMMIT
    python bench/versions.py --before ../before --threads 1

Whole processes of `flawscope`, in turns: processor seconds, which other work on the machine hardly changes,
and peak memory. `fit` of --counts good pictures at default settings, an update of that model by a tenth as
many new ones, and a calibration on as many generated plates, `MOST_NEW` at most. Where a product has too few
pictures, all are taken again mirrored, then upside down, then both. A calibration takes no near-duplicates of
these, and asks nothing of another product with `--force`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import common
from common import Args, Cell

COMMANDS = ("fit", "update", "calibrate")
MOST_NEW, NEW_SIDE = 240, 512  # pictures of a calibration; their pixels a side
FORMS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    ImageOps.mirror,
    ImageOps.flip,
    lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
)


def good_pictures(root: Path) -> list[Path]:
    """Good pictures of a product, in MVTec AD's layout."""
    return [*common.pictures_below(root / "train/good"), *common.pictures_below(root / "test/good")]


def write_pictures(files: Sequence[Path], first: int, count: int, folder: Path) -> None:
    """Writes so many pictures from a number on: the files, then all of them in each further form."""
    good = folder / "train/good"
    if good.is_dir():
        return
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for number in range(first, first + count):
        form, place = divmod(number, len(files))
        if form == 0:
            shutil.copy(files[place], draft / f"{number:04d}{files[place].suffix}")
            continue
        if form > len(FORMS):
            raise SystemExit(f"{len(files)} pictures are too few for {first + count}")
        with Image.open(files[place]) as picture:
            FORMS[form - 1](picture).save(draft / f"{number:04d}.png")
    good.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(good)


def commit_of(tree: Path) -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=tree, check=True, capture_output=True, text=True).stdout.strip()


def words_of(command: str, count: int, folder: Path, version: str) -> list[str]:
    """A command of `flawscope`, on the pictures below a folder."""
    model = folder / f"{count}-fit-{version}.safetensors"
    out = folder / f"{count}-{command}-{version}.safetensors"
    if command == "fit":
        return ["fit", "--data", f"{folder / str(count)}", "--out", f"{model}"]
    if command == "update":
        return ["fit", "--update", f"{model}", "--data", f"{folder / f'{count}-update'}", "--out", f"{out}"]
    good = folder / f"{count}-calibrate/plate/train/good"
    return ["calibrate", f"{model}", "--good", f"{good}", "--out", f"{out}"]


def measure(args: Args, tree: Path, words: Sequence[str], folder: Path) -> Cell:
    """Runs a command with the sources of a tree."""
    env = os.environ | {"PYTHONPATH": str(tree / "src")}
    shared = ["--threads", str(args.threads), "--device", "cpu", "--force", "--quiet"]
    child = common.run([sys.executable, "-m", "flawscope", *words, *shared], env, folder)
    return {
        "commit": commit_of(tree),
        "cpu_s": common.round_to(child.cpu, 4),
        "wall_s": common.round_to(child.seconds, 4),
        "peak_mib": child.peak // common.MIB,
    }


def ratio_rows(cells: dict[str, Cell], count: int, rounds: int) -> list[Cell]:
    """Rows of a table: medians of both versions, and their ratio; of the rounds that have been measured."""
    rows = []
    for command in COMMANDS:
        row: dict[str, Any] = {"command": command, "pictures": count}
        for key in ("cpu_s", "peak_mib"):
            medians = []
            for version in ("before", "now"):
                names = [f"{count}/{command}/{version}/{k}" for k in range(rounds)]
                values = [cells[name][key] for name in names if name in cells]
                medians.append(statistics.median(values) if values else None)
                row[f"{key} {version}"] = medians[-1]
            if None not in medians:
                row[f"{key} ratio"] = common.round_to(medians[1] / medians[0], 3)
        rows.append(row)
    return rows


def main() -> int:
    parser = common.make_parser(__doc__, "versions")
    parser.set_defaults(categories="transistor")
    parser.add_argument("--before", type=Path, default=common.ROOT, help="checkout of the other commit")
    parser.add_argument("--counts", type=common.ints, default=[60, 762], help="default: 60,762")
    parser.add_argument("--rounds", type=common.ints, default=[3, 1], help="of each count (default: 3,1)")
    args = common.parse_arguments(parser, threads=1, counts=[12], rounds=[1])
    record = common.Record(args, "whole processes beside those of another commit")
    trees = {"before": args.before.resolve(), "now": common.ROOT}
    rows = []
    with common.workspace(args.work) as work:
        (_, root), *_ = islice(common.category_folders(args), 1)
        files = good_pictures(root)
        for count, rounds in zip(args.counts, args.rounds, strict=True):
            update, new = count // 10, min(count, MOST_NEW)
            write_pictures(files, 0, count, work / str(count))
            write_pictures(files, count, update, work / f"{count}-update")
            common.draw_plates(work / f"{count}-calibrate", train=new, size=NEW_SIDE)
            for k in range(rounds):
                for command in COMMANDS:
                    for version in sorted(trees, reverse=k % 2 == 1):
                        words = words_of(command, count, work, version)
                        run = partial(measure, args, trees[version], words, work)
                        record.attempt(f"{count}/{command}/{version}/{k}", run)
            rows += ratio_rows(record.cells, count, rounds)
    common.print_table("processor seconds and peak memory", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
