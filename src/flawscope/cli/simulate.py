"""Put simulated and seen defects on good pictures: pictures, masks and a contact sheet to judge them by."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from flawscope.cli import common
from flawscope.errors import InputError, pluralize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from flawscope.pictures.levels import Levels
    from flawscope.results.table import OutputFiles
    from flawscope.synthesis import SimulatedDefect, TextureFolder

    Pixels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Make = Callable[[Pixels, Mask, str, np.random.Generator], SimulatedDefect]

Entry = TypeVar("Entry")
Value = TypeVar("Value")
SEEN = "seen"
SHEET, FOLDERS = "contact_sheet.png", ("pictures", "masks")  # in `--out`
CELL_SIZE = 176  # pixels a side in the contact sheet
MAX_SHOWN = 60  # defects in the contact sheet at most
TITLE = (
    "Simulated defects\neach: the good picture, the object outlined in blue where one was found; "
    "with the defect; its outline, its share of the picture and its mean difference in grey levels"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for pictures, masks and the sheet"
    )
    parser.add_argument(
        "--count",
        type=common.count_parser("defects"),
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
        type=common.count_parser("pixels", 16),
        metavar="N",
        help="make pictures of N x N, as a network sees them",
    )
    parser.add_argument(
        "--seed", type=common.parse_seed, default=0, metavar="N", help="of everything random (default: 0)"
    )
    common.add_quiet(parser)


class DefectRow(NamedTuple):
    """Row of the table: a defect. It has a strip of three cells in the sheet unless there are too many."""

    kind: str
    area: float
    difference: float
    strip: list[Image.Image]
    captions: list[str]


class ReadableEntries(Generic[Entry, Value]):
    """Sequence of entries that are read when indexed; unreadable ones go to `failures` and are dropped."""

    def __init__(self, entries: list[Entry], read: Callable[[Entry], Value], none: str, failures: list[str]):
        self.entries, self.read, self.none, self.failures = entries, read, none, failures

    def __getitem__(self, number: int) -> tuple[Entry, Value]:
        """Returns entry `number` modulo the count, and its value. InputError: none is readable."""
        while self.entries:
            index = number % len(self.entries)
            try:
                return self.entries[index], self.read(self.entries[index])
            except InputError as error:
                self.failures.append(str(error))
                del self.entries[index]
        raise InputError(f"{self.none} can be used; the last: {self.failures[-1]}")

    def values(self) -> Iterator[Value]:
        """Yields the values of readable entries; the others are reported when they are indexed."""
        for entry in list(self.entries):
            with suppress(InputError):
                yield self.read(entry)


def run(args: argparse.Namespace) -> int:
    from flawscope.datasets import open_dataset
    from flawscope.results import drawing
    from flawscope.synthesis import TextureFolder

    kinds = _kinds(args)
    paths = [item.path for item in open_dataset(args.data, args.category, good=args.good).train]
    _refuse_inputs(args, paths)
    textures = TextureFolder(args.textures) if args.textures else None
    failures = [*textures.skipped] if textures else []
    make = _defect_maker(args, textures, failures)
    own = _prepare_files(args, kinds)
    rows, objects = _simulate(args, paths, kinds, make, own, failures)
    sheet = own.path(SHEET)
    drawing.save_png(sheet, _sheet(rows, kinds))
    common.show(_table(rows))
    say, of = common.say_unless_quiet(args), pluralize(len(objects), "good picture")
    say(f"object found in {sum(objects.values())} of {of}; in the others, everywhere")
    if textures and textures.left_out:
        say(f"{pluralize(textures.left_out, 'texture')} left out: {len(textures)} fit into memory")
    say(f"wrote {sheet}: look at it")
    return common.report_failures(list(dict.fromkeys(failures)))


def _kinds(args: argparse.Namespace) -> list[str]:
    """The kinds of defects to make. InputError for a kind that cannot be made."""
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


def _refuse_inputs(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """InputError where `--out` is a folder of inputs, or holds one: its pictures would be mixed with the new
    ones, or be removed as an earlier run's."""
    out = Path(args.out).resolve()
    read = {
        name: [Path(given)] for name in ("seen", "textures", "foreground") if (given := getattr(args, name))
    }
    read = {"data": [Path(args.data), *{path.parent for path in paths}], **read}
    for name, places in read.items():
        if any(place.resolve().is_relative_to(out) for place in places):
            raise InputError(f"--out {args.out} holds what --{name} reads: choose another folder")


def _prepare_files(args: argparse.Namespace, kinds: Sequence[str]) -> OutputFiles:
    """Folder for results without those of an earlier run. InputError where a file of somebody else has a name
    that may be needed; nothing is removed then."""
    from flawscope.results.table import OutputFiles

    own = OutputFiles(common.prepare_output_folder(args.out))
    own.refuse_foreign(SHEET)
    for folder in FOLDERS:
        common.prepare_output_folder(str(own.folder / folder))
        for index in range(args.count):
            for kind in {kinds[index % len(kinds)], "spot"}:  # a spot, where that fails
                own.refuse_foreign(_file_name(folder, index, kind))
    own.remove_earlier(common.say_unless_quiet(args))
    return own


def _file_name(folder: str, index: int, kind: str) -> str:
    return f"{folder}/{index:03d}_{kind}.png"


