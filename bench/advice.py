"""Is something gained by each step that is advised, and is nothing advised where nothing is to be gained?

    python bench/advice.py --data DATA

Thirty products: pieces that lie turned or at other places, pictures in which marked defects are small, too
few good pictures, defects that are missed, and ten that need nothing. Said is what `data check`, `fit` and
`evaluate` advise; the first step is followed, and the model measured anew on the same test pictures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import common
import drawn
from common import Cell, Record
from flawscope.synthesis.demo import dataset

SEED, SIDE, SIZE = 67, 256, "128"
LEARNT, GOOD, BAD = 24, 16, 16
PRODUCTS: dict[str, tuple[str, ...]] = {
    "turned": ("plate", "leather", "circuit", "keys", "sheet", "tile", "lid"),
    "elsewhere": ("wood", "tile", "painted"),
    "small defects": ("plate", "tile"),
    "few": ("mesh", "lid", "bearing", "gear"),
    "missed": ("real/commutator", "real/cookie", "real/lens", "nearer"),
    "none": (
        *("mvtec/toothbrush", "mvtec/transistor", "real/fabric", "real/pcb"),
        *("keys", "sheet", "tile", "lid", "bottle", "mesh"),
    ),
}
FEW = {"mesh": 8, "lid": 10, "bearing": 12, "gear": 15}  # good pictures
LARGE, SPECKS = 800, (0.9, 1.0)  # pixels of a side of large products, and how hard their defects are
FOLLOWED = {"--align": "align", "--min-defect": "min_defect"}
PIECE = (0.62, 0.36)  # sides of a piece in shares of the picture's
Drawn = tuple[np.ndarray, np.ndarray]


def draw(kind: str, name: str, number: int, is_bad: bool) -> Drawn:
    """Picture [H, W, 3] and mask [H, W] of its defect."""
    rng = np.random.default_rng([SEED, number])
    defects = dataset.CATEGORIES[name].defects
    while True:
        defect, hard = (str(rng.choice(defects)), rng.uniform(0, 0.3)) if is_bad else (None, 0.0)
        if kind == "small defects" and is_bad:
            defect, hard = "speck" if "speck" in defects else defects[-1], rng.uniform(*SPECKS)
        if kind == "missed" and is_bad:
            hard = 1.0
        side = LARGE if kind == "small defects" else SIDE
        picture, mask = dataset.draw_picture(name, rng, defect, hard, size=side)
        if kind == "small defects":
            edge = ((LARGE // 2, LARGE // 2),) * 2
            picture, mask = np.pad(picture, (*edge, (0, 0)), constant_values=40), np.pad(mask, edge)
        if kind in ("turned", "elsewhere"):
            picture, mask = _lay(picture, mask, rng, kind == "turned")
        if not is_bad or mask.sum() >= 12:
            return picture, mask


def _lay(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator, is_turned: bool) -> Drawn:
    """Cuts a piece from the middle, and lays it on a dark ground."""
    side = len(picture)
    height, width = (round(share * side) for share in PIECE)
    top, left = (side - height) // 2, (side - width) // 2
    cut = slice(top, top + height), slice(left, left + width)
    level = rng.normal(30, 3, (side, side, 1)).repeat(3, 2).clip(0, 255).astype(np.uint8)
    alpha = np.zeros((side, side), np.uint8)
    alpha[cut] = 255
    shown, marked = np.where(alpha[..., None] > 0, picture, 0), np.where(alpha > 0, mask, False)
    angle = rng.uniform(0, 360) if is_turned else 0.0
    room = 0.02 if is_turned else 0.17
    shift = tuple(int(v) for v in rng.uniform(-room, room, 2) * side)
    how: dict[str, Any] = {"translate": shift}
    ground = Image.fromarray(level)
    laid = Image.fromarray(shown).rotate(angle, Image.Resampling.BICUBIC, **how)
    ground.paste(laid, (0, 0), Image.fromarray(alpha).rotate(angle, Image.Resampling.BILINEAR, **how))
    turned = Image.fromarray(marked.astype(np.uint8) * 255).rotate(angle, Image.Resampling.NEAREST, **how)
    return np.asarray(ground), np.asarray(turned) > 0


def drawn_folder(root: Path, kind: str, name: str, learnt: int) -> Path:
    """Folder of a drawn product in MVTec AD's layout."""
    folder = root / f"{kind}-{name}-{learnt}".replace(" ", "-")
    jobs = [("train/good", k, False) for k in range(learnt)]
    jobs += [("test/good", 1000 + k, False) for k in range(GOOD)]
    jobs += [("test/bad", 2000 + k, True) for k in range(BAD)]
    for where, number, is_bad in jobs:
        path = folder / where / f"{number:04d}.png"
        if path.is_file():
            continue
        picture, mask = draw(kind, name, number, is_bad)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, compress_level=1)
        if is_bad:
            marks = folder / "ground_truth/bad" / f"{number:04d}_mask.png"
            marks.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(marks)
    return folder


