"""What does `fit --update` do to a detector, also where defects were called good?

    python bench/updates.py --products plate,fabric,sheet,board
    python bench/updates.py --products transistor,toothbrush

A model learns from 40 good pictures. A batch of good and defective ones is judged; a person calls some of
what was flagged good, and it becomes a folder as `review` leaves it. `fit --update` learns from it, or
refuses. A second batch, of which nobody has seen anything, says what the model was worth before and after:
false alarms of good pictures, and defects found.

honest    as they come (the most severe good ones), in another light (+15 %), a grey copy with 16 bits
wrong     one or two of three are defects
other     pictures of another product
fair      all good pictures of the batch with `--fair`; one in which three are defects, and one of darker
          pictures (-15 %)

`known`: the other flagged defects of the batch lie in `defect/`. Kept: false alarms are not more than the
target explains (99 % of the beta-binomial distribution), and found ones not below 98 % of before.
"""

from __future__ import annotations

import contextlib
import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import common
from common import Args, Cell, Record
from promise import draw as good_part

DRAWN = ("plate", "fabric", "sheet", "board")
TRAIN, GOOD, BAD, NEW = 40, 40, 16, 60  # pictures: learnt from; of the batch; new ones of each kind, at most
KEPT = 0.98
KINDS = (
    "as they come",
    "light",
    "grey",
    "1 of 3",
    "2 of 3",
    "other product",
    "fair",
    "fair 3 bad",
    "fair dark",
)
DRAWS = ("as they come", "light", "1 of 3", "2 of 3")  # which are drawn several times
ALONE = ("1 of 3", "2 of 3")  # of which there are drawings without known defects, too
FLAGS = {kind: ["--fair"] for kind in KINDS if kind.startswith("fair")}
Line = list[tuple[Path, bool]]  # files, and whether they have a defect


