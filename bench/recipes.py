"""What a factory asks first (docs/recipes.md), on drawn plates: what is found, and how long a picture takes.

    python bench/recipes.py

Each recipe is a call of `flawscope fit` for drawn good pictures; then new good pictures and ones with a drawn
defect are judged. `--sheet FILE` draws a picture of each that is measured, with what was found.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
from common import Args, Cell

SEED = 29
ZONE = (0.52, 0.3, 0.68, 0.7)  # of the plate, in shares of its sides
Place = tuple[float, float]  # of a spot on the plate, in shares of its sides


@dataclass(frozen=True)
class Plates:
    """Pictures of plates on a tray: their longer side in pixels, how many plates a picture shows, the share
    of the picture that a plate takes, a defect's diameter in pixels, and how bright it is beside what it lies
    on; 0: it is dark."""

    side: int = 384
    count: int = 1
    share: float = 0.5
    spot: int = 12
    faint: float = 0.0
    light: float = 0.0  # by which the light of new pictures differs

    def draw(self, number: int, spot: Place | None = None, light: float = 0.0, lens: Any = None) -> Any:
        """A picture [side, side, 3] uint8; the first plate has a dark spot there. Returns also the plate's
        corners [4, 2] as x, y."""
        import numpy as np
        from PIL import Image, ImageDraw

        from flawscope.synthesis.demo.dataset import draw_picture

        rng = np.random.default_rng([SEED, number])
        grey = rng.normal(70, 4, (self.side, self.side, 1)).repeat(3, 2)
        ground = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
        columns = 1 if self.count == 1 else 2
        cell, length = self.side // columns, round(self.side * self.share / columns)
        corners = []
        for k in range(self.count):
            drawn = Image.fromarray(draw_picture("plate", rng, None, 0, size=min(length, 768))[0])
            plate = drawn.resize((length, length), Image.Resampling.BICUBIC).convert("RGBA")
            if spot is not None and k == 0:
                at, radius = [share * length for share in spot], self.spot / 2
                box = [at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius]
                mask = Image.new("L", plate.size)
                ImageDraw.Draw(mask).ellipse(box, fill=255)
                dark = plate.convert("RGB").point(lambda value: value * self.faint)
                plate.paste(dark if self.faint else (60, 50, 45, 255), mask=mask)
            angle = rng.uniform(0, 360)
            turned = plate.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            room = max(0, (cell - turned.width) // 2)
            x, y = (
                cell * (k // side % columns) + room + int(rng.integers(-room, room + 1) * 0.6)
                for side in (1, 2)
            )
            ground.paste(turned, (x, y), turned)
            half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * length / 2
            cos, sin = np.cos(np.radians(-angle)), np.sin(np.radians(-angle))
            corners.append(half @ [[cos, sin], [-sin, cos]] + (x + turned.width / 2, y + turned.height / 2))
        picture = np.asarray(ground, np.float32) * (1 + light)
        return picture.clip(0, 255).astype(np.uint8), corners[0]


FAINT = Plates(side=3000, spot=12, faint=0.88)


@dataclass(frozen=True)
class Recipe:
    """Flags of a fit, the pictures, and where defects are: `beside` are spots that are not to be found."""

    flags: tuple[str, ...]
    plates: Plates
    spots: tuple[Place, ...] = ((0.52, 0.22), (0.3, 0.78), (0.8, 0.72))
    beside: tuple[Place, ...] = ()
    good: int = 20
    new: int = 20


RECIPES: dict[str, Recipe] = {
    "a zone that moves with the part": Recipe(
        ("--align", "turn", "--roi", "zone"), Plates(), spots=((0.6, 0.5),), beside=((0.2, 0.8),)
    ),
    "several parts in changing light": Recipe(
        ("--align", "turn", "--several", "--light", "10%"),
        Plates(side=512, count=4, share=0.55, light=0.1),
        good=10,
        new=10,
    ),
    "small defects on several parts": Recipe(
        ("--align", "turn", "--several", "--min-defect", "8px"),
        Plates(side=1024, count=4, share=0.55, spot=8),
        good=8,
        new=8,
    ),
    "a small defect on a large part": Recipe(
        ("--align", "turn", "--min-defect", "12px"), Plates(side=3000, spot=12), good=8, new=6
    ),
    "the same, seen whole": Recipe(("--align", "turn"), Plates(side=3000, spot=12), good=8, new=6),
    "a faint defect on a large part": Recipe(
        ("--align", "turn", "--tile", "512", "--size", "256"), FAINT, good=8, new=6
    ),
    "the same faint defect, seen whole": Recipe(("--align", "turn"), FAINT, good=8, new=6),
}


def measure(args: Args, recipe: Recipe, panels: list[Any]) -> Cell:
    """Fits by the command line, and judges new good pictures and defective ones, of which one is drawn."""
    import numpy as np
    import torch
    from PIL import Image

    import flawscope
    from flawscope.cli import main as run

    torch.set_num_threads(args.threads)
    plates = recipe.plates
    with common.workspace(None) as folder:
        good = Path(folder, "good")
        good.mkdir()
        corners: Any = None
        for k in range(recipe.good):
            picture, at = plates.draw(k)
            corners = at if k == 0 else corners
            Image.fromarray(picture).save(good / f"{k:02d}.png", compress_level=1)
        flags = [zone_mask(folder, corners, plates) if flag == "zone" else flag for flag in recipe.flags]
        model, began = Path(folder, "part.safetensors"), time.perf_counter()
        call = [
            "fit",
            "--data",
            str(good),
            "--out",
            str(model),
            *flags,
            "--no-check",
            "--quiet",
            "--device",
            "cpu",
        ]
        if run(call):
            raise RuntimeError("the fit failed")
        seconds = time.perf_counter() - began
        predictor = flawscope.load(model, device="cpu")
    rng = np.random.default_rng(SEED)

    def judge(spots: tuple[Place, ...], first: int) -> list[Any]:
        return [
            predictor.predict(plates.draw(first + k, spots[k % len(spots)] if spots else None, light)[0])
            for k, light in enumerate(rng.uniform(-plates.light, plates.light, recipe.new))
        ]

    began = time.perf_counter()
    clean = judge((), 1000)
    bad = judge(recipe.spots, 2000)
    beside = judge(recipe.beside, 3000) if recipe.beside else []
    picture = plates.draw(2000, recipe.spots[0])[0]
    panels.append(predictor.predict(picture).draw(picture))
    good_scores, scores = (np.array([prediction.score for prediction in of]) for of in (clean, bad))
    return {
        "fit_seconds": round(seconds, 1),
        "image_auroc": round(float((scores[:, None] > good_scores).mean()), 4),
        "found": f"{sum(prediction.is_anomalous for prediction in bad)} of {len(bad)}",
        "alarms": f"{sum(prediction.is_anomalous for prediction in clean)} of {len(clean)}",
        "called_beside": f"{sum(prediction.is_anomalous for prediction in beside)} of {len(beside)}",
        "promised": round(predictor.calibration.expected_rate, 4),
    }


def zone_mask(folder: Any, corners: Any, plates: Plates) -> str:
    """Mask file of the zone on the first plate."""
    import numpy as np
    from PIL import Image, ImageDraw

    x0, y0, x1, y1 = ZONE
    origin, across, down = corners[0], corners[1] - corners[0], corners[3] - corners[0]
    shape = [tuple(origin + x * across + y * down) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    mask = Image.fromarray(np.zeros((plates.side, plates.side), np.uint8))
    ImageDraw.Draw(mask).polygon(shape, fill=255)
    mask.save(Path(folder, "zone.png"))
    return str(Path(folder, "zone.png"))


def main() -> int:
    parser = common.make_parser(__doc__, "recipes", data=False)
    parser.add_argument("--sheet", type=Path, help="draw what was measured")
    args = common.parse_arguments(parser)
    record = common.Record(args, "what a factory asks first")
    rows, panels = [], list[Any]()
    for name, recipe in RECIPES.items():
        if cell := record.attempt(name, partial(measure, args, recipe, panels)):
            rows.append({"recipe": name, **common.without_metadata(cell)})
    common.print_table("recipes", rows)
    if args.sheet is not None and panels:
        from flawscope.results.contact_sheet import SheetRow, contact_sheet

        names = [name for name, _ in zip(RECIPES, panels, strict=False)]
        contact_sheet([SheetRow(panels, names)], (300, 300)).save(args.sheet, optimize=True)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