def fit(items: Sequence[Any], **options: Any) -> Any:
    import flawscope

    how: dict[str, Any] = {"device": "cpu", "check": False, "samples": 0, "force": True}
    return flawscope.fit([item.path for item in items], **how, **options)


def advised(folder: Path, options: dict[str, Any], without: str = "") -> Cell:
    """What is said after the check, the fit and the evaluation, and what is measured there. without: name of
    a good picture that is left out."""
    import flawscope
    from flawscope.cli import advise
    from flawscope.datasets.check import check
    from flawscope.evaluation import evaluate
    from flawscope.evaluation.next_steps import advise_after

    data = flawscope.open_dataset(folder)
    is_aligned = "align" in options
    said = {
        "check": [one.line() for one in advise.after_check(data, check(data, near=False), is_aligned)],
    }
    model = fit([item for item in data.train if item.path.name != without], **options)
    said["fit"] = advise.after_fit(model.manifest)
    result = evaluate(model, data)
    said["evaluate"] = [one.line() for one in advise_after(result, model.manifest)]
    return {
        "said": said,
        "image_auroc": round(result.metrics["image_auroc"] or 0.0, 4),
        "found": f"{result.defects['found']} of {result.defects['images']}",
    }


def measure(kind: str, name: str, data: Path, work: Path) -> Cell:
    """What is advised for a product, and what comes of it."""
    is_real = "/" in name
    learnt = FEW[name] if kind == "few" else LEARNT
    folder = data / name if is_real else drawn_folder(work, kind, name, learnt)
    options: dict[str, Any] = {} if is_real or kind == "small defects" else {"size": SIZE}
    cell = advised(folder, options)
    lines = [line for several in cell["said"].values() for line in several]
    if not lines:
        return cell
    step = lines[0].rpartition(": ")[2]
    words = step.split(",")[0].split()
    if words[0] == "add":
        again = advised(drawn_folder(work, kind, name, learnt + int(words[1])), options)
    elif words[0] == "look":  # whether a picture is good
        again = advised(folder, options, without=words[2])
    elif words[0] in FOLLOWED:
        again = advised(folder, {**options, FOLLOWED[words[0]]: words[1]})
    else:  # a search, which `auto.py` measures: once it is done, it is not advised again
        return {**cell, "step": step}
    return {**cell, "step": step, "followed": again}


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "advice")
    parser.add_argument("--kinds", default=";".join(PRODUCTS), help="default: %(default)s")
    args = common.parse_arguments(parser, kinds="few")
    torch.set_num_threads(args.threads)
    dataset.CATEGORIES.update(drawn.CATEGORIES)
    record = Record(args, "steps that are advised, and what comes of them")
    data = Path(args.data or os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    rows = []
    with common.workspace(args.work) as work:
        for kind in args.kinds.split(";"):
            for name in PRODUCTS[kind][: 1 if args.quick else None]:
                if "/" in name and not (data / name).is_dir():
                    continue
                work_on: Callable[[], Cell] = partial(measure, kind, name, data, Path(work))
                if (cell := record.attempt(f"{kind}: {name}", work_on)) is not None:
                    said = cell["said"]
                    rows.append({
                        "kind": kind, "product": name, "advised": cell.get("step", "nothing"),
                        "at": next((at for at in said if said[at]), ""), "AUROC": cell["image_auroc"],
                        "found": cell.get("found"),
                        **{f"{key}, followed": cell.get("followed", {}).get(key)
                           for key in ("image_auroc", "found")},
                    })  # fmt: skip
    common.print_table("what is advised, and what comes of it", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
