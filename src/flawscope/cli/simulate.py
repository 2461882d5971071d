"""Put simulated and seen defects on good pictures: pictures, masks and a contact sheet to judge them by."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flawscope.cli import common
from flawscope.errors import InputError
from flawscope.progress import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from flawscope.results.output_manifest import OwnFiles
    from flawscope.synthesis import SimulatedDefect, TextureFolder

    Pixels = NDArray[np.uint8]
    Make = Callable[[Pixels, NDArray[np.bool_], str, np.random.Generator], SimulatedDefect]

Entry = TypeVar("Entry")
Usable = TypeVar("Usable")
SEEN = "seen"
SHEET, FOLDERS = "contact_sheet.png", ("pictures", "masks")  # what is written
CELL = 176  # pixels a side in the contact sheet
SHOWN = 60  # defects in the contact sheet at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for pictures, masks and the sheet"
    )
    parser.add_argument(
        "--count",
        type=common.count("defects"),
        default=24,
        metavar="N",
        help="how many defects (default: 24)",
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
        "--foreground",
        metavar="MASK",
        help="picture that is not black where the object is, of all pictures (default: it is looked for)",
    )
    parser.add_argument(
        "--size",
        type=common.count("pixels", 16),
        metavar="N",
        help="make pictures of N x N, as a network sees them",
    )
    parser.add_argument(
        "--seed", type=common.seed, default=0, metavar="N", help="of everything random (default: 0)"
    )
    common.add_quiet(parser)


class Row(NamedTuple):
    """A defect in the table, and a strip of three cells in the sheet unless there are too many."""

    kind: str
    area: float
    difference: float
    strip: list[Image.Image]
    captions: list[str]


def run(args: argparse.Namespace) -> int:
    from flawscope.datasets import open_dataset
    from flawscope.results import drawing
    from flawscope.synthesis import TextureFolder

    kinds = _kinds(args)
    paths = [item.path for item in open_dataset(args.data, args.category).train]
    _refuse_inputs(args, paths)
    textures = TextureFolder(args.textures) if args.textures else None
    failures = [*textures.skipped] if textures else []
    make = _maker(args, textures, failures)
    own = _own_files(args, kinds)
    rows, objects = _simulate(args, paths, kinds, make, own, failures)
    sheet = own.path(SHEET)
    drawing.save_png(sheet, _sheet(rows, kinds))
    common.show(_table(rows))
    if not args.quiet:
        found = sum(objects.values())
        of = counted(len(objects), "good picture")
        common.say(f"object found in {found} of {of}; in the others, everywhere")
        if textures and textures.left_out:
            common.say(f"{counted(textures.left_out, 'texture')} left out: {len(textures)} fit into memory")
        common.say(f"wrote {sheet}: look at it")
    return common.report_failures(list(dict.fromkeys(failures)))


def _refuse_inputs(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """InputError where `--out` is a folder that is read, or holds one: its pictures would be mixed with those
    that are made, or be removed as an earlier run's."""
    out = Path(args.out).resolve()
    read = {"data": {Path(args.data), *(path.parent for path in paths)}}
    for name in ("seen", "textures", "foreground"):
        read[name] = {Path(given)} if (given := getattr(args, name)) else set()
    for name, places in read.items():
        if any(place.resolve().is_relative_to(out) for place in places):
            raise InputError(f"--out {args.out} holds what --{name} reads: choose another folder")


def _own_files(args: argparse.Namespace, kinds: Sequence[str]) -> OwnFiles:
    """The folder for results without those of an earlier run. InputError where a file of somebody else has a
    name that may be needed; nothing is removed then."""
    from flawscope.results.output_manifest import OwnFiles

    own = OwnFiles(common.folder_for_results(args.out))
    own.refuse_foreign(SHEET)
    for name in FOLDERS:
        common.folder_for_results(str(own.folder / name))
        for index in range(args.count):
            for kind in dict.fromkeys((kinds[index % len(kinds)], "spot")):  # a spot, where that fails
                own.refuse_foreign(f"{name}/{_name(index, kind)}")
    own.begin(common.say_for(args))
    return own


def _name(index: int, kind: str) -> str:
    return f"{index:03d}_{kind}.png"


def _simulate(
    args: argparse.Namespace,
    paths: Sequence[Path],
    kinds: Sequence[str],
    make: Make,
    own: OwnFiles,
    failures: list[str],
) -> tuple[list[Row], dict[Path, bool]]:
    """Write the pictures and masks; return a row for each, and in which good pictures an object was found."""
    import numpy as np

    from flawscope.pictures.decoding import read_mask
    from flawscope.results import drawing
    from flawscope.synthesis import Foreground

    step = common.step_for(args)
    usable = [paths[k] for k in np.random.default_rng(args.seed).permutation(len(paths))]
    white = _white(usable[: args.count])

    def read(path: Path) -> tuple[Path, Pixels]:
        return path, _picture(path, white, args.size)

    if args.foreground:
        foregrounds = Foreground(given=read_mask(args.foreground))
    else:
        foregrounds = Foreground.of(_readable(usable, read))
    rows: list[Row] = []
    objects: dict[Path, bool] = {}
    for index in range(args.count):
        path, good = _usable(usable, index, read, failures, f"no good picture in {args.data}")
        foreground = foregrounds.mask(good)
        objects[path] = not foreground.all()
        defect = make(good, foreground, kinds[index % len(kinds)], np.random.default_rng([args.seed, index]))
        for folder, image in zip(FOLDERS, (defect.picture, defect.mask), strict=True):
            drawing.save_png(own.path(f"{folder}/{_name(index, defect.kind)}"), image)
        rows.append(_row(path.name, good, foreground, defect, index < SHOWN))
        step("simulate", index + 1, args.count)
    return rows, objects