def pictures(args: Args, name: str, work: Path) -> tuple[list[Path], Line, Line]:
    """To learn from, the batch, and what nobody has seen."""
    import numpy as np

    if name in DRAWN:
        good = [_drawn(work / name, name, k, False) for k in range(TRAIN + GOOD + NEW)]
        bad = [_drawn(work / name, name, 1000 + k, True) for k in range(BAD + NEW)]
    else:
        from flawscope.datasets import open_dataset

        data = open_dataset(str(dict(common.roots(args))[name]))
        order = np.random.default_rng(0).permutation
        good = [Path(item.path) for item in (*data.train, *(i for i in data.test if not i.anomalous))]
        bad = [Path(item.path) for item in data.test if item.anomalous]
        good, bad = [good[k] for k in order(len(good))], [bad[k] for k in order(len(bad))]
    rest = good[TRAIN:]
    half, halved = min(GOOD, len(rest) // 2), min(BAD, len(bad) // 2)
    batch = [(p, False) for p in rest[:half]] + [(p, True) for p in bad[:halved]]
    new = [(p, False) for p in rest[half : half + NEW]] + [(p, True) for p in bad[halved : halved + NEW]]
    return good[:TRAIN], batch, new


def _drawn(folder: Path, name: str, number: int, defective: bool) -> Path:
    import numpy as np
    from PIL import Image

    from flawscope.synthesis import DefectScale, simulate_defect
    from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

    path = folder / f"{number:03d}.png"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([11, number])
    if not defective:
        picture = good_part(name, number)
    elif name in CATEGORIES:
        kinds = CATEGORIES[name].defects
        picture = draw_picture(name, rng, kinds[number % len(kinds)], rng.uniform(0.2, 0.9), size=256)[0]
    else:
        scale = list(DefectScale)[number % len(DefectScale)]
        picture = simulate_defect(good_part(name, number), rng, scale=scale).picture
    Image.fromarray(picture).save(path)
    return path


def called_good(kind: str, scored: list[tuple[Path, bool, float, bool]], draw: int, other: list[Path],
                folder: Path) -> tuple[list[Path], list[Path]]:  # fmt: skip
    """Files that somebody calls good, and the flagged defects that are left."""
    import numpy as np

    rng = np.random.default_rng([12, draw])
    good = [p for p, defect, *_ in sorted(scored, key=lambda one: -one[2]) if not defect]
    bad = [p for p, defect, _, flagged in scored if defect and flagged]
    bad = [bad[k] for k in rng.permutation(len(bad))]
    if kind in ("as they come", "1 of 3", "2 of 3"):
        wrong = 0 if kind == "as they come" else int(kind[0])
        return [*good[draw : draw + 3 - wrong], *bad[:wrong]], bad[wrong:]
    if kind == "other product":
        return other[3 * draw : 3 * draw + 3], bad
    if kind == "fair":
        return good, bad
    if kind == "fair 3 bad":
        return [*good, *bad[:3]], bad[3:]
    some = (
        good
        if kind == "fair dark"
        else [good[k] for k in rng.permutation(len(good))[: 1 if kind == "grey" else 3]]
    )
    return [_changed(p, kind, folder) for p in some], bad


def _changed(path: Path, kind: str, folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    with Image.open(path) as opened:
        values = np.asarray(opened.convert("RGB")).astype(np.float64)
    made = folder / f"{path.stem}-{kind.split()[-1]}.png"
    if kind == "grey":
        Image.fromarray((values.mean(-1) * 257).astype(np.uint16)).save(made)
    else:
        times = 0.85 if kind == "fair dark" else 1.15
        Image.fromarray(np.clip(np.rint(values * times), 0, 255).astype(np.uint8)).save(made)
    return made


def worth(path: Path, new: Line) -> Cell:
    from flawscope.predictor import load

    model = load(path, device="cpu")
    flags = [(bool(model.predict(p).is_anomalous), defect) for p, defect in new]

    def share(of: bool) -> list[int]:
        return [sum(flag for flag, defect in flags if defect is of), sum(defect is of for _, defect in flags)]

    threshold = common.sig(model.calibration.score_threshold)
    return {"threshold": threshold, "false_alarms": share(False), "found": share(True)}


def update(args: Args, name: str, kind: str, known: bool, draw: int, work: Path, start: Cell) -> Cell:
    """One update by the command."""
    import shutil

    from flawscope.cli import main as flawscope
    from flawscope.station.review.session import COLUMNS, LOG

    with common.workspace(None) as folder:
        stranger = "plate" if name != "plate" else "fabric"
        other = [_drawn(work / f"other-{stranger}", stranger, k, False) for k in range(9)]
        chosen, left = called_good(kind, start["scored"], draw, other, folder)
        for what, files in (("good", chosen), ("defect", left if known else [])):
            (folder / "review" / what).mkdir(parents=True)
            for path in files:
                shutil.copyfile(path, folder / "review" / what / path.name)
        data, fair = folder / "review", FLAGS.get(kind, [])
        if fair:  # as they come, so that no review has chosen them
            data = (folder / "review").rename(folder / "line")
            (data / "defect").rename(data / "bad")
            if not known:
                (data / "bad").rmdir()
        else:
            lines = [f",{path.name},good,{path.name},," for path in chosen for _ in range(1 + args.twice)]
            (folder / "review" / LOG).write_text("\n".join([",".join(COLUMNS), *lines, ""]))
        if args.old:
            data, fair = data / "good", []
        words = ["fit", "--update", start["model"], "--data", data, "--out", folder / "new.safetensors"]
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = flawscope([*map(str, words), *fair, *(["--force"] if args.force else [])])
        printed = said.getvalue().splitlines()
        found: Cell = {"code": code, "said": [line for line in printed if " before, " in line or code]}
        found["before"] = {key: start[key] for key in ("threshold", "false_alarms", "found")}
        if code == 0:
            found |= worth(folder / "new.safetensors", start["new"])
    return found


def row(name: str, kind: str, known: bool, cells: list[Cell], start: Cell, calibration: Any) -> Cell:
    """Of the updates that were made: sums over the draws."""
    from scipy.stats import betabinom

    made = [cell for cell in cells if cell["code"] == 0]
    rank = round(calibration.expected_rate * (calibration.count + 1))
    found: Cell = {"product": name, "called good": kind, "known": "yes" if known else "no"}
    found["refused"] = f"{len(cells) - len(made)} of {len(cells)}"
    sums = {
        (when, key): sum((start if when else cell)[key][0] for cell in made)
        for when in (True, False)
        for key in ("false_alarms", "found")
    }
    found["false alarms"] = f"{sums[True, 'false_alarms']} -> {sums[False, 'false_alarms']}"
    found["found"] = f"{sums[True, 'found']} -> {sums[False, 'found']}"
    alarms = [cell["false_alarms"] for cell in made]
    in_band = all(k <= betabinom(n, rank, calibration.count + 1 - rank).ppf(0.99) for k, n in alarms)
    found["kept"] = in_band and sums[False, "found"] >= KEPT * sums[True, "found"] if made else ""
    return found


def main() -> int:
    parser = common.parser(__doc__, "updates")
    parser.add_argument("--products", default=",".join(DRAWN), help="drawn ones, or of --data")
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: all")
    parser.add_argument("--draws", type=int, default=2, help="of each (default: %(default)s)")
    parser.add_argument("--size", default="256", help="that the model sees (default: %(default)s)")
    parser.add_argument("--old", action="store_true", help="give good/ alone, as before there were checks")
    parser.add_argument("--twice", action="store_true", help="somebody looked again, and said the same")
    parser.add_argument("--force", action="store_true", help="what would a refused one have done?")
    args = common.arguments(parser, products="plate", kinds="as they come,1 of 3", size="64", draws=1)
    import torch

    from flawscope import fit
    from flawscope.predictor import load

    torch.set_num_threads(args.threads)
    how = "".join(f" {word}" for word in ("old", "twice", "force") if getattr(args, word))
    record, table = Record(args, "updates: false alarms and found defects before and after"), []
    with common.workspace(args.work) as work:
        for name in args.products.split(","):
            train, batch, new = pictures(args, name, work)
            path = work / f"{name}-{args.size}.safetensors"
            if not path.is_file():
                fit([str(p) for p in train], size=args.size, device="cpu").save(path)
            model = load(path, device="cpu")
            scored = [(p, d, (s := model.predict(p)).score, s.is_anomalous) for p, d in batch]
            start: Cell = {"model": path, "scored": scored, "new": new, **worth(path, new)}
            for kind in args.kinds.split(","):
                for known in (True, False) if kind in ALONE else (True,):
                    cells = [
                        record.cell(
                            f"{name}/{args.size}{how}/{kind}/{'known' if known else 'none known'}/{draw}",
                            partial(update, args, name, kind, known, draw, work, start),
                        )
                        for draw in range(args.draws if kind in DRAWS else 1)
                    ]
                    table.append(row(name, kind, known, cells, start, model.calibration))
    common.table("updates", table)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
