"""Does a joint model judge each product as its own model does, and recognise what it sees?

    python bench/products.py --set size=128

Two joint models. `six` holds the categories of --categories and four drawn products: the plate, the same
plate painted, the fabric, and the same fabric nearer; pictures of this kind were looked at when the rule of
recognition was chosen. `others` holds drawn products of quite other kinds, which took no part in that.

single      a fit of each product alone, on the test pictures: `kept` says whether its false alarms lie within
            the binomial 95 % band of the expected rate
joint       the joint model on the same pictures: what it recognises, and the largest difference of any metric
good        the good ones of them: what they are taken for
left out    test pictures of each product, judged by a joint model of the others
foreign     photographs, textures, and good pictures of the other joint model's products
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
from common import Args, Cell, Record

DRAWN = {"six": "plate,painted,fabric,nearer", "others": "gear,bottle,keys,cable,wood,mesh,leather,pill"}
METRICS = ("image_auroc", "pixel_auroc", "au_pro")
PARTS = "single,joint,good,left out,foreign"
Folders = Mapping[str, Path]


def judged(model: Any, root: Path) -> Cell:
    """Metrics and decisions on a product's test pictures."""
    import flawscope

    found = flawscope.evaluate(model, flawscope.open_dataset(root))
    alarms, kinds = found.false_alarms, found.kinds
    count = round(alarms["measured"] * alarms["images"])
    low, high = common.band(alarms["images"], alarms["expected"])
    defective = [kind for name, kind in kinds.items() if name != "good"]
    return {
        "metrics": {name: found.metrics[name] for name in METRICS},
        "alarms": count,
        "good": alarms["images"],
        "expected": common.sig(alarms["expected"], 3),
        "band": [low, high],
        "kept": low <= count <= high,
        "found": sum(kind["anomalous"] for kind in defective),
        "defective": sum(kind["images"] for kind in defective),
    }


def single(args: Args, root: Path, model: Path) -> Cell:
    """A product's own model."""
    import flawscope

    options = common.settings(args, "patchcore")
    fitted = flawscope.fit(root, check=False, samples=0, device="cpu", **options)
    fitted.save(model)
    return {"learnt": len(fitted.manifest.pictures), **judged(fitted, root)}


def joint(line: Any, folders: Folders, alone: Mapping[str, Cell], size: int, apart: int) -> Cell:
    """The joint model on the test pictures of its products. size, apart: bytes of it, and of their models."""
    from flawscope.predictor.joint import Recognising

    products: Cell = {}
    for name, root in folders.items():
        one = Recognising(line, name)
        cell = judged(one, root)
        differences = [abs(cell["metrics"][k] - alone[name]["metrics"][k]) for k in METRICS]
        products[name] = {
            "pictures": one.seen,
            "recognised": one.seen - one.mistaken.total(),
            "mistaken": dict(one.mistaken),
            "difference": max(differences),
            "decisions": {k: [cell[k], alone[name][k]] for k in ("alarms", "found")},
        }
    return {
        "recognised": sum(one["recognised"] for one in products.values()),
        "pictures": sum(one["pictures"] for one in products.values()),
        "difference": max(one["difference"] for one in products.values()),
        "mib": common.sig(size / common.MIB, 4),
        "mib_apart": common.sig(apart / common.MIB, 4),
        "products": products,
    }


def none_of(line: Any, pictures: list[Path]) -> Cell:
    """How many pictures are called none of the products, and what the others are taken for."""
    found = [answer.product for answer in line.predict([str(path) for path in pictures])]
    names = sorted({name for name in found if name is not None})
    taken = {name: found.count(name) for name in names}
    return {"pictures": len(found), "none_of_these": found.count(None), "taken_for": taken}


def good(line: Any, folders: Folders) -> Cell:
    """Good test pictures of its products: a defective one may rightly be none of them."""
    cells = {
        name: none_of(line, common.pictures_below(root / "test" / "good")) for name, root in folders.items()
    }
    right = sum(cell["taken_for"].get(name, 0) for name, cell in cells.items())
    return {**together(cells), "recognised": right, "products": cells}


def left_out(line: Any, folders: Folders) -> Cell:
    """Test pictures of each product, by a joint model of the others."""
    from flawscope.fitting.joint import joined

    cells = {}
    for name, root in folders.items():
        products = {k: v for k, v in line.artefact.products.items() if k != name}
        known = {k: v for k, v in line.artefact.known.items() if k != name}
        cells[name] = none_of(joined(products, known, "cpu"), common.pictures_below(root / "test"))
    return {**together(cells), "products": cells}


