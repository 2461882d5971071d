"""How often does each guard fire on good pictures as they are delivered, and how often on bad ones?

    python bench/guards.py --data DATA
    python bench/guards.py --parts good,groups --products plate,gear

Real sets below DATA (mvtec/NAME, real/NAME; skipped where they are missing) and twenty drawn kinds. `good`: a
fit of the good pictures alone, and a new calibration on other good ones. `groups`: two to four misfires of
one kind among 24 good pictures, at `fit` and at `calibrate`; `held`: of kinds and products on which no limit
was chosen, and `draws` of their good pictures. `singles`: a defect, a foreign part, a black frame or a copy
among 24. A fit or calibration is asked about where it has an open question or is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import common
import drawn
from common import Args, Cell, Record
from flawscope.synthesis.demo import dataset
from flawscope.synthesis.textures import Picture

REAL = (
    "mvtec/transistor", "mvtec/toothbrush", "real/lens", "real/pcb", "real/commutator", "real/cookie",
    "real/fabric",
)  # fmt: skip
GUARDS = {  # by what their lines say
    "group apart": "apart from the other pictures",
    "as far out as defects": "as far out as defects",
    "shows nothing": "nothing beside the others",
    "too few to calibrate": "could be promised, before it was",
    "alone and far out": "alone sets? the score threshold, far out",
    "sets the threshold alone": "alone sets? the score threshold: ",
    "called anomalous before": "called anomalous before",
    "another look": "unlike the pictures learnt from",
    "copies learnt from": "are they copies",
    "near-copies": "near-copies:",
    "unsure whether copies": "unsure:",
    "misses simulated defects": "clear simulated defects of",
}
REMARKS = (
    "sets the threshold alone", "called anomalous before", "another look", "copies learnt from",
    "near-copies", "unsure whether copies", "misses simulated defects",
)  # fmt: skip
KINDS = ("half black", "foreign", "shifted", "overexposed", "underexposed", "blurred", "noise", "hand")
HELD_KINDS = ("out of focus", "turned around", "colour cast", "partly covered")  # no limit was chosen on them
DRAWS = 30  # of good pictures of these products, in which no group is to be found
SINGLES = ("defect", "foreign", "black", "copy")
GOOD_COUNT, HELD_BACK = 24, 20  # good pictures among which bad ones lie, and others to calibrate on
Pictures = list[Picture]
Drawings = dict[str, Callable[[int, int], Picture]]


def drawn_kinds() -> tuple[Drawings, Drawings]:
    """Functions that draw picture k with sides of so many pixels, by kind; and of products that were held
    back: no limit was chosen on them."""
    dataset.CATEGORIES.update(drawn.CATEGORIES)

    def draw(category: str, size: int, k: int, part: int | None = None) -> Picture:
        rng = np.random.default_rng([17, k if part is None else part])
        picture = dataset.draw_picture(category, rng, size=size)[0]
        noise = np.random.default_rng([18, k]).normal(0, 1.5, picture.shape)
        return np.clip(picture + noise, 0, 255).round().astype(np.uint8)

    def lit(size: int, k: int) -> Picture:
        rng = np.random.default_rng([19, k])
        slope = 0.75 + 0.5 * rng.random() * np.linspace(0, 1, size)[:, None]
        return np.clip(draw("plate", size, k) * slope[..., None], 0, 255).astype(np.uint8)

    def labelled(size: int, k: int) -> Picture:
        image = Image.fromarray(draw("keys", size, 0))
        box = (size // 4, size // 3, 3 * size // 4, 2 * size // 3)
        ImageDraw.Draw(image).rectangle(box, fill=(236, 236, 230))
        text = f"LOT {4711 + 37 * k}\n2024-{1 + k % 12:02}-{1 + k % 28:02}"
        ImageDraw.Draw(image).text((box[0] + 4, box[1] + 4), text, fill=(20, 20, 24), font_size=size // 10)
        return np.clip(
            np.asarray(image) + np.random.default_rng(k).normal(0, 2, (size, size, 3)), 0, 255
        ).astype(np.uint8)

    def dark_field(size: int, k: int) -> Picture:
        edges = np.asarray(Image.fromarray(draw("pill", size, k)).filter(ImageFilter.FIND_EDGES))
        return np.clip(edges * 1.5 + 4, 0, 255).astype(np.uint8)

    kinds = {name: partial(draw, name) for name in dataset.CATEGORIES if name not in drawn.HELD}
    held = {name: partial(draw, name) for name in drawn.HELD}
    more: Drawings = {
        "uneven light": lit,
        "printed labels": labelled,
        "dark field": dark_field,
        "two makes": lambda size, k: draw(("plate", "painted")[k % 2], size, k),
        "few": partial(draw, "bottle"),
        "many": partial(draw, "fabric"),
        "grey": lambda size, k: np.repeat(draw("gear", size, k)[..., 1:2], 3, axis=2),
    }
    return kinds | more, held


COUNTS = {"few": 10, "many": 150}  # good pictures of these; else `--learnt`


def misfire(kind: str, picture: Picture, foreign: Picture, rng: np.random.Generator) -> Picture:
    """A misfire of a good picture [H, W, 3] uint8."""
    height, width = picture.shape[:2]
    bad = picture.copy()
    if kind == "half black":
        bad[height // 2 :] = 0
    elif kind == "foreign":
        bad = np.asarray(Image.fromarray(foreign).resize((width, height)))
    elif kind == "shifted":
        bad = np.zeros_like(picture)
        bad[:, width // 3 :] = picture[:, : width - width // 3]
    elif kind == "overexposed":
        bad = np.clip(picture * 2.2 + 20, 0, 255).astype(np.uint8)
    elif kind == "underexposed":
        bad = (picture * 0.3).astype(np.uint8)
    elif kind == "blurred":
        blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(width / 50))
        bad = np.asarray(blurred)
    elif kind == "noise":
        bad = np.clip(picture + rng.normal(0, 40, picture.shape), 0, 255).astype(np.uint8)
    elif kind == "out of focus":
        wide = Image.fromarray(picture).filter(ImageFilter.BoxBlur(width / 30))
        bad = np.asarray(wide)
    elif kind == "turned around":
        bad = picture[::-1, ::-1].copy()
    elif kind == "colour cast":
        bad = np.clip(picture * np.array([1.25, 1.0, 0.7]), 0, 255).astype(np.uint8)
    elif kind == "partly covered":
        bad[: height // 4] = (96, 92, 88)
    elif kind == "copy":  # the same part once more, a little aside and brighter
        noise = rng.normal(0, 3, picture.shape)
        bad = np.clip(np.roll(picture, (1, 2), (0, 1)) * 1.02 + noise, 0, 255).astype(np.uint8)
    elif kind == "hand":
        bad[:, : 2 * width // 5] = (200, 160, 140)
    else:
        bad = np.zeros_like(picture)
    return bad


def read(paths: Sequence[Path], side: int, most: int) -> Pictures:
    """Pictures at this width, so many of them at most, drawn evenly."""
    some = [paths[k * len(paths) // most] for k in range(most)] if len(paths) > most else paths
    found = []
    for path in some:
        with Image.open(path) as image:
            height = max(16, round(side * image.height / image.width))
            found.append(np.asarray(image.convert("RGB").resize((side, height), Image.Resampling.BILINEAR)))
    return found


def sets(args: Args) -> Iterator[tuple[str, Pictures, Pictures, Pictures]]:
    """Name, good pictures, others that are good, and defective ones of each set."""
    for name, folder in common.set_folders(args, args.sets.split(",")):
        good = sorted((folder / "train" / "good").iterdir())
        others = sorted((folder / "test" / "good").iterdir())
        bad = sorted(p for p in (folder / "test").glob("*/*") if p.parent.name != "good")
        yield (
            name,
            read(good, args.side, args.most),
            read(others, args.side, HELD_BACK),
            read(bad, args.side, 20),
        )
    kinds = drawn_kinds()[0]
    for name in kinds if args.products == "all" else filter(None, args.products.split(",")):
        count = COUNTS.get(name, args.learnt)
        pictures = [kinds[name](args.side, k) for k in range(count + HELD_BACK)]
        category = name if name in dataset.CATEGORIES else "plate"
        flaws = dataset.CATEGORIES[category].defects
        bad = [
            dataset.draw_picture(category, np.random.default_rng([17, k]), flaw, 0.1, size=args.side)[0]
            for k, flaw in enumerate(flaws)
            if name in dataset.CATEGORIES
        ]
        yield name, pictures[:count], pictures[count:], bad


def fired(lines: Sequence[str]) -> dict[str, int]:
    """How many of the lines each guard says."""
    return {
        guard: count
        for guard, words in GUARDS.items()
        if (count := sum(bool(re.search(words, x)) for x in lines))
    }


def farthest(calibration: Any) -> float:
    """Severity of the nearest of the highest scores, by the rest: of as many as give the most."""
    order = np.argsort(-np.asarray(calibration.scores)).tolist()
    found = [0.0]
    for count in range(1, max(1, len(order) // 4) + 1):
        rest = calibration.without_units(order[:count])
        if rest is not calibration:
            found.append(float(rest.severity(calibration.scores[order[count - 1]])))
    return round(max(found), 2)


def fit(
    pictures: Pictures, names: Sequence[str], args: Args, bad: Sequence[str] = (), check: bool = True
) -> tuple[Cell, Any]:
    """What a fit says of the pictures, and its model, if any. bad: names of the bad ones."""
    import flawscope
    from flawscope.errors import InputError

    lines: list[str] = []
    try:
        model = flawscope.fit(
            pictures, names=names, say=lines.append, device="cpu", samples=0, size=args.size, check=check
        )
    except InputError as error:
        asked = [str(error)]
        return {"asked": True, "fired": fired(asked), "named": sum(name in asked[0] for name in bad)}, None
    questions = list(getattr(model, "questions", ()))
    told = " ".join([*questions, *lines, *(one.name for one in model.suspects)])
    cell = {
        "asked": bool(questions),
        "fired": fired(list(dict.fromkeys([*lines, *questions]))),
        "suspects": len(model.suspects),
        "farthest": farthest(model.calibration),
        "named": sum(name in told for name in bad),
        "asked about": sum(any(name in question for question in questions) for name in bad),
        "others asked about": sum(
            any(name in question for question in questions) for name in names if name not in bad
        ),
    }
    return cell, model


def calibrate(
    model: Any, pictures: Pictures, names: Sequence[str], folder: Path, bad: Sequence[str] = ()
) -> Cell:
    """What a new calibration says of the pictures."""
    from flawscope.errors import InputError

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for picture, name in zip(pictures, names, strict=True):
        Image.fromarray(picture).save(folder / name)
    try:
        after = model.calibrate(str(folder))
    except InputError as error:
        return {"asked": True, "fired": fired([str(error)]), "named": sum(name in str(error) for name in bad)}
    questions = list(getattr(after, "questions", ()))
    lines = [*after.manifest.notes[len(model.manifest.notes) :], *questions]
    thresholds = [round(one.calibration.score_threshold, 3) for one in (model, after)]
    return {
        "asked": bool(questions),
        "fired": fired(lines),
        "named": sum(name in " ".join(lines) for name in bad),
        "thresholds": thresholds,
        "farthest": farthest(after.calibration),
    }


def names_of(count: int, style: int) -> list[str]:
    """Names as cameras and people give them."""
    styles = ("IMG_{:04}.png", "part {}.png", "2024-05-{:02} 08.15.png", "DSC{:05}.png", "Teil-{}_oben.png")
    return [styles[style % len(styles)].format(k + 1) for k in range(count)]


def measure(record: Record, args: Args, work: Path) -> dict[str, Cell]:
    """All cells, by name."""
    cells: dict[str, Cell] = {}
    foreign = [drawn_kinds()[0]["keys"](args.side, 900 + k) for k in range(4)]  # of the set before

    def attempt(name: str, work: Callable[[], Cell]) -> None:
        if (cell := record.attempt(name, work)) is not None:
            cells[name] = cell

    for number, (name, good, others, defective) in enumerate(sets(args)):
        rng, few, names = np.random.default_rng(number), good[:GOOD_COUNT], names_of(len(good), number)
        base: list[Any] = []

        def model(few: Pictures = few, names: list[str] = names, base: list[Any] = base) -> Any:
            if not base:
                base.append(fit(few, names[: len(few)], args)[1])
            return base[0]

        if "good" in args.parts:
            attempt(f"good: {name}, fit", lambda g=good, n=names: fit(g, n, args)[0])  # type: ignore[misc]
            if len(few) == GOOD_COUNT:
                new = [f"new {one}" for one in names[: len(others)]]
                attempt(
                    f"good: {name}, calibrate",
                    lambda o=others, n=new: calibrate(model(), o, n, work / "good"),  # type: ignore[misc]
                )
        for turn in range(len(KINDS) if "groups" in args.parts and len(few) == GOOD_COUNT else 0):
            if turn % args.every != number % args.every:
                continue
            kind, count = KINDS[turn], 2 + (number + turn // args.every) % 3
            # of parts that are not among the good ones
            bases = (good[GOOD_COUNT:] + others)[:count]
            bad = [misfire(kind, *pair, rng) for pair in zip(bases, foreign[:count], strict=True)]
            marks = [f"misfire {k}.png" for k in range(count)]
            known = [*names[:GOOD_COUNT], *marks]
            attempt(
                f"groups: {name}, {count} {kind}, fit",
                lambda p=[*few, *bad], n=known, m=marks: fit(p, n, args, m)[0],  # type: ignore[misc]
            )
            new = [*(f"new {one}" for one in names[: len(others)]), *marks]
            attempt(
                f"groups: {name}, {count} {kind}, calibrate",
                lambda p=[*others, *bad], n=new, m=marks: calibrate(  # type: ignore[misc]
                    model(), p, n, work / "bad", m
                ),
            )
        for kind in SINGLES if "singles" in args.parts and len(few) == GOOD_COUNT else ():
            if kind == "defect" and not defective:
                continue
            one = (
                defective[number % len(defective)]
                if kind == "defect"
                else misfire(kind, few[0], foreign[0], rng)
            )
            known = [*names[:GOOD_COUNT], "x0-IMG.png"]
            attempt(
                f"singles: {name}, {kind}, fit",
                lambda p=[*few, one], n=known: fit(p, n, args, ["x0-IMG.png"])[0],  # type: ignore[misc]
            )
        foreign = good[:4]
    for name, draw in drawn_kinds()[1].items() if "held" in args.parts else ():
        measure_held(name, draw, attempt, args, work)
    return cells


def measure_held(
    name: str, draw: Callable[[int, int], Picture], attempt: Callable[..., None], args: Args, work: Path
) -> None:
    """A product held back, and kinds of misfires held back: among good ones, and none among draws of them."""
    number, rng = [*drawn.HELD].index(name), np.random.default_rng(23)
    good = [draw(args.side, k) for k in range(args.learnt + HELD_BACK)]
    few, others = good[:GOOD_COUNT], good[-HELD_BACK:]
    other = drawn_kinds()[1][[*drawn.HELD][number - 1]]
    names, base = names_of(len(good), number), list[Any]()
    for turn, kind in enumerate(HELD_KINDS):
        count = 2 + (number + turn) % 3
        bad = [misfire(kind, draw(args.side, 500 + k), other(args.side, k), rng) for k in range(count)]
        marks = [f"misfire {k}.png" for k in range(count)]
        known = [*names[:GOOD_COUNT], *marks]
        attempt(
            f"held: {name}, {count} {kind}, fit",
            lambda p=[*few, *bad], n=known, m=marks: fit(p, n, args, m)[0],
        )
        base = base or [fit(few, names[:GOOD_COUNT], args)[1]]
        new = [*(f"new {one}" for one in names[:HELD_BACK]), *marks]
        attempt(
            f"held: {name}, {count} {kind}, calibrate",
            lambda p=[*others, *bad], n=new, m=marks, b=base[0]: calibrate(b, p, n, work / "held", m),
        )
    for turn in range(number, DRAWS, len(drawn.HELD)):
        chosen = np.random.default_rng([29, turn]).permutation(len(good))[:GOOD_COUNT].tolist()
        attempt(
            f"draws: {name}, {turn}, fit",
            lambda c=chosen: fit([good[k] for k in c], [names[k] for k in c], args, check=False)[0],
        )


def rows_of(cells: dict[str, Cell]) -> Iterator[Cell]:
    """How often each guard fires, on good pictures and on bad ones."""

    def of(part: str, end: str) -> list[Cell]:
        return [cell for name, cell in cells.items() if name.startswith(part) and name.endswith(end)]

    for end in ("fit", "calibrate"):
        for guard in GUARDS:
            good, bad = of("good", end), [*of("groups", end), *of("held", end), *of("singles", end)]
            counts = [sum(guard in cell["fired"] for cell in those) for those in (good, bad)]
            if any(counts):
                yield {
                    "at": end,
                    "guard": guard,
                    "ends as": "a remark" if guard in REMARKS else "a question",
                    "on good": f"{counts[0]} of {len(good)}",
                    "on bad among good": f"{counts[1]} of {len(bad)}",
                }


def caught(cells: dict[str, Cell]) -> Iterator[Cell]:
    """How many of the bad pictures are asked about, and named at all."""
    parts = {"groups": KINDS, "held": HELD_KINDS, "singles": SINGLES}
    for part, end in [(part, end) for part in parts for end in ("fit", "calibrate")]:
        those = {name: cell for name, cell in cells.items() if name.startswith(part) and name.endswith(end)}
        for kind in parts[part]:
            of = [(name, cell) for name, cell in those.items() if f" {kind}," in name]
            if of:
                wanted = [int(n) if (n := name.split(", ")[1].split()[0]).isdigit() else 1 for name, _ in of]
                named = sum(cell["named"] >= count for (_, cell), count in zip(of, wanted, strict=True))
                asked = sum(cell["asked"] for _, cell in of)
                told = {"sets": len(of), "asked": asked, "all named": named}
                yield {"bad": part, "kind": kind, "at": end, **told}


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "guards", data=False)
    parser.add_argument("--data", type=Path, help="folder with mvtec and real (default: $FLAWSCOPE_DATA)")
    parser.add_argument("--sets", default=",".join(REAL), help="real sets (default: %(default)s)")
    parser.add_argument("--products", default="all", help="drawn kinds (default: %(default)s)")
    parser.add_argument("--parts", default="good,groups,singles,held", help="default: %(default)s")
    parser.add_argument("--every", type=int, default=3, help="one of so many kinds of misfires in each set")
    for name, count in (("learnt", 30), ("most", 120), ("side", 192), ("size", 128)):
        parser.add_argument(f"--{name}", type=int, default=count, help="default: %(default)s")
    args = common.parse_arguments(
        parser, sets="", products="sheet", learnt=25, side=64, size=64, every=8, parts="good,groups"
    )
    torch.set_num_threads(args.threads)
    record = Record(args, "how often each guard fires, on good pictures and on bad ones")
    with common.workspace(args.work) as work:
        cells = measure(record, args, work)
    common.print_table("guards", [*rows_of(cells)])
    common.print_table("bad pictures among good ones", [*caught(cells)])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
