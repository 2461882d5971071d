"""Is a picture refused whose pixels are not all there, and is every good one read?

    python bench/damaged.py --data DATA

`damaged`: fourteen kinds of damage in files of ten formats, from pictures of all sets below DATA; of a
flipped byte it is not known that pixels are missing. `good`: every picture below DATA as it is, and written
in 28 ways, with bands, masks, backgrounds and lights. `time`: reading a JPEG of 2 megapixels, by Pillow and
here.
"""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import common
from common import Cell
from flawscope.errors import InputError
from flawscope.pictures.decoding import decode

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "JPEG with restarts": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "PNG": ("PNG", {}), "BMP": ("BMP", {}), "PPM": ("PPM", {}), "TIFF": ("TIFF", {}),
    "TIFF LZW": ("TIFF", {"compression": "tiff_lzw"}), "TIFF JPEG": ("TIFF", {"compression": "jpeg"}),
    "WebP": ("WEBP", {}),
}  # fmt: skip
MORE: list[tuple[str, dict[str, Any]]] = [
    *(("JPEG", {"quality": q, "subsampling": s, **more}) for s in (0, 1, 2) for q, more in (
        (60, {}), (85, {"optimize": True}), (97, {}), (80, {"progressive": True}))),
    ("JPEG", {"restart_marker_blocks": 1}), ("JPEG", {"restart_marker_blocks": 7, "progressive": True}),
    ("JPEG", {"exif": b"Exif\0\0" + bytes(3000)}), ("PNG", {"optimize": True}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "packbits"}),
    ("TIFF", {"compression": "jpeg"}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 30}), ("GIF", {}),
]  # fmt: skip
SHOWN = ("as it is", "black band", "white band", "ellipse", "turned box", "background", "saturated", "dark")
SIZE_AT = {"BMP": (18, 22, "little"), "PNG": (16, 20, "big")}
RAW = ("BMP", "PPM", "TIFF")  # without an end mark
KINDS = (
    "cut off", "end mark", "hole", "hole of zeros", "zeros to the end", "zeros before the end",
    "ones to the end", "height more", "height less", "width", "stripe of zeros", "sector", "page",
    "flipped byte",
)  # fmt: skip


