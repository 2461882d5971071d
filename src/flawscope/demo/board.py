"""The drawn category "board": a large picture of a printed-circuit board with defects of a few pixels.

Good boards differ in how each part lies (about a pixel, half a degree) and how its solder flowed, where the
board lies (3 pixels), the light and the noise. Lengths are in pixels: a smaller picture shows fewer parts,
not smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from flawscope.demo.board_design import EDGE, FOOTPRINTS, GRID, Design, Pad, design
from flawscope.demo.board_parts import SILK, TIN, VARIANTS, draw_part, font
from flawscope.demo.scene import cover, lay, lit, smooth
from flawscope.errors import InputError
from flawscope.synthesis.masks import Mask, bounding_box, line_coverage
from flawscope.synthesis.noise import Floats, Picture, fractal_noise
from flawscope.synthesis.simulate import largest_change, visible_part

SIZE = (3000, 4000)  # 12 megapixels
EXTENT = (8, 20)  # pixels
SMALLEST_SIDE = 256

_TRACK = 7  # pixels wide
_SHIFT = 3.0  # pixels that a board lies off its place at most
_ROOM = 8  # pixels drawn around a picture, so that it can be shifted
_FINE = 2  # the bare board is drawn at this multiple of the size
_LAMINATE, _COPPER, _POUR = (20, 70, 44), (46, 116, 70), (32, 94, 58)
_TABLE, _HOLE = (30, 30, 33), (16, 17, 17)
_PLATED = (178, 176, 168)
_RIDGE = 16  # grey levels that the edge of a covered track is lighter or darker
_SEED = 21
_NOISE = 2.2  # grey levels
_TRIES = 200
_WEAKEST = 12.0  # mean change over the mask in grey levels below which a defect is drawn again


def draw_board(
    rng: np.random.Generator,
    size: tuple[int, int] = SIZE,
    defect: str | None = None,
    extent: tuple[float, float] = EXTENT,
) -> tuple[Picture, Mask]:
    """One picture `[H, W, 3]` uint8 of a board, `size` (H, W), and the exact mask `[H, W]` bool of a defect.

    `defect` is one of `DEFECTS`, or None for a good board and an empty mask. The longer side of the mask's
    bounding box lies within `extent`, in pixels. For the same state of `rng` the good and the defective
    picture show the same board in the same light, equal in every pixel outside the mask. All boards of a
    size have the same design. Raises `InputError` for an unknown defect, a side below 256, and an extent
    that the defect cannot have.
    """
    if defect is not None and defect not in DEFECTS:
        raise InputError(f"A board has no defect {defect!r}: choose of {', '.join(DEFECTS)}.")
    if min(size) < SMALLEST_SIDE:
        raise InputError(f"A drawn board has at least {SMALLEST_SIDE} pixels a side, not {min(size)}.")
    low, high = extent
    if not 1 <= low <= high:
        raise InputError(f"A defect measures 1 px or more, the smallest first, not {low:g} to {high:g}.")
    placing, light, flaw = (int(s) for s in rng.integers(2**63, size=3))
    canvas, corner = _populated(design(size), np.random.default_rng(placing))
    view = _shifted(canvas, corner, size)
    mask = np.zeros(size, np.bool_)
    if defect is not None:
        _spoil(view, mask, canvas, corner, defect, extent, flaw)
    return _exposed(view, np.random.default_rng(light)), mask


# ------------------------------------------------------------------------------------------------ good boards


def _populated(board: Design, rng: np.random.Generator) -> tuple[Image.Image, tuple[float, float]]:
    """The board with its parts on a canvas that is `_ROOM` pixels larger all around, and the corner (row,
    column) on it where the picture begins."""
    canvas = _bare(board.size).copy()
    corner = _ROOM + rng.uniform(-_SHIFT, _SHIFT, 2)
    off = np.clip(rng.normal(0, 0.7, (len(board.parts), 2)), -1.5, 1.5)
    turned = np.radians(np.clip(rng.normal(0, 0.3, len(board.parts)), -0.7, 0.7))
    variants = rng.integers(0, VARIANTS, len(board.parts))
    for k, part in enumerate(board.parts):
        sprite = draw_part(part.kind, part.label, int(variants[k])).rotate(90 * part.turns, expand=True)
        width, height = sprite.size
        if part.kind != "hole":
            sprite = _nudged(sprite, off[k, 0], off[k, 1], turned[k])
        at = (part.column + _ROOM - width // 2, part.row + _ROOM - height // 2)
        canvas.paste(sprite, at, sprite)
    return canvas, (float(corner[0]), float(corner[1]))


def _nudged(sprite: Image.Image, down: float, right: float, angle: float) -> Image.Image:
    """A sprite moved by a few tenths of a pixel and turned by a few tenths of a degree."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = sprite.width / 2, sprite.height / 2
    affine = (
        *(cos, sin, x - cos * (x + right) - sin * (y + down)),
        *(-sin, cos, y + sin * (x + right) - cos * (y + down)),
    )
    return sprite.transform(sprite.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def _shifted(canvas: Image.Image, corner: tuple[float, float], size: tuple[int, int]) -> Picture:
    """The part of the canvas from `corner` on, which lies between its pixels, as the camera sees it."""
    box = (corner[1], corner[0], corner[1] + size[1], corner[0] + size[0])
    return np.array(canvas.resize((size[1], size[0]), Image.Resampling.BILINEAR, box))


def _exposed(view: Picture, rng: np.random.Generator) -> Picture:
    """What the camera makes of it: brightness within 4 %, uneven light, noise; in strips, which fit into
    the processor's cache."""
    height, width = view.shape[:2]
    tilt = rng.normal(0, 0.015, 2)
    y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    down = float(rng.uniform(0.96, 1.04)) + tilt[0] * y - 0.03 * y * y
    across = (tilt[1] * x - 0.03 * x * x).astype(np.float32)
    colour = 1 + rng.normal(0, 0.006, 3).astype(np.float32)
    # noise from a store: every row starts at a random place in it
    store = rng.standard_normal(3 * width + min(1 << 21, view.size), np.float32) * np.float32(_NOISE)
    starts = rng.integers(0, len(store) - 3 * width, height)
    picture = np.empty_like(view)
    for row in range(height):
        gain = (np.float32(down[row]) + across)[:, None] * colour
        exposed = view[row] * gain
        exposed += store[starts[row] : starts[row] + 3 * width].reshape(width, 3)
        exposed += 0.5
        np.clip(exposed, 0, 255, out=exposed)
        picture[row] = exposed
    return picture


@lru_cache(maxsize=2)
def _bare(size: tuple[int, int]) -> Image.Image:
    """The board without parts, `_ROOM` pixels larger than `size` all around."""
    board = design(size)
    height, width = size[0] + 2 * _ROOM, size[1] + 2 * _ROOM

    def layer(draw: Callable[[_Pen, Design], None]) -> Image.Image:
        sheet = Image.new("L", (width * _FINE, height * _FINE), 0)
        draw(_Pen(ImageDraw.Draw(sheet)), board)
        return sheet.reduce(_FINE)

    canvas = Image.new("RGB", (width, height), _LAMINATE)
    canvas.paste(_POUR, mask=layer(_draw_pours))
    copper = layer(_draw_copper)
    canvas.paste(_COPPER, mask=copper)
    canvas = _varnished(canvas, copper)
    for colour, draw in ((_PLATED, _draw_pads), (_HOLE, _draw_holes), (SILK, _draw_silk)):
        canvas.paste(colour, mask=layer(draw))
    inside = Image.new("1", (width, height), 1)
    edge = _ROOM + EDGE // 2
    inside.paste(0, (edge, edge, width - edge, height - edge))
    canvas.paste(_TABLE, mask=inside)
    return canvas.filter(ImageFilter.BoxBlur(0.5))


def _varnished(canvas: Image.Image, copper: Image.Image) -> Image.Image:
    """The laminate's weave and clouds show through, and the varnish rises over copper."""
    rng = np.random.default_rng([_SEED, *canvas.size])
    coarse = fractal_noise((canvas.height // 16 + 1, canvas.width // 16 + 1), (6, 8), rng, octaves=4)
    clouds = np.asarray(Image.fromarray(coarse).resize(canvas.size, Image.Resampling.BILINEAR))
    bare, covered = np.asarray(canvas), np.asarray(copper)
    down = 1 + 0.012 * np.sin(np.arange(canvas.height) * (2 * np.pi / 5.3))
    across = (0.012 * np.sin(np.arange(canvas.width) * (2 * np.pi / 6.1))).astype(np.float32)
    varnished = np.empty_like(bare)
    for row in range(canvas.height):  # a row fits into the processor's cache
        before = np.roll(covered[row - 1 if row else 0], 1).astype(np.float32)
        light = bare[row] * (np.float32(down[row]) + across + np.float32(0.08) * clouds[row])[:, None]
        light += (np.float32(_RIDGE / 255) * (covered[row] - before))[:, None]
        varnished[row] = np.clip(light + 0.5, 0, 255)
    return Image.fromarray(varnished)


def _draw_pours(pen: _Pen, board: Design) -> None:
    """Copper areas, and the room around all that is not connected with them."""
    for top, left, bottom, right in board.pours:
        pen.box(top, left, bottom, right)
    for track in board.tracks:
        pen.line(track, _TRACK + 10, 0)
    for row, column in board.vias:
        pen.disc(row, column, 13, 0)
    for pad in board.pads:
        pen.disc(pad.row, pad.column, max(pad.height, pad.width) / 2 + 6, 0)


def _draw_copper(pen: _Pen, board: Design) -> None:
    for track in board.tracks:
        pen.line(track, _TRACK)
    for row, column in board.vias:
        pen.disc(row, column, 7.5)


def _draw_pads(pen: _Pen, board: Design) -> None:
    for row, column in board.vias:
        pen.disc(row, column, 6)
    for pad in board.pads:
        if pad.round:
            pen.disc(pad.row, pad.column, pad.width / 2)
        else:
            high, wide = pad.height / 2, pad.width / 2
            pen.box(pad.row - high, pad.column - wide, pad.row + high, pad.column + wide)


def _draw_holes(pen: _Pen, board: Design) -> None:
    for row, column in board.vias:
        pen.disc(row, column, 2.8)


def _draw_silk(pen: _Pen, board: Design) -> None:
    """Names of parts, and lines along the parts."""
    for row, column, text in board.words:
        pen.text(row - 8, column, 20, text)
    for part in board.parts:
        shape = FOOTPRINTS[part.kind]
        if shape.rows > 3:
            continue
        aside, along = shape.rows * GRID / 2 - 2, shape.columns * GRID / 2 - 6
        for side in (-aside, aside):
            ends = ((side, -along), (side, along))
            if part.turns % 2:
                ends = ((-along, side), (along, side))
            pen.line(tuple((part.row + r, part.column + c) for r, c in ends), 2)


class _Pen(NamedTuple):
    """Draws in pixels of the picture on a sheet that is finer and `_ROOM` pixels larger."""

    draw: ImageDraw.ImageDraw

    def disc(self, row: float, column: float, radius: float, value: int = 255) -> None:
        self.box(row - radius, column - radius, row + radius, column + radius, value, round_=True)

    def box(
        self, top: float, left: float, bottom: float, right: float, value: int = 255, *, round_: bool = False
    ) -> None:
        corners = [(v + _ROOM) * _FINE for v in (left, top, right, bottom)]
        corners[2:] = [v - 1 for v in corners[2:]]
        (self.draw.ellipse if round_ else self.draw.rectangle)(corners, fill=value)

    def line(self, points: Sequence[tuple[float, float]], width: int, value: int = 255) -> None:
        path = [((c + _ROOM) * _FINE, (r + _ROOM) * _FINE) for r, c in points]
        self.draw.line(path, fill=value, width=width * _FINE, joint="curve")

    def text(self, row: float, column: float, height: float, words: str) -> None:
        at = ((column + _ROOM) * _FINE, (row + _ROOM) * _FINE)
        self.draw.text(at, words, fill=255, font=font(height * _FINE), anchor="mm")


# --------------------------------------------------------------------------------------------------- defects


class _Place(NamedTuple):
    """Where a defect goes: its middle in the picture, and the track (its direction) or the pad there."""

    row: float
    column: float
    direction: tuple[int, int] = (0, 0)
    pad: Pad | None = None


class _Wound(NamedTuple):
    """A defect to draw: a window of the canvas as light, the defect's middle (row, column) in it, its place,
    its length in pixels, and the generator of its details."""

    canvas: Floats
    middle: tuple[float, float]
    place: _Place
    length: float
    rng: np.random.Generator


def _spoil(
    view: Picture,
    mask: Mask,
    canvas: Image.Image,
    corner: tuple[float, float],
    defect: str,
    extent: tuple[float, float],
    seed: int,
) -> None:
    """Put the defect into `view` and `mask`, in place. One that does not show, or whose size is outside
    `extent`, is drawn again elsewhere."""
    board = design((view.shape[0], view.shape[1]))
    low, high = extent
    find, draw = _HOW[defect]
    half = math.ceil(high) + GRID  # of the window
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, attempt])
        # what is seen of it measures a little more than what is drawn
        length = math.exp(rng.uniform(math.log(0.7 * low), math.log(high)))
        place = find(board, length, rng)
        if place is None:
            break
        top, left = max(0, round(place.row) - half), max(0, round(place.column) - half)
        height = min(view.shape[0], round(place.row) + half) - top
        width = min(view.shape[1], round(place.column) + half) - left
        # of the canvas as much as the window shows, and the pixels next to it
        start = (math.floor(corner[0]) + top, math.floor(corner[1]) + left)
        piece = canvas.crop((start[1], start[0], start[1] + width + 2, start[0] + height + 2))
        light = np.asarray(piece, np.float32).copy()
        draw(
            _Wound(light, (place.row + _ROOM - start[0], place.column + _ROOM - start[1]), place, length, rng)
        )
        spoilt = Image.fromarray(np.clip(np.rint(light), 0, 255).astype(np.uint8))
        within = (corner[0] % 1, corner[1] % 1)
        good, bad = (_shifted(image, within, (height, width)) for image in (piece, spoilt))
        difference = largest_change(good, bad)
        visible = visible_part(difference > 0, difference)
        if not visible.any() or difference[visible].mean() < _WEAKEST:
            continue
        if low <= max(side.stop - side.start for side in bounding_box(visible)) <= high:
            window = (slice(top, top + height), slice(left, left + width))
            view[window] = np.where(visible[..., None], bad, view[window])
            mask[window] = visible
            return
    raise InputError(
        f"A {defect} of {low:g} to {high:g} px cannot be drawn here: give another extent or size."
    )


def _anywhere(board: Design, length: float, rng: np.random.Generator) -> _Place:
    row, column = (float(rng.uniform(EDGE + length, side - EDGE - length)) for side in board.size)
    return _Place(row, column)


def _on_a_track(board: Design, length: float, rng: np.random.Generator) -> _Place | None:
    return _one_of(board.stretches, rng)


def _between_tracks(board: Design, length: float, rng: np.random.Generator) -> _Place | None:
    return _one_of(board.gaps, rng)


def _one_of(places: NDArray[np.int32], rng: np.random.Generator) -> _Place | None:
    if not len(places):
        return None
    row, column, down, right = (int(v) for v in places[rng.integers(len(places))])
    return _Place(row, column, (down, right))


def _on_a_pad(board: Design, length: float, rng: np.random.Generator) -> _Place | None:
    """A pad of about this length."""
    if not board.pads:
        return None
    apart = np.array([abs(max(pad.height, pad.width) - length) for pad in board.pads])
    pad = board.pads[int(rng.choice(np.flatnonzero(apart <= apart.min() + 2)))]
    return _Place(pad.row, pad.column, pad=pad)


def _about(wound: _Wound) -> tuple[Floats, Floats]:
    """`x [1, W]` and `y [H, 1]` from the middle of a defect."""
    y, x = np.ogrid[: wound.canvas.shape[0], : wound.canvas.shape[1]]
    return (x + 0.5 - wound.middle[1]).astype(np.float32), (y + 0.5 - wound.middle[0]).astype(np.float32)


def _ground(wound: _Wound) -> NDArray[np.float32]:
    """The laminate's colour, a little lighter or darker."""
    return np.asarray(_LAMINATE, np.float32) * np.float32(wound.rng.uniform(0.9, 1.1))


def _molten(wound: _Wound, distance: Floats, x: Floats, y: Floats) -> None:
    """Solder inside `distance` < 0 (in pixels): a dull rim, and a face that shines towards the light."""
    shade = 0.86 + 0.22 * lit(x, y) * smooth(np.hypot(x, y) / np.float32(wound.length / 2))
    lay(wound.canvas, shade[..., None] * np.asarray(TIN, np.float32), cover(distance, 1))
    glint = np.hypot(x + 0.12 * wound.length, y + 0.16 * wound.length) - 0.13 * wound.length
    lay(wound.canvas, np.asarray((246, 246, 242)), 0.9 * cover(glint, 0.7) * cover(distance, 1))


def _spatter(wound: _Wound) -> None:
    """A ball or a splash of solder."""
    x, y = _about(wound)
    radius = wound.length / 2 - 0.5
    turn = np.arctan2(y, x)
    waves = sum(
        wound.rng.uniform(0, 0.09) * np.sin(k * turn + wound.rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    )
    _molten(wound, np.asarray(np.hypot(x, y) - radius * (1 + waves), np.float32), x, y)


def _broken_track(wound: _Wound) -> None:
    """A piece of the track is not there, with ragged ends."""
    x, y = _about(wound)
    norm = math.hypot(*wound.place.direction)
    down, right = wound.place.direction[0] / norm, wound.place.direction[1] / norm
    along, across = x * right + y * down, x * down - y * right
    ragged = wound.rng.uniform(0.5, 1.5) * np.sin(
        across * wound.rng.uniform(0.5, 1.2) + wound.rng.uniform(0, 6)
    )
    # a slanting gap is shorter in rows and columns than along the track
    reach = wound.length / 2 / (1 if 0 in wound.place.direction else 0.9)
    gap = np.maximum(np.abs(along + ragged) - reach, np.abs(across) - _TRACK / 2 - 1.5)
    lay(wound.canvas, _ground(wound), cover(gap, 1))


def _bridge(wound: _Wound) -> None:
    """Solder or copper from one track to its neighbour."""
    x, y = _about(wound)
    along, across = (x, y) if wound.place.direction[1] else (y, x)
    space = (GRID - _TRACK) / 2
    waist = wound.rng.uniform(0.6, 0.9)
    width = wound.length / 2 * (waist + (1 - waist) * np.minimum((across / space) ** 2, 1))
    distance = np.maximum(np.abs(along) - width, np.abs(across) - space - 1)
    if wound.rng.random() < 0.5:
        _molten(wound, np.asarray(distance, np.float32), x, y)
    else:
        lay(wound.canvas, np.asarray(_COPPER) * wound.rng.uniform(0.95, 1.1), cover(distance, 1))


def _scratch(wound: _Wound) -> None:
    """The varnish is scraped off in a thin line."""
    angle = wound.rng.uniform(0, 2 * np.pi)
    along = np.linspace(-0.5, 0.5, 12)
    bent = angle + wound.rng.normal(0, 0.5) * along
    steps = np.stack([np.sin(bent), np.cos(bent)], 1) * (wound.length * 1.1 / len(along))
    path = np.cumsum(steps, 0)
    path += np.asarray(wound.middle) - path[len(path) // 2]
    widths = wound.rng.uniform(1.8, 3.0) * (1 - 0.5 * np.abs(2 * along) ** 2)
    coverage = line_coverage(wound.canvas.shape[:2], path, widths)
    colours = ((176, 186, 150), (196, 146, 92), (206, 208, 200))
    lay(wound.canvas, np.asarray(colours[int(wound.rng.integers(len(colours)))]), 0.85 * coverage)


def _missing_pad(wound: _Wound) -> None:
    """A pad was never there, or came off: the laminate shows."""
    pad = wound.place.pad
    assert pad is not None
    x, y = _about(wound)
    high, wide = pad.height / 2 + 0.8, pad.width / 2 + 0.8
    distance = np.hypot(x, y) - wide if pad.round else np.maximum(np.abs(x) - wide, np.abs(y) - high)
    lay(wound.canvas, _ground(wound), cover(distance, 1))


_Find = Callable[[Design, float, np.random.Generator], _Place | None]
_HOW: dict[str, tuple[_Find, Callable[[_Wound], None]]] = {
    "spatter": (_anywhere, _spatter),
    "broken_track": (_on_a_track, _broken_track),
    "bridge": (_between_tracks, _bridge),
    "scratch": (_anywhere, _scratch),
    "missing_pad": (_on_a_pad, _missing_pad),
}
DEFECTS = tuple(_HOW)