def _defect_maker(args: argparse.Namespace, textures: TextureFolder | None, failures: list[str]) -> Make:
    """Returns a function that puts a defect on a picture. Unreadable seen defects go to `failures`."""
    from flawscope.datasets.seen_defects import list_seen, read_seen
    from flawscope.synthesis import extend_defect, simulate_defect

    items = list_seen(args.seen, say=common.say) if args.seen else []
    levels = _levels([item.path for item in items])
    read = functools.lru_cache(16)(lambda item: read_seen(item, levels))
    seen = ReadableEntries(items, read, f"no seen defect in {args.seen}", failures)
    draw = textures.draw if textures else None

    def make(picture: Pixels, foreground: Mask, kind: str, rng: np.random.Generator) -> SimulatedDefect:
        if kind != SEEN:
            return simulate_defect(picture, rng, kind=kind, textures=draw, foreground=foreground)
        _, (pixels, mask) = seen[int(rng.integers(1 << 32))]
        return extend_defect(picture, pixels, mask, rng, foreground=foreground)

    return make


def _simulate(
    args: argparse.Namespace,
    paths: Sequence[Path],
    kinds: Sequence[str],
    make: Make,
    own: OutputFiles,
    failures: list[str],
) -> tuple[list[DefectRow], dict[Path, bool]]:
    """Writes pictures and masks; returns a row for each, and whether each good picture shows an object."""
    import numpy as np

    from flawscope.pictures.masks import read_mask
    from flawscope.results import drawing
    from flawscope.synthesis import Foreground

    step = common.progress_for(args)
    shuffled = [paths[k] for k in np.random.default_rng(args.seed).permutation(len(paths))]
    levels = _levels(shuffled[: args.count])
    none = f"no good picture in {args.data}"
    pictures = ReadableEntries(shuffled, lambda path: _read_picture(path, levels, args.size), none, failures)
    if args.foreground:
        foregrounds = Foreground(given=read_mask(args.foreground))
    else:
        foregrounds = Foreground.of(pictures.values())
    rows: list[DefectRow] = []
    objects: dict[Path, bool] = {}
    for index in range(args.count):
        path, good = pictures[index]
        foreground = foregrounds.mask(good)
        objects[path] = not foreground.all()
        defect = make(good, foreground, kinds[index % len(kinds)], np.random.default_rng([args.seed, index]))
        for folder, image in zip(FOLDERS, (defect.picture, defect.mask), strict=True):
            drawing.save_png(own.path(_file_name(folder, index, defect.kind)), image)
        rows.append(_row(path.name, good, foreground, defect, index < MAX_SHOWN))
        step("simulate", index + 1, args.count)
    return rows, objects


def _levels(paths: list[Path]) -> Levels | None:
    """Common levels of all pictures with more than 8 bits; None where there is none."""
    import numpy as np

    from flawscope.pictures.decoding import decode
    from flawscope.pictures.levels import common_levels, used_range

    used, kind = [], "u"
    for path in paths:
        try:
            picture = decode(path)
        except InputError:
            continue  # reported when it is used
        if picture.dtype != np.uint8:
            used.append(used_range(picture))
            kind = picture.dtype.kind
    return common_levels(used, kind)[0] if used else None


def _read_picture(path: Path, levels: Levels | None, size: int | None) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    from flawscope.pictures.decoding import decode, to_eight_bits

    picture = to_eight_bits(decode(path), levels)
    if size is not None:
        picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    if min(picture.shape[:2]) < 16:
        raise InputError(f"cannot use picture {path}: it is below 16x16 pixels; give larger ones")
    return picture


def _row(name: str, good: Pixels, foreground: Mask, defect: SimulatedDefect, shown: bool) -> DefectRow:
    from flawscope.results import drawing

    area = float(defect.mask.mean())
    if not shown:
        return DefectRow(defect.kind, area, defect.difference, [], [])
    first = good if foreground.all() else drawing.contour(good, foreground, drawing.GOOD_COLOUR)
    cells = (first, defect.picture, drawing.contour(defect.picture, defect.mask))
    captions = [name, defect.kind, f"{area:.2%}, difference {defect.difference:.0f}"]
    strip = [drawing.fit_into(image, (CELL_SIZE, CELL_SIZE)) for image in cells]
    return DefectRow(defect.kind, area, defect.difference, strip, captions)


def _sheet(rows: Sequence[DefectRow], kinds: Sequence[str]) -> Image.Image:
    """Draws the defects by kind, two a row: the good picture with its object, the defect, its outline."""
    from flawscope.results.contact_sheet import SheetRow, contact_sheet

    lines = []
    for kind in dict.fromkeys([*kinds, *(row.kind for row in rows)]):
        shown = [row for row in rows if row.kind == kind and row.strip]
        for start in range(0, len(shown), 2):
            pair = shown[start : start + 2]
            heading = "" if start else f"{kind} ({sum(row.kind == kind for row in rows)})"
            images = [image for row in pair for image in row.strip]
            lines.append(SheetRow(images, [words for row in pair for words in row.captions], heading))
    return contact_sheet(lines, (CELL_SIZE, CELL_SIZE), title=TITLE)


def _table(rows: Sequence[DefectRow]) -> str:
    lines = []
    for kind in sorted({row.kind for row in rows}):
        group = [row for row in rows if row.kind == kind]
        area = sum(row.area for row in group) / len(group)
        difference = sum(row.difference for row in group) / len(group)
        lines.append((kind, len(group), f"{area:.2%}", f"{difference:.1f}"))
    return common.format_table(lines, ("kind", "count", "mean area", "mean difference"))
