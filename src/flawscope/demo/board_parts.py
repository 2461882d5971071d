"""The parts of a drawn board, seen from above: small RGBA pictures, drawn large and reduced."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from flawscope.demo.board_design import FOOTPRINTS, GRID

Colour = tuple[int, int, int]

TIN = (188, 186, 178)
SILK = (222, 226, 218)
VARIANTS = 4  # solder flows a little differently at each part, and parts are of several batches
_FINE = 3  # drawn at this multiple of the size
_ROOM = 6  # pixels around the footprint
_LEG = (169, 168, 163)
_EPOXY = (44, 44, 47)
_SHADE = 6  # grey levels from batch to batch
_SHADOW = (4, 14, 8, 120)


class _Sheet:
    """A transparent sheet with its origin in the middle; lengths in pixels of the board."""

    def __init__(self, height: int, width: int, variant: int) -> None:
        self.middle = (width / 2, height / 2)
        self.variant = variant
        self.image = Image.new("RGBA", (width * _FINE, height * _FINE), (0, 0, 0, 0))
        self.pen = ImageDraw.Draw(self.image)

    def box(self, x: float, y: float, half_x: float, half_y: float) -> tuple[float, float, float, float]:
        x, y = x + self.middle[0], y + self.middle[1]
        return (
            *((x - half_x) * _FINE, (y - half_y) * _FINE),
            *((x + half_x) * _FINE - 1, (y + half_y) * _FINE - 1),
        )

    def block(
        self, x: float, y: float, half_x: float, half_y: float, colour: tuple[int, ...], corner: float = 1
    ) -> None:
        self.pen.rounded_rectangle(self.box(x, y, half_x, half_y), corner * _FINE, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, ...]) -> None:
        self.pen.ellipse(self.box(x, y, radius, radius), fill=colour)

    def solder(self, x: float, y: float, half_x: float, half_y: float) -> None:
        """A pad with solder: a dull rim, a bright face, a glint that lies elsewhere in every variant."""
        self.block(x, y, half_x, half_y, (132, 128, 118), 2)
        self.block(x, y, half_x - 1.2, half_y - 1.2, TIN, 2)
        turn = self.variant - (VARIANTS - 1) / 2
        glint = self.box(x + 0.12 * turn * half_x, y - 0.18 * turn * half_y, 0.4 * half_x, 0.4 * half_y)
        self.pen.ellipse(glint, fill=(228, 227, 222))

    def text(self, x: float, y: float, height: float, words: str, colour: tuple[int, ...]) -> None:
        at = ((x + self.middle[0]) * _FINE, (y + self.middle[1]) * _FINE)
        self.pen.text(at, words, fill=colour, font=font(height * _FINE), anchor="mm")


@lru_cache(maxsize=64)
def font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that boards are the same everywhere."""
    return ImageFont.load_default(height)


@lru_cache(maxsize=512)
def draw_part(kind: str, label: str, variant: int) -> Image.Image:
    """A part as an RGBA picture with transparent surroundings, its middle in the middle of the picture.

    `kind` is a key of `FOOTPRINTS`, `variant` is in 0..`VARIANTS` - 1.
    """
    shape = FOOTPRINTS[kind]
    sheet = _Sheet(shape.rows * GRID + 2 * _ROOM, shape.columns * GRID + 2 * _ROOM, variant)
    if kind.startswith("qfp"):
        _flat_pack(sheet, kind, label)
    elif kind.startswith("soic"):
        _small_outline(sheet, kind, label)
    elif kind == "sot23":
        for (r, c), _ in shape.legs:
            sheet.solder(c * GRID, r * GRID * 0.95, 6, 11)
        _body(sheet, 0, 0, 26, 15, _EPOXY)
        sheet.text(0, 0, 14, label[:2], (150, 150, 148))
    elif kind == "electrolytic":
        for side in (-1, 1):
            sheet.solder(side * 62, 0, 12, 10)
        _body(sheet, 0, 0, 60, 60, (34, 34, 38), 8)
        sheet.disc(2, 2, 57, (20, 20, 22))
        sheet.disc(0, 0, 56, (186, 188, 190))
        sheet.pen.chord(sheet.box(0, 0, 56, 56), 125, 235, fill=(40, 40, 46))
        sheet.text(10, -8, 24, label[:3], (70, 70, 74))
        sheet.text(10, 18, 18, "16V", (70, 70, 74))
    elif kind == "crystal":
        for side in (-1, 1):
            sheet.solder(side * 94, 0, 10, 9)
        _body(sheet, 0, 0, 90, 32, (150, 150, 152), 28)
        sheet.block(0, 0, 84, 27, (186, 186, 188), 24)
        sheet.text(0, 0, 22, "16.000", (96, 96, 100))
    elif kind == "hole":
        sheet.disc(0, 0, 48, TIN)
        sheet.disc(0, 0, 45, (206, 203, 194))
        sheet.disc(0, 0, 30, (14, 14, 16))
    else:
        _two_ended(sheet, kind, label)
    return sheet.image.reduce(_FINE)


