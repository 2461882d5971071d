"""Make the images of README and docs/ from generated pictures alone: `python docs/make_images.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from contact_sheet import SheetRow, contact_sheet
from numpy.typing import NDArray
from PIL import Image

import flawscope
from flawscope.results import drawing
from flawscope.results.alignment import Alignment
from flawscope.synthesis.demo.dataset import draw_dataset, draw_picture
from flawscope.views.light import Light

HERE = Path(__file__).parent
SHOWN = {"plate": ("good/001", "scratch/001", "missing_part/006"), "fabric": ("hole/001", "missing_pick/000")}
PANEL = (220, 220)
IMAGES = HERE / "images"
# One part from three sides: how far the left and the right edge shrink, as shares of the height
VIEWS = {"left": (0.0, 0.25), "top": (0.0, 0.0), "right": (0.25, 0.0)}
PARTS = 24  # good ones
LIGHTS = (Light(), Light(brightness=0.9), Light(brightness=1.1), Light(white_balance=0.05))
Pixels = NDArray[np.uint8]


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        defects()
        joint(Path(folder))
        light(Path(folder))
        parts(Path(folder))
        aligned(Path(folder))
    several()


def aligned(folder: Path) -> None:
    """Parts at any place and angle, and where they are found; two pictures show none."""
    root = draw_dataset(folder / "aligned", category="plate", train=15)
    rng, paths = np.random.default_rng(0), sorted((root / "train/good").glob("*.png"))
    for number, path in enumerate(paths):
        picture = Image.open(path).convert("RGB")
        side = round(1.5 * max(picture.size))
        ground = Image.fromarray(rng.normal(70, 4, (side, side, 3)).clip(0, 255).astype(np.uint8))
        if number < len(paths) - 2:
            turned = (
                picture.resize((side // 2, side // 2))
                .convert("RGBA")
                .rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
            )
            x, y = (int(rng.integers(0, side - length)) for length in turned.size)
            ground.paste(turned, (x, y), turned)
        ground.save(path)
    found = Alignment.learn(paths[:-2], paths[-2:], "turn", root, lambda done, total: None)
    panels = [
        (drawn, f"{name}\n{words}" if number else name)
        for number, (drawn, name, words) in enumerate(found.drawings())
    ]
    rows = [SheetRow(*zip(*panels[k : k + 6], strict=True)) for k in range(0, len(panels), 6)]
    save(contact_sheet(rows, (200, 200)), "alignment.png")


def several() -> None:
    """Four plates in a picture, each judged: a good picture, a defect, a plate too few, and one too many."""
    good = [tray(seed, 4) for seed in range(20)]
    model = flawscope.fit(good, align="turn", several=True, size=96, device="cpu", check=False)
    names = ("good", "a defect", "one missing", "one more")
    shown = dict(zip(names, ((4, None), (4, "missing_part"), (3, None), (5, None)), strict=True))
    pictures = [tray(100 + k, *what) for k, what in enumerate(shown.values())]
    found = model.predict([*pictures])
    heats = [one.draw(picture) for one, picture in zip(found, pictures, strict=True)]
    words = [f"{name}: {one.decision}" for name, one in zip(shown, found, strict=True)]
    save(contact_sheet([SheetRow(heats, words)], (330, 220), title="4 parts expected"), "several-parts.png")


def tray(seed: int, count: int, defect: str | None = None) -> Pixels:
    """So many plates at any angle, one in each cell, the first with a defect."""
    rng = np.random.default_rng([9, seed])
    ground = Image.fromarray(rng.normal(70, 4, (256, 384, 3)).clip(0, 255).astype(np.uint8))
    for k, cell in enumerate(rng.permutation(6)[:count]):
        plate, _ = draw_picture("plate", rng, None if k else defect, 0.3, size=192)
        shown = Image.fromarray(plate).resize((68, 68), Image.Resampling.LANCZOS).convert("RGBA")
        turned = shown.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
        at = (128 * (cell % 3) + 64, 128 * (cell // 3) + 64)
        x, y = (int(m - length / 2 + rng.uniform(-8, 8)) for m, length in zip(at, turned.size, strict=True))
        ground.paste(turned, (x, y), turned)
    return np.asarray(ground)


def defects() -> None:
    """Drawn defects and what a model finds of them."""
    pictures: list[drawing.Drawable] = []
    heats: list[drawing.Drawable] = []
    names, verdicts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for category, shown in SHOWN.items():
            root = draw_dataset(Path(folder), category=category)
            model = flawscope.fit(root, device="cpu")
            for name in shown:
                path = root / "test" / f"{name}.png"
                picture = np.asarray(Image.open(path))
                found = model.predict(path)
                pictures.append(picture)
                heats.append(found.draw(picture))
                names.append(
                    f"{category}: {name.split('/')[0].replace('_', ' ')}".replace("good", "good part")
                )
                verdicts.append(f"{found.decision}\nseverity {found.severity:+.1f}, p {found.p_value:.3f}")
    save(contact_sheet([SheetRow(pictures, names), SheetRow(heats, verdicts)], PANEL), "defects.png")


def joint(folder: Path) -> None:
    """Pictures of two products, and of something else, judged by one model."""
    roots = {name: draw_dataset(folder / "joint", category=name) for name in SHOWN}
    model = flawscope.join({name: flawscope.fit(root, device="cpu") for name, root in roots.items()}, roots)
    shown = {
        "a good plate": roots["plate"] / "test/good/003.png",
        "a plate with a defect": roots["plate"] / "test/scratch/001.png",
        "a good fabric": roots["fabric"] / "test/good/003.png",
        "a fabric with a defect": roots["fabric"] / "test/hole/001.png",
        "something else": np.asarray(
            Image.effect_mandelbrot((320, 320), (-2.2, -1.5, 0.8, 1.5), 90).convert("RGB")
        ),
    }
    found = model.predict(list(shown.values()))
    said = [f"{one.product_name}\n{one.decision}" for one in found]
    pictures = [np.asarray(Image.open(p)) if isinstance(p, Path) else p for p in shown.values()]
    heats = [one.draw(picture) for one, picture in zip(found, pictures, strict=True)]
    save(contact_sheet([SheetRow(pictures, list(shown)), SheetRow(heats, said)], PANEL), "joint.png")


def light(folder: Path) -> None:
    """One good part in several lights, judged by a model fitted without and with `light`."""
    root = draw_dataset(folder / "light", train=40, good=1, bad_per_kind=0)
    picture = np.asarray(Image.open(root / "test/good/000.png"))
    lit = [change(picture) for change in LIGHTS]
    names = [change.name for change in LIGHTS]
    lines = [SheetRow(lit, names, "a good part")]
    for heading, share in (("fitted without --light", None), ("fitted with --light 10%", 0.1)):
        found = flawscope.fit(root, device="cpu", light=share).predict(lit)
        heats = [one.draw(shown) for one, shown in zip(found, lit, strict=True)]
        said = [f"{one.decision}, severity {one.severity:+.1f}" for one in found]
        lines.append(SheetRow(heats, said, heading))
    save(contact_sheet(lines, PANEL), "light.png")


def parts(folder: Path) -> None:
    """Three views of a part; its scratch shows in one of them."""
    for number in range(PARTS):
        for name, seen in views(number).items():
            path = folder / "parts/good" / f"part{number:02d}_{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(seen).save(path)
    model = flawscope.fit(folder / "parts", device="cpu", part=r"part\d+")
    lines = []
    for heading, number, defective in (("part 101", 101, ""), ("part 102", 102, "left")):
        shown = views(number) | ({defective: views(number, "scratch")[defective]} if defective else {})
        found = model.predict_part(shown, str(number))
        heats = [found.views[name].draw(picture) for name, picture in shown.items()]
        said = [f"{name}: severity {found.views[name].severity:+.1f}" for name in shown]
        heading += f": {found.decision}, p {found.p_value:.3f}, most unusual: {found.worst}"
        lines += [SheetRow(list(shown.values()), list(shown), heading), SheetRow(heats, said)]
    save(contact_sheet(lines, PANEL), "parts.png")


def views(part: int, defect: str | None = None) -> dict[str, Pixels]:
    """Pictures of a drawn plate, as cameras on the left, above and on the right see it."""
    found = {}
    for name, shrunk in VIEWS.items():
        plate, _ = draw_picture("plate", np.random.default_rng(part), defect, 0.2, size=256)
        side = plate.shape[0]
        top, bottom = (np.array(shrunk) * side / 2, side - np.array(shrunk) * side / 2)
        corners = [(0, top[0]), (0, bottom[0]), (side, bottom[1]), (side, top[1])]
        found[name] = np.asarray(tilted(Image.fromarray(plate), corners))
    return found


def tilted(image: Image.Image, corners: list[tuple[float, float]]) -> Image.Image:
    """The image with its corners (upper left, then against the clock) at these places, on grey."""
    w, h = image.size
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, [(0, 0), (0, h), (w, h), (w, 0)], strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    way = np.linalg.solve(np.array(rows), np.array(right))
    how = Image.Transform.PERSPECTIVE, way.tolist(), Image.Resampling.BICUBIC
    return image.transform((w, h), *how, fillcolor=(96, 96, 96))


def save(sheet: Image.Image, name: str) -> None:
    # 256 colours: a third of the size, and no visible difference
    sheet.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
        IMAGES / name, optimize=True
    )
    report(IMAGES / name)


def report(path: Path) -> None:
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