def foreign(args: Args, line: Any, others: Folders) -> Cell:
    """Photographs and textures of the data root, and good pictures of other products."""
    found: dict[str, Cell] = {}
    if args.data is not None:
        for name, folder in (("photographs", "natural"), ("textures", "dtd")):
            if pictures := common.pictures_below(args.data / folder):
                found[name] = none_of(line, [Path(p) for p in common.spread_over(pictures, 200)])
    products = {
        name: none_of(line, common.pictures_below(root / "test" / "good")) for name, root in others.items()
    }
    return {**found, "products": {**together(products), "each": products}}


def together(cells: Mapping[str, Cell]) -> Cell:
    return {key: sum(cell[key] for cell in cells.values()) for key in ("pictures", "none_of_these")}


def opened(path: Path, folders: Folders, models: Mapping[str, Path]) -> Any:
    """The joint model, made once."""
    import flawscope

    if not path.is_file():
        flawscope.join(models, folders, device="cpu").save(path)
    return flawscope.load(path, device="cpu")


def main() -> int:
    parser = common.parser(__doc__, "products", methods="patchcore")
    parser.add_argument("--lines", default=",".join(DRAWN), help="joint models (default: %(default)s)")
    parser.add_argument("--learnt", type=int, default=40, help="good pictures (default: %(default)s)")
    parser.add_argument("--good", type=int, default=60, help="new good pictures (default: %(default)s)")
    parser.add_argument("--bad", type=int, default=60, help="defective pictures (default: %(default)s)")
    parser.add_argument("--side", type=int, default=256, help="of drawn pictures (default: %(default)s)")
    args = common.arguments(parser, threads=2, lines="six", learnt=8, good=2, bad=4, side=96)
    record = Record(args, "joint models beside those of each product alone, and what they recognise")
    import torch

    torch.set_num_threads(args.threads)
    with common.workspace(args.work) as work:
        every = {line: folders_of(args, work, line) for line in DRAWN}
        rows = [row for line in args.lines.split(",") for row in rows_of(args, record, work, line, every)]
    common.table("products", rows)
    return record.status()


def folders_of(args: Args, work: Path, line: str) -> dict[str, Path]:
    import drawn

    found = dict(common.roots(args)) if line == "six" else {}
    counts = {"train": args.learnt, "good": args.good, "bad": args.bad, "size": args.side}
    names = [name for name in DRAWN[line].split(",") if name not in found]
    return found | {name: drawn.product(work / "products", name, seed=37, **counts) for name in names}


def rows_of(args: Args, record: Record, work: Path, line: str, every: Mapping[str, Folders]) -> list[Cell]:
    """Measures one joint model; a row for each of its products."""
    folders, words = every[line], common.label(common.settings(args, "patchcore"), args.preset)
    models = {name: work / f"{common.slug(f'{name} {words}')}.safetensors" for name in folders}
    rest = [f"{line}/{words}/{part}" for part in PARTS.split(",")[1:]]
    alone: dict[str, Cell] = {}
    for name, root in folders.items():
        cell = f"{line}/{words}/single/{name}"
        if not models[name].is_file() and not all(map(record.has, rest)):
            record.cells.pop(cell, None)
        own = record.attempt(cell, lambda r=root, n=name: single(args, r, models[n]))
        if own is None:
            return []
        alone[name] = own
    path = work / f"{common.slug(f'{line} {words}')}-joint.safetensors"
    model = None if all(map(record.has, rest)) else opened(path, folders, models)
    apart = sum(one.stat().st_size for one in models.values() if one.is_file())
    others = next(own for other, own in every.items() if other != line)
    works = (
        lambda: joint(model, folders, alone, path.stat().st_size, apart),
        lambda: good(model, folders),
        lambda: left_out(model, folders),
        lambda: foreign(args, model, others),
    )
    found = [record.attempt(name, own) for name, own in zip(rest, works, strict=True)]
    if None in found:
        return []
    of_line, _, out, _ = found
    rows = []
    for name, cell in alone.items():
        own, without = of_line["products"][name], out["products"][name]
        rows.append(
            {
                "joint model": line,
                "product": name,
                **{k: cell["metrics"][k] for k in METRICS},
                "false alarms": f"{cell['alarms']} of {cell['good']}",
                "band": "-".join(map(str, cell["band"])),
                "recognised": f"{own['recognised']} of {own['pictures']}",
                "left out, none": f"{without['none_of_these']} of {without['pictures']}",
                "difference": own["difference"],
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(common.start(main))
