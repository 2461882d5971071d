"""Are defects ever learnt as good in silence, and is anything asked where all is plain?

    python bench/class_labels.py --data DATA

`layouts`: twenty ways in which good and defective pictures are told apart or mixed, by names, lists, labels
of tools and folders, with words of six languages. `schemes` and `real`: names of good pictures, made up and
of the real sets below DATA, of which nothing is to be asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import common
from common import Cell, Record

WORDS = {  # good and defective
    "English": "ok/nok good/bad pass/fail undamaged/damaged",
    "German": "iO/niO gut/schlecht Gutteil/Ausschuss fehlerfrei/fehlerhaft",
    "French": "bon/mauvais conforme/non_conforme sans_défaut/défaut accepté/rejeté",
    "Spanish": "bueno/malo sin_defecto/defecto aceptado/rechazado conforme/no_conforme",
    "Italian": "buono/difettoso senza_difetti/difetti accettato/scarto idoneo/guasto",
    "Polish": "dobry/zly bez_wad/wada zgodny/niezgodny sprawny/wadliwy",
}
NAMES, GOOD = [f"{k:04}.png" for k in range(32)], 20  # the first are good
Files = dict[str, str | bytes]
Way = Callable[[list[str]], Files]  # from the word of each picture: names of pictures (no content), and files


def named(pattern: str) -> Way:
    return lambda words: {pattern.format(w=word, k=k): b"" for k, word in enumerate(words)}


def listed(name: str, text: Callable[[list[str]], str | bytes], folder: str = "") -> Way:
    return lambda words: {**{folder + one: b"" for one in NAMES}, name: text(words)}


def table(header: str, row: str = "{n},{w}") -> Callable[[list[str]], str]:
    return lambda words: "\n".join(
        [header, *(row.format(n=n, w=w) for n, w in zip(NAMES, words, strict=True) if w)]
    )


def sheet(words: list[str]) -> bytes:
    import openpyxl

    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in [("Bild", "Befund"), *zip(NAMES, words, strict=True)]:
        book.active.append(row)
    book.save(stream)
    return stream.getvalue()


def coco(words: list[str]) -> str:
    kinds = list(dict.fromkeys(words))
    images = [{"id": k, "file_name": n, "width": 8, "height": 8} for k, n in enumerate(NAMES)]
    marks = [{"id": k, "image_id": k, "category_id": kinds.index(w)} for k, w in enumerate(words)]
    categories = [{"id": k, "name": w} for k, w in enumerate(kinds)]
    return json.dumps({"images": images, "annotations": marks, "categories": categories})


def studio(words: list[str]) -> str:
    def task(name: str, word: str) -> Cell:
        region = {"from_name": "q", "to_name": "image", "type": "choices", "value": {"choices": [word]}}
        return {"data": {"image": f"/data/upload/1/1a2b3c4d-{name}"}, "annotations": [{"result": [region]}]}

    return json.dumps([task(*one) for one in zip(NAMES, words, strict=True)])


def flags(words: list[str]) -> Files:
    kinds, size = list(dict.fromkeys(words)), {"imageHeight": 8, "imageWidth": 8}
    files: Files = dict.fromkeys(NAMES, b"")
    for n, w in zip(NAMES, words, strict=True):
        ticked = {kind: kind == w for kind in kinds}
        files[n[:-3] + "json"] = json.dumps({"imagePath": n, "shapes": [], "flags": ticked, **size})
    return files


def tags(words: list[str]) -> str:
    one = '<image id="0" name="{n}" width="8" height="8"><tag label="{w}"/></image>'
    rows = (one.format(n=n, w=w) for n, w in zip(NAMES, words, strict=True))
    return f"<annotations>{''.join(rows)}</annotations>"


def via(words: list[str]) -> str:
    rows = {
        n: {"filename": n, "regions": [], "file_attributes": {"x": {w: True}}}
        for n, w in zip(NAMES, words, strict=True)
    }
    return json.dumps({"_via_img_metadata": rows})


WAYS: dict[str, tuple[bool, Way]] = {  # whether all is plain
    "prefix": (True, named("{w}_{k:04}.bmp")),
    "suffix": (True, named("IMG{k:05}_{w}.bmp")),
    "dates and cameras around": (True, named("2024-05-01_{k}_{w}_cam2.png")),
    "brackets, folders by days": (True, named("2024-05-0{k}/{w} ({k}).png".replace("0{k}/", "01/"))),
    "number in front, type": (True, named("NG200_{k}_{w}.png")),
    "CSV": (True, listed("labels.csv", table("filename,label"))),
    "CSV above, UTF-16, semicolons": (
        True,
        listed("../labels.csv", lambda w: table("Datei;Ergebnis", "part\\{n};{w}")(w).encode("utf-16")),
    ),
    "text": (True, listed("sub/list.txt", table("", "{n}\t{w}"), "sub/")),
    "Excel": (True, listed("befund.xlsx", sheet)),
    "JSON records": (True, listed("a.json", lambda w: json.dumps([*map(list, zip(NAMES, w, strict=True))]))),
    "JSON by name": (True, listed("a.json", lambda w: json.dumps(dict(zip(NAMES, w, strict=True))))),
    "Label Studio": (True, listed("ls.json", studio)),
    "CVAT": (True, listed("cvat.xml", tags)),
    "COCO, VIA": (True, lambda words: {**listed("coco.json", coco)(words), "via.json": via(words)}),
    "LabelMe": (True, flags),
    "folders": (True, named("{w}/{k}.png")),
    "splits": (
        True,
        lambda words: {f"{'train' if k % 3 else 'val'}/{w}/{k}.png": b"" for k, w in enumerate(words)},
    ),
    "defects alone named": (
        False,
        lambda words: {f"{w + '_' if k >= GOOD else ''}{k}.png": b"" for k, w in enumerate(words)},
    ),
    "a part listed": (False, listed("a.csv", lambda w: table("file,label")([*w[:6], *[""] * 16, *w[22:]]))),
    "list against names": (
        False,
        lambda words: {
            **named("{w}_{k:04}.png")(words),
            "a.csv": f"file,label\n{words[0]}_0000.png,{words[-1]}",
        },
    ),
}


def layouts() -> Iterator[tuple[str, bool, Files, set[str]]]:
    """Yields name, whether all is plain, files, and the defective pictures."""
    for language, pairs in WORDS.items():
        for number, (way, (plain, make)) in enumerate(WAYS.items()):
            good, bad = pairs.split()[number % 4].split("/")
            files = make([good] * GOOD + [bad] * (len(NAMES) - GOOD))
            pictures = [name for name, content in files.items() if content == b""]
            yield f"{language}, {way}", plain, files, {*pictures[GOOD:]}


def schemes() -> dict[str, list[str]]:
    """Names of 40 good pictures each."""
    patterns = (
        "{k} {k:04} IMG_{k:04} DSC{k:05} good_{k:03} OK_{k:04} {k:04}_ok OK{k:04} iO-{k} gut({k}) "
        "defect-free_{k} no_defects_{k} NG200_{k:04} {k}_NG200 AX-NG300_{k} badge_{k:02} okra_{k} "
        "kongress_{k} Nokia_{k} bonnet_{k} scrapbook_{k} flawscope_{k} part_{k}_left cam{c}_{k:03} "
        "P{p:03}_{v} kos{p:02}_Part{c} {p}_cam{c}_{v} 2024-05-01_10{c}{k:03} 20240501T10{k:04}_OK "
        "normal-{k} p{p}_{n} n{k:08} {h} {h8} {u} {H} {b} screw_{k}_temp Charge_{p}_Teil_{c} pièce_{k} "
        "部品_{k} good_{v}_{k} OK_{k}_NG200 lot{c}-nest{v}-{k} SEM_{k} no_{k} Nr.{k} io_module_{k} "
        "pass1_{k} image({k}) frame.{k:06} {k:04}_{c}_OK_{v}"
    )
    rng, found = np.random.default_rng(7), dict[str, list[str]]()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for pattern in patterns.split():
        found[pattern] = [
            pattern.format(
                k=k, c=k % 4, p=k // 4, v=("left", "right", "top", "front")[k % 4],
                n=("normal", "bright", "dark", "left")[k % 4], h=hashlib.md5(b"%d" % k).hexdigest(),
                h8=hashlib.md5(b"%d" % k).hexdigest()[:8], u=uuid.UUID(bytes=rng.bytes(16)),
                H=hashlib.sha1(b"%d" % k).hexdigest().upper(), b="".join(rng.choice([*letters], 16)),
            )
            for k in range(1000 if pattern[:2] in ("{h", "{u", "{b") else 40)
        ]  # fmt: skip
    return found


def write(root: Path, files: Files) -> None:
    rng = np.random.default_rng(3)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == b"":
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def measure_layout(folder: Path, plain: bool, files: Files, bad: set[str]) -> Cell:
    from flawscope.datasets import open_dataset
    from flawscope.errors import InputError

    write(folder / "part", files)
    try:
        dataset = open_dataset(folder / "part", test_share=0)
    except InputError as error:
        return {
            "plain": plain,
            "asked": str(error).removeprefix(f"{folder}/"),
            "learnt": 0,
            "defects learnt": 0,
        }
    learnt = [dataset.relative(item.path) for item in (*dataset.train, *dataset.validation)]
    wrong = len(bad & {*learnt})
    return {"plain": plain, "asked": "", "learnt": len(learnt), "defects learnt": wrong}


def asks(names: list[str]) -> str:
    """The question about good pictures of these names; empty for none."""
    from flawscope.datasets.class_labels import read_name_labels
    from flawscope.datasets.own_folders import refuse_unknown
    from flawscope.errors import InputError

    paths = [Path("part", f"{name}.png") for name in names]
    try:
        refuse_unknown(Path("part"), paths, labels=read_name_labels(paths))
    except InputError as error:
        return str(error)
    return ""


def main() -> int:
    parser = common.make_parser(__doc__, "class_labels", data=False)
    parser.add_argument("--data", type=Path, help="real sets (default: $FLAWSCOPE_DATA)")
    args = common.parse_arguments(parser)
    record = Record(args, "what is learnt and asked by names, lists and labels of whole pictures")
    data = args.data or Path(os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    with common.workspace(args.work) as work:

        def layout_cells() -> Cell:
            return {
                name: measure_layout(work / str(number), plain, files, bad)
                for number, (name, plain, files, bad) in enumerate(layouts())
            }

        found = record.cell("layouts", layout_cells)
    named_so = record.cell("schemes", lambda: {pattern: asks(names) for pattern, names in schemes().items()})
    real: dict[str, list[str]] = {}
    for path in sorted(data.rglob("*")) if data.is_dir() else ():
        is_good = path.parent.name == "good" or not {"ground_truth", "test"} & {*path.parts}
        if path.suffix in (".png", ".jpg") and is_good:
            real.setdefault(path.parent.relative_to(data).as_posix(), []).append(path.stem)
    sets = record.cell(
        "real", lambda: {name: {"names": len(n), "asked": asks(n)} for name, n in real.items()}
    )
    rows = [cell for name, cell in found.items() if name != "_"]
    unsure = [bool(row["asked"]) for row in rows if not row["plain"]]
    told = {
        "layouts": len(rows),
        "with defects learnt in silence": sum(bool(row["defects learnt"]) for row in rows),
        "asked where all is plain": sum(bool(row["plain"] and row["asked"]) for row in rows),
        "asked where it is not": f"{sum(unsure)} of {len(unsure)}",
        "schemes asked": f"{sum(bool(v) for k, v in named_so.items() if k != '_')} of {len(named_so) - 1}",
        "real asked": f"{sum(bool(v['asked']) for k, v in sets.items() if k != '_')} of {len(sets) - 1}",
    }
    common.print_table("names, lists and labels", [told])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