def _body(
    sheet: _Sheet, x: float, y: float, half_x: float, half_y: float, colour: Colour, corner: float = 2
) -> None:
    """A body in the light of a ring: a narrow shadow all around, and an edge that shines. Its shade is the
    batch's."""
    shade = _SHADE * (sheet.variant - (VARIANTS - 1) / 2)
    face, edge = (tuple(min(255, round(c + more + shade)) for c in colour) for more in (0, 34))
    sheet.block(x, y, half_x + 2, half_y + 2, _SHADOW, corner + 2)
    sheet.block(x, y, half_x, half_y, edge, corner)
    sheet.block(x, y, half_x - 1, half_y - 1, face, corner)


def _two_ended(sheet: _Sheet, kind: str, label: str) -> None:
    """Resistors, capacitors and LEDs: a body between two soldered ends."""
    small = kind == "small_capacitor"
    reach, half, tall = (17, 13, 8) if small else (33, 27, 14)
    for side in (-1, 1):
        sheet.solder(side * reach * 0.85, 0, reach * 0.36, tall + 3)
    colour = {"resistor": (36, 36, 40), "led": (226, 222, 196)}.get(kind, (156, 124, 88))
    _body(sheet, 0, 0, half, tall, (198, 196, 190))
    sheet.block(0, 0, half * 0.68, tall, colour, 0)
    if kind == "resistor":
        sheet.text(0, 0, 15, label, (216, 216, 212))
    elif kind == "led":
        sheet.disc(0, 0, 9, (240, 226, 150))
        sheet.block(half * 0.62, 0, 1.5, tall, (60, 130, 70), 0)


def _flat_pack(sheet: _Sheet, kind: str, label: str) -> None:
    """A chip with legs on four sides."""
    shape = FOOTPRINTS[kind]
    half = (shape.rows // 2 - 3) * GRID
    for (r, c), (down, right) in shape.legs:
        x, y = float(c * GRID), float(r * GRID)
        for distance, long, thin, soldered in ((0.7, 20.0, 4.5, True), (1.4, 19.0, 3.2, False)):
            at = (x - right * distance * GRID, y - down * distance * GRID)
            half_sides = (thin, long) if down else (long, thin)
            if soldered:
                sheet.solder(*at, *half_sides)
            else:
                sheet.block(*at, *half_sides, _LEG, 0)
    _body(sheet, 0, 0, half, half, _EPOXY, 4)
    _printed(sheet, half, half, label)


def _small_outline(sheet: _Sheet, kind: str, label: str) -> None:
    """A chip with legs on two sides."""
    shape = FOOTPRINTS[kind]
    half_x, half_y = (shape.columns // 2) * GRID - 4, (shape.rows // 2 - 2) * GRID - 8
    for (r, c), (down, _) in shape.legs:
        sheet.solder(c * GRID, r * GRID - down * 6, 11, 16)
        sheet.block(c * GRID, r * GRID - down * 20, 8, 14, _LEG, 0)
    _body(sheet, 0, 0, half_x, half_y, _EPOXY, 4)
    _printed(sheet, half_x, half_y, label)


def _printed(sheet: _Sheet, half_x: float, half_y: float, label: str) -> None:
    """What stands on a chip: its name, a date, and a dimple at the first leg."""
    ink = (142, 142, 140)
    height = min(half_y * 0.42, half_x * 0.36)
    sheet.text(0, -0.4 * height, height, label, ink)
    sheet.text(0, 0.9 * height, 0.6 * height, "2419 A1", ink)
    radius = min(10.0, 0.14 * half_y)
    sheet.disc(-half_x + 2.4 * radius, half_y - 2.4 * radius, radius, (28, 28, 30))
