"""Put simulated and seen defects on good pictures: pictures, masks and a contact sheet to judge them by."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flawscope.cli import common

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from flawscope.synthesis import SimulatedDefect, TextureFolder

    Make = Callable[[NDArray[np.uint8], NDArray[np.bool_], str, np.random.Generator], SimulatedDefect]

SEEN = "seen"
CELL = 176  # pixels a side in the contact sheet
SHOWN = 60  # defects in the contact sheet at most


def whole(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return value

    return parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for pictures, masks and the sheet"
    )
    parser.add_argument(
        "--count", type=whole(1), default=24, metavar="N", help="how many defects (default: 24)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help="texture, structure, seen, or one of the small ones: paste, shift, blur, dark, bright, colour, "
        "missing, scratch, crack, spot (default: texture, structure, and seen with --seen)",
    )
    parser.add_argument(
        "--textures", metavar="FOLDER", help="pictures of materials (default: generated textures)"
    )
    parser.add_argument(
        "--seen", metavar="FOLDER", help="defective pictures with masks, whose defects are put on good ones"
    )
    parser.add_argument(
        "--size", type=whole(16), metavar="N", help="make pictures of N x N, as a network sees them"
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of everything random (default: 0)"
    )
    common.add_quiet(parser)


class Made(NamedTuple):
    """One line of the report, and one strip of the sheet unless there are too many."""

    kind: str
    area: float
    difference: float
    strip: list[Any]
    captions: list[str]


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from flawscope.datasets import open_dataset
    from flawscope.errors import InputError
    from flawscope.results import drawing
    from flawscope.synthesis import TextureFolder, foreground_mask

    kinds = _kinds(args)
    items = open_dataset(args.data, args.category).train
    textures = TextureFolder(args.textures) if args.textures else None
    step = common.step_for(args)
    failures = [*textures.skipped] if textures else []
    make = _maker(args, textures, failures)
    out = common.folder_for_results(args.out)
    for name in ("pictures", "masks"):
        common.folder_for_results(str(out / name))
    usable = [items[k] for k in np.random.default_rng(args.seed).permutation(len(items))]
    white = _white([item.path for item in usable[: args.count]])

    def good(index: int) -> tuple[Path, NDArray[np.uint8]]:
        while usable:
            path = usable[index % len(usable)].path
            try:
                return path, _picture(path, white, args.size)
            except InputError as error:
                failures.append(str(error))
                del usable[index % len(usable)]
        raise InputError(f"no good picture in {args.data} can be used; the last: {failures[-1]}")

    made: list[Made] = []
    everywhere: dict[Path, bool] = {}
    for index in range(args.count):
        path, picture = good(index)
        foreground = foreground_mask(picture)
        everywhere[path] = bool(foreground.all())
        rng = np.random.default_rng([args.seed, index])
        one = make(picture, foreground, kinds[index % len(kinds)], rng)
        name = f"{index:03d}_{one.kind}.png"
        drawing.save_png(out / "pictures" / name, one.picture)
        drawing.save_png(out / "masks" / name, one.mask)
        made.append(_report(path.name, picture, foreground, one, index < SHOWN))
        step("simulate", index + 1, args.count)
    drawing.save_png(out / "contact_sheet.png", _sheet(made, kinds))
    print(_table(made))
    if not args.quiet:
        found = len(everywhere) - sum(everywhere.values())
        common.say(f"object found in {found} of {len(everywhere)} good pictures; in the others, everywhere")
        if textures and textures.left_out:
            common.say(f"{textures.left_out} textures were left out: {len(textures)} fit into memory")
        common.say(f"wrote {out / 'contact_sheet.png'}: look at it")
    return common.report_failures(list(dict.fromkeys(failures)))


def _kinds(args: argparse.Namespace) -> list[str]:
    """What is to be made; what cannot be is refused."""
    from flawscope.errors import InputError
    from flawscope.synthesis import KINDS, PAPER_KINDS

    known = list(dict.fromkeys([*PAPER_KINDS, SEEN, *KINDS]))
    kinds = args.kinds or [*PAPER_KINDS, *([SEEN] if args.seen else [])]
    for kind in kinds:
        if kind not in known:
            raise InputError(f"there is no kind of defect {kind!r}: choose of {', '.join(known)}")
    if SEEN in kinds and not args.seen:
        raise InputError("--kinds seen needs defects that were seen: add --seen FOLDER")
    if args.seen and SEEN not in kinds:
        raise InputError("--seen is of no use to these --kinds: add seen to them, or leave --seen out")
    return list(dict.fromkeys(kinds))


def _maker(args: argparse.Namespace, textures: TextureFolder | None, failures: list[str]) -> Make:
    """What puts a defect of a kind on a picture. Seen defects that cannot be read end up in `failures`."""
    from flawscope.datasets.seen import list_seen
    from flawscope.errors import InputError
    from flawscope.synthesis import extend_defect, read_seen, simulate_defect

    seen = list_seen(args.seen) if args.seen else []
    white = _white([item.path for item in seen])
    read = functools.lru_cache(16)(lambda item: read_seen(item, white))

    def defect(rng: np.random.Generator) -> tuple[Any, Any]:
        while seen:
            index = int(rng.integers(len(seen)))
            try:
                return read(seen[index])
            except InputError as error:
                failures.append(str(error))
                del seen[index]
        raise InputError(f"no seen defect in {args.seen} can be used; the last: {failures[-1]}")

    def make(picture: Any, foreground: Any, kind: str, rng: np.random.Generator) -> SimulatedDefect:
        if kind == SEEN:
            return extend_defect(picture, *defect(rng), rng, foreground=foreground)
        draw = textures.draw if textures else None
        return simulate_defect(picture, rng, kind=kind, textures=draw, foreground=foreground)

    return make


def _white(paths: list[Path]) -> float | None:
    """One white level for all deep pictures, None where there is none."""
    import numpy as np

    from flawscope.errors import InputError
    from flawscope.pictures.decoding import decode
    from flawscope.pictures.preprocess import white_level_for

    level = None
    for path in paths:
        try:
            picture = decode(path)
        except InputError:
            continue  # told when it is used
        if picture.dtype != np.uint8:
            level = max(level or 0.0, white_level_for(float(picture.max()), picture.dtype))
    return level


def _picture(path: Path, white: float | None, size: int | None) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    from flawscope.errors import InputError
    from flawscope.pictures.decoding import decode
    from flawscope.synthesis import to_eight_bits

    picture = to_eight_bits(decode(path), white)
    if size is not None:
        picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    if min(picture.shape[:2]) < 16:
        raise InputError(f"cannot use picture {path}: it is below 16x16 pixels; give larger ones")
    return picture


def _report(name: str, good: Any, foreground: Any, one: SimulatedDefect, shown: bool) -> Made:
    from flawscope.results import drawing

    area = float(one.mask.mean())
    if not shown:
        return Made(one.kind, area, one.difference, [], [])
    first = good if foreground.all() else drawing.contour(good, foreground, drawing.GOOD)
    cells = (CELL, CELL)
    strip = [drawing.fitted(image, cells) for image in (first, one.picture)]
    strip.append(drawing.fitted(drawing.contour(one.picture, one.mask), cells))
    captions = [name, one.kind, f"{area:.2%}, difference {one.difference:.0f}"]
    return Made(one.kind, area, one.difference, strip, captions)


def _sheet(made: list[Made], kinds: list[str]) -> Image.Image:
    """By kind, two defects a row: the good picture with its object outlined, the defect, its outline."""
    from flawscope.results import drawing

    rows, headings = [], []
    for kind in dict.fromkeys([*kinds, *(one.kind for one in made)]):
        shown = [one for one in made if one.kind == kind and one.strip]
        for start in range(0, len(shown), 2):
            pair = shown[start : start + 2]
            rows.append(([i for one in pair for i in one.strip], [c for one in pair for c in one.captions]))
            headings.append(f"{kind} ({sum(one.kind == kind for one in made)})" if start == 0 else None)
    title = (
        "Simulated defects\neach: the good picture, the object outlined in blue where one was found; "
        "with the defect; its outline, its share of the picture and its mean difference in grey levels"
    )
    return drawing.contact_sheet(rows, (CELL, CELL), headings=headings, title=title)


def _table(made: list[Made]) -> str:
    rows = []
    for kind in sorted({one.kind for one in made}):
        own = [one for one in made if one.kind == kind]
        area = sum(one.area for one in own) / len(own)
        difference = sum(one.difference for one in own) / len(own)
        rows.append((kind, len(own), f"{area:.2%}", f"{difference:.1f}"))
    return common.table(rows, ("kind", "count", "mean area", "mean difference"))