def written(image: Image.Image, kind: str, how: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def resized(data: bytes, kind: str, width: int, height: int) -> bytes | None:
    """A file whose header tells another size; None where the script does not know where it stands."""
    changed = bytearray(data)
    if kind == "JPEG":
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        changed[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    elif kind == "PPM":
        return data.replace(data.split(b"\n")[1], b"%d %d" % (width, height), 1)
    elif kind in SIZE_AT:
        x, y, order = SIZE_AT[kind]
        changed[x : x + 4], changed[y : y + 4] = (n.to_bytes(4, order) for n in (width, height))  # type: ignore
    else:
        return None
    return bytes(changed)


def blank(data: bytes, at: int, size: int) -> bytes | None:
    """A file of which a sector or a page behind `at` was never written; None where it has none."""
    begin = -(-at // size) * size
    return data[:begin] + bytes(size) + data[begin + size :] if begin + size < len(data) else None


def damage(data: bytes, what: str, kind: str, size: Any, rng: np.random.Generator) -> bytes | None:
    begin = data.find(b"\xff\xda") + 20 if kind == "JPEG" else 200
    at = int(rng.integers(begin, max(begin + 1, len(data) - 400)))
    rest, (width, height) = len(data) - at, size
    stripe = 3 * 3 * width
    return {
        "cut off": lambda: data[:at],
        "end mark": lambda: data[:at] + data[-12 if kind == "PNG" else -2 :],
        "hole": lambda: data[:at] + data[at + 200 :],
        "hole of zeros": lambda: data[:at] + bytes(200) + data[at + 200 :],
        "zeros to the end": lambda: data[:at] + bytes(rest),
        "zeros before the end": lambda: None if kind in RAW else data[:at] + bytes(rest - 12) + data[-12:],
        "ones to the end": lambda: data[:at] + b"\xff" * rest,
        "height more": lambda: resized(data, kind, width, height + 32),
        "height less": lambda: resized(data, kind, width, height - 32),
        "width": lambda: resized(data, kind, width - 32, height),
        "stripe of zeros": lambda: data[:at] + bytes(min(stripe, rest)) + data[at + stripe :],
        "sector": lambda: blank(data, at, 512),
        "page": lambda: blank(data, at, 4096),
        "flipped byte": lambda: data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :],
    }[what]()


def is_refused(data: bytes) -> bool:
    try:
        decode(data)
    except InputError:
        return True
    return False


def damaged_cell(images: list[Path], name: str, times: int) -> Cell:
    rng = np.random.default_rng(len(name))
    found: Cell = {}
    for what in KINDS:
        counts = Counter[str]()
        for _ in range(times):
            image = Image.open(images[rng.integers(len(images))]).convert("RGB")
            changed = damage(written(image, *FORMATS[name]), what, FORMATS[name][0], image.size, rng)
            if changed is not None:
                counts.update(of=1, refused=is_refused(changed))
        if counts:
            found[what] = [counts["refused"], counts["of"]]
    return found


def shown_as(image: Image.Image, how: str, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    mask, place = Image.new("L", image.size), ImageDraw.Draw
    if how in ("black band", "white band"):
        top = int(rng.integers(height // 2, height - 4))
        place(mask).rectangle((0, 0, width, top if rng.random() < 0.7 else height), fill=255)
        place(mask).rectangle((0, top, width, height), fill=0)
    elif how in ("ellipse", "background"):
        place(mask).ellipse((-width // 9, 5, width, height - int(rng.integers(60))), fill=255)
    elif how == "turned box":
        place(mask).rectangle((-width, 20, 2 * width, height - 40), fill=255)
        mask = mask.rotate(rng.uniform(-8, 8), Image.Resampling(int(rng.choice((0, 2, 3)))))
    else:
        factor = {"saturated": 3.0, "dark": 0.1}.get(how, 1.0)
        return image.point(lambda value: min(255, int(value * factor)))
    ground = {"white band": 255, "background": int(rng.integers(256))}.get(how, 0)
    return Image.composite(image, Image.new("RGB", image.size, (ground,) * 3), mask)


def good_cell(paths: list[Path], how: str, most: int) -> Cell:
    rng, ways = np.random.default_rng(len(how)), [*FORMATS.values(), *MORE]
    refused: list[str] = []
    for k in range(most):
        image = shown_as(Image.open(paths[k % len(paths)]).convert("RGB"), how, rng)
        kind, more = ways[k % len(ways)]
        mode = ("RGB", "RGB", "L", "CMYK" if kind == "JPEG" else "RGB")[k % 4]
        data = written(image.convert(mode), kind, more)
        if kind == "JPEG":
            data += (b"", b"\0" * 32, b"trailing", b"\xff\xd8\xff\xd9")[k % 4]
        if is_refused(data):
            refused.append(f"{paths[k % len(paths)].name} {kind} {more}")
    return {"of": most, "refused": refused}


def time_cell(path: Path, how: dict[str, Any]) -> Cell:
    image = Image.open(path).convert("RGB").resize((1632, 1224))
    values = np.asarray(image) + np.random.default_rng(0).normal(0, 4, (1224, 1632, 3))
    data = written(Image.fromarray(values.clip(0, 255).astype(np.uint8)), "JPEG", how)
    works: dict[str, Callable[[], Any]] = {
        "pillow": lambda: np.asarray(Image.open(io.BytesIO(data))), "here": lambda: decode(data),
    }  # fmt: skip
    found = common.time_rounds(works, 15)
    times = {name: float(np.median(found[name])) for name in works}
    return {**times, "ratio": times["here"] / times["pillow"]}


def main() -> int:
    parser = common.make_parser(__doc__, "damaged")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--most", type=int, default=400)
    args = common.parse_arguments(parser, times=1, most=8)
    root = args.data or Path(os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    everything = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))
    pictures = [path for path in everything if "ground_truth" not in path.parts]
    record = common.Record(args, "pictures whose pixels are not all there, and good ones")
    for name in FORMATS:
        record.cell(f"damaged {name}", partial(damaged_cell, pictures, name, args.times))
    record.cell(
        "good files",
        lambda: {
            "of": len(everything),
            "refused": [p.name for p in everything if is_refused(p.read_bytes())],
        },
    )
    for how in SHOWN:
        chosen = np.random.default_rng(len(how)).permutation(len(pictures))
        record.cell(f"good {how}", partial(good_cell, [pictures[k] for k in chosen], how, args.most))
    for name in ("JPEG", "JPEG progressive", "JPEG with restarts"):
        record.cell(f"time {name}", partial(time_cell, pictures[0], FORMATS[name][1]))
    common.print_table("damaged", [{"cell": name, **cell} for name, cell in record.cells.items()])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
