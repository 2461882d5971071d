"""Is anything learnt unasked that is not known to be good, and is anything asked where all is plain?

    python bench/closed_world.py --data DATA

`defective`: layouts, names, lists and label files with defects among them, as plants, inspection machines and
labelling tools write them, in six languages: no defect may be learnt without a question. `mixed up`: nobody
knows which pictures are good or defective, and something has to be asked. `plain`: nothing is to be asked.
`real`: the sets below DATA. The layouts are of tiny pictures; tests open the same ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import common
from closed_layouts import Layout, defective, mixed_up, plain
from common import Cell, Record


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Writes files below a folder, which is returned."""
    made: set[Path] = set()
    for name, content in files.items():
        path = root / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(content)
    return root


def open_layout(folder: Path, layout: Layout) -> Cell:
    """What is asked about a layout, how many pictures are learnt, and how many of them are defective."""
    from flawscope.datasets import open_dataset
    from flawscope.errors import InputError

    root = write(folder / "part", layout.files)
    try:
        dataset = open_dataset(root, test_share=0)
    except InputError as error:
        return {"asked": str(error).replace(str(folder), "")[:200], "learnt": 0, "defects learnt": 0}
    learnt = {dataset.relative(item.path) for item in (*dataset.train, *dataset.validation)}
    good = learnt | {dataset.relative(item.path) for item in dataset.test if not item.anomalous}
    return {
        "asked": "",
        "learnt": len(learnt),
        "defects learnt": len(layout.bad & learnt),
        "good ones lost": len({*layout.pictures} - layout.bad - good),
    }


def measure(layouts: Iterable[tuple[str, Layout]], work: Path) -> Cell:
    return {name: open_layout(work / str(number), one) for number, (name, one) in enumerate(layouts)}


def real_sets(data: Path) -> Cell:
    from flawscope.datasets import open_dataset
    from flawscope.errors import InputError

    found: Cell = {}
    for folder in sorted([*data.glob("mvtec/*"), *data.glob("real/*")]):
        try:
            dataset = open_dataset(folder)
        except InputError as error:
            found[folder.name] = {"asked": str(error)[:200], "learnt": 0}
        else:
            found[folder.name] = {"asked": "", "learnt": len(dataset.train)}
    return found


def main() -> int:
    parser = common.make_parser(__doc__, "closed_world", data=False)
    parser.add_argument("--data", type=Path, help="real sets (default: $FLAWSCOPE_DATA)")
    args = common.parse_arguments(parser)
    record = Record(args, "what is learnt unasked, and what is asked where all is plain")
    data = args.data or Path(os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    cells: dict[str, list[Cell]] = {}
    with common.workspace(args.work) as work:
        for part, layouts in (("defective", defective), ("mixed up", mixed_up), ("plain", plain)):
            folder = work / part.replace(" ", "-")
            found = record.cell(part, lambda make=layouts, f=folder: measure(make(), f))  # type: ignore[misc]
            cells[part] = [cell for name, cell in found.items() if name != "_"]
    found = record.cell("real", lambda: real_sets(data))
    cells["real"] = [cell for name, cell in found.items() if name != "_"]
    told = [
        {
            "layouts": part,
            "number": len(each),
            "asked": sum(bool(cell["asked"]) for cell in each),
            "with defects learnt unasked": sum(bool(cell.get("defects learnt")) for cell in each),
            "with good ones lost": sum(bool(cell.get("good ones lost")) for cell in each),
        }
        for part, each in cells.items()
    ]
    common.print_table("a closed world of words", told)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