def _readable(paths: Sequence[Path], read: Callable[[Path], tuple[Path, Pixels]]) -> Iterator[Pixels]:
    """Those that can be read; the others are reported when it is their turn."""
    for path in paths:
        with contextlib.suppress(InputError):
            yield read(path)[1]


def _usable(
    entries: list[Entry], number: int, read: Callable[[Entry], Usable], failures: list[str], none: str
) -> Usable:
    """What is read of the entry with this number, counted round; those that cannot be read are dropped."""
    while entries:
        index = number % len(entries)
        try:
            return read(entries[index])
        except InputError as error:
            failures.append(str(error))
            del entries[index]
    raise InputError(f"{none} can be used; the last: {failures[-1]}")


def _kinds(args: argparse.Namespace) -> list[str]:
    """What is to be made; what cannot be is refused."""
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
    from flawscope.synthesis import extend_defect, read_seen, simulate_defect

    seen = list_seen(args.seen) if args.seen else []
    white = _white([item.path for item in seen])
    read = functools.lru_cache(16)(lambda item: read_seen(item, white))
    draw = textures.draw if textures else None

    def make(
        picture: Pixels, foreground: NDArray[np.bool_], kind: str, rng: np.random.Generator
    ) -> SimulatedDefect:
        if kind != SEEN:
            return simulate_defect(picture, rng, kind=kind, textures=draw, foreground=foreground)
        number = int(rng.integers(1 << 32))
        pixels, mask = _usable(seen, number, read, failures, f"no seen defect in {args.seen}")
        return extend_defect(picture, pixels, mask, rng, foreground=foreground)

    return make


def _white(paths: list[Path]) -> float | None:
    """One white level for all deep pictures, None where there is none."""
    import numpy as np

    from flawscope.pictures.decoding import decode
    from flawscope.pictures.preprocess import white_level_for

    level = None
    for path in paths:
        try:
            picture = decode(path)
        except InputError:
            continue  # reported when it is used
        if picture.dtype != np.uint8:
            level = max(level or 0.0, white_level_for(float(picture.max()), picture.dtype))
    return level


def _picture(path: Path, white: float | None, size: int | None) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    from flawscope.pictures.decoding import decode, to_eight_bits

    picture = to_eight_bits(decode(path), white)
    if size is not None:
        picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    if min(picture.shape[:2]) < 16:
        raise InputError(f"cannot use picture {path}: it is below 16x16 pixels; give larger ones")
    return picture


def _row(name: str, good: Pixels, foreground: NDArray[np.bool_], defect: SimulatedDefect, shown: bool) -> Row:
    from flawscope.results import drawing

    area = float(defect.mask.mean())
    if not shown:
        return Row(defect.kind, area, defect.difference, [], [])
    first = good if foreground.all() else drawing.contour(good, foreground, drawing.GOOD)
    cells = (first, defect.picture, drawing.contour(defect.picture, defect.mask))
    captions = [name, defect.kind, f"{area:.2%}, difference {defect.difference:.0f}"]
    strip = [drawing.fitted(image, (CELL, CELL)) for image in cells]
    return Row(defect.kind, area, defect.difference, strip, captions)


def _sheet(rows: Sequence[Row], kinds: Sequence[str]) -> Image.Image:
    """By kind, two defects a row: the good picture with its object outlined, the defect, its outline."""
    from flawscope.results.contact_sheet import contact_sheet

    cells, headings = [], []
    for kind in dict.fromkeys([*kinds, *(row.kind for row in rows)]):
        shown = [row for row in rows if row.kind == kind and row.strip]
        for start in range(0, len(shown), 2):
            pair = shown[start : start + 2]
            cells.append(([i for row in pair for i in row.strip], [c for row in pair for c in row.captions]))
            headings.append(None if start else f"{kind} ({sum(row.kind == kind for row in rows)})")
    title = (
        "Simulated defects\neach: the good picture, the object outlined in blue where one was found; "
        "with the defect; its outline, its share of the picture and its mean difference in grey levels"
    )
    return contact_sheet(cells, (CELL, CELL), headings=headings, title=title)


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for kind in sorted({row.kind for row in rows}):
        group = [row for row in rows if row.kind == kind]
        area = sum(row.area for row in group) / len(group)
        difference = sum(row.difference for row in group) / len(group)
        lines.append((kind, len(group), f"{area:.2%}", f"{difference:.1f}"))
    return common.table(lines, ("kind", "count", "mean area", "mean difference"))
