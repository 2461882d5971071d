"""Generated category "plate": a brushed and printed metal plate with a turned boss, holes and screws.

Good plates differ in position (4 units), angle (2 degrees), the grain of the metal, the place of the
highlight, how the screws are turned, and the serial number with its bar code.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flawscope.synthesis.demo import scene
from flawscope.synthesis.demo.scene import (
    Flaw,
    Frame,
    composite,
    light_on_slope,
    pixel_coverage,
    rounded_box,
    smooth,
)
from flawscope.synthesis.textures import Floats, fractal_noise

DEFECTS = ("scratch", "dent", "stain", "contamination", "crack", "missing_part", "misprint")

_HALF = (141.0, 120.0)
_CORNER = 16.0
_BOSS = (-52.0, 0.0)
_BOSS_RADIUS = 66.0
_BORE = 31.0
_SCREWS = tuple((x, y) for y in (-98.0, 98.0) for x in (-119.0, 119.0))
_SCREW_RADIUS = 12.5
_BOLT_HOLES = tuple(
    (_BOSS[0] + 49 * math.cos(a), 49 * math.sin(a)) for a in (math.radians(60 * i + 30) for i in range(6))
)
_TAPPED_HOLES = ((42.0, 66.0), (76.0, 66.0))
# centre and half sides of the print
_LABEL = (76.0, -20.0)
_LABEL_HALF = (50.0, 46.0)
_INKS = np.asarray([(24, 68, 122), (34, 34, 38), (222, 112, 28)], np.float32)
_TINTS = ((0.55, 0.42, 0.24), (0.42, 0.4, 0.42), (0.5, 0.52, 0.3))  # of stains
_SURFACE_FLAWS = {"scratch": scene.draw_scratch, "dent": scene.draw_dent, "contamination": scene.draw_speck}
_PRINT_SCALE = 4  # pixels per unit on the printing plate


class _PlateVariation(NamedTuple):
    """Properties that vary between good plates. They are drawn first, so that a flaw does not change them.

    Attributes:
        frame: Position and angle.
        grain: Grain of the metal, `[H, W]`.
        screws: Angle of each screw, in radians.
        highlight: Shift of the highlight, in units.
        serial: Serial number.
        grooves: Height of the boss's grooves by the distance from its centre, three a unit.
        table_texture: Texture of the table, `[H, W]`.
    """

    frame: Frame
    grain: Floats
    screws: tuple[float, ...]
    highlight: float
    serial: str
    grooves: Floats
    table_texture: Floats


def _draw_variation(size: int, rng: np.random.Generator) -> _PlateVariation:
    """Return random properties of a plate in a picture of `size` pixels a side."""
    frame = scene.random_frame(size, rng, shift=4, degrees=2)
    return _PlateVariation(
        frame=frame,
        grain=_brushed_grain(frame, size, rng),
        screws=tuple(float(angle) for angle in rng.uniform(0, np.pi / 3, len(_SCREWS))),
        highlight=float(rng.uniform(-12, 12)),
        serial=f"{int(rng.integers(100_000)):05d}",
        grooves=np.convolve(rng.normal(0, 1, 260), [0.25, 0.5, 0.25], "same").astype(np.float32),
        table_texture=fractal_noise((size, size), (3, 3), rng, octaves=5),
    )


def _brushed_grain(frame: Frame, size: int, rng: np.random.Generator) -> Floats:
    """Return the grain of brushed metal along the plate, about -1..1: streaks of several lengths."""
    side = math.ceil(1.2 * size)
    streaks = np.zeros((side, side), np.float32)
    for columns, strength in ((3, 0.35), (10, 0.5), (40, 0.5)):
        coarse = Image.fromarray(rng.standard_normal((side, columns), np.float32))
        streaks += strength * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    # turn about the middle, and cut out the middle
    cos, sin = math.cos(frame.angle), math.sin(frame.angle)
    x_offset = side / 2 - (cos + sin) * size / 2
    y_offset = side / 2 - (cos - sin) * size / 2
    turned = Image.fromarray(streaks).transform(
        (size, size),
        Image.Transform.AFFINE,
        (cos, sin, x_offset, -sin, cos, y_offset),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(turned, np.float32)


def render(size: int, rng: np.random.Generator, flaw: Flaw | None = None) -> Floats:
    """Draw a plate as light, `[size, size, 3]` float32 in about 0..255.

    The same `rng` gives the same plate, with a flaw or without one.
    """
    part = _draw_variation(size, rng)
    frame = part.frame
    scale = part.frame.scale
    u, v = frame.u, frame.v
    name = flaw.name if flaw else ""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = (54, 58, 64)
    canvas += (6 * part.table_texture)[..., None]
    # the plate's shadow on the table
    canvas *= (1 - 0.62 * smooth(1 - rounded_box(u - 5, v - 7, _HALF, _CORNER) / 15))[..., None]

    edge = rounded_box(u, v, _HALF, _CORNER)
    face = 168 + 8.5 * part.grain + 30 * np.exp(-(((0.55 * u + 0.85 * v + 40 + part.highlight) / 62) ** 2))
    # the bevel is bright where it faces the light; it faces in the direction of the distance's gradient
    slope_y, slope_x = np.gradient(edge)
    facing = (slope_x * scene.LIGHT[0] + slope_y * scene.LIGHT[1]) * scale
    face += 52 * facing * smooth(1 + edge / 5) - 14 * np.exp(-(((edge + 5.2) / 0.8) ** 2))
    composite(
        canvas, face[..., None] * np.asarray((0.985, 1.0, 1.02), np.float32), pixel_coverage(edge, scale)
    )

    _draw_boss(canvas, part)
    missing = _choose_missing(flaw) if flaw and name == "missing_part" else ""
    for index, centre in enumerate(_BOLT_HOLES):
        if missing != f"hole{index}":
            window = scene.window_around(canvas, frame, centre, reach=8)
            _draw_hole(*window, radius=5.6, scale=scale)
    for index, centre in enumerate(_TAPPED_HOLES):
        if missing != f"tapped{index}":
            window = scene.window_around(canvas, frame, centre, reach=10)
            _draw_hole(*window, radius=7.5, scale=scale)
    for index, centre in enumerate(_SCREWS):
        window = scene.window_around(canvas, frame, centre, _SCREW_RADIUS + 3)
        is_present = missing != f"screw{index}"
        _draw_screw(*window, turn=part.screws[index], scale=scale, is_present=is_present)
    _draw_print(canvas, part, flaw if name == "misprint" else None)
    if flaw:
        _draw_flaw(canvas, part, flaw)
    return canvas


def _draw_boss(canvas: Floats, part: _PlateVariation) -> None:
    """Draw a turned, slightly raised ring around the bore, with grooves and two bright sectors."""
    scale = part.frame.scale
    u = part.frame.u - np.float32(_BOSS[0])
    v = part.frame.v - np.float32(_BOSS[1])
    radius = np.hypot(u, v)
    angle = np.arctan2(v, u)
    facing_light = light_on_slope(u, v)
    shadow = np.exp(-((np.maximum(radius - _BOSS_RADIUS, 0) / 4.5) ** 2)) * (0.5 - 0.5 * facing_light)
    canvas *= (1 - 0.5 * shadow * (radius > _BOSS_RADIUS - 1))[..., None]
    sectors = np.cos(angle - 0.9 - part.highlight / 40) ** 2  # 1 in the middle of both bright sectors
    face = 138 + 78 * sectors**4 + 20 * np.cos(3 * angle + 1) * sectors
    face += 9 * np.interp(radius * 3, np.arange(260), part.grooves).astype(np.float32)
    face += 46 * facing_light * smooth((radius - _BOSS_RADIUS + 3.5) / 2.5)  # outer chamfer
    face -= 60 * facing_light * smooth((_BORE + 5 - radius) / 2)  # inner chamfer faces inwards
    composite(
        canvas,
        face[..., None] * np.asarray((1.0, 1.0, 1.01), np.float32),
        pixel_coverage(radius - _BOSS_RADIUS, scale),
    )
    wall = smooth((radius - 0.7 * _BORE) / (0.3 * _BORE))
    depth = 17 + 40 * wall * np.maximum(-facing_light, 0) ** 2 + 8 * wall
    composite(
        canvas,
        depth[..., None] * np.asarray((0.95, 1.0, 1.08), np.float32),
        pixel_coverage(radius - _BORE, scale),
    )


def _draw_hole(canvas: Floats, u: Floats, v: Floats, radius: float, scale: float) -> None:
    """Draw a drilled hole with a chamfer."""
    distance = np.hypot(u, v)
    facing_light = light_on_slope(u, v)
    chamfer = 150 - 70 * facing_light
    composite(canvas, chamfer[..., None], pixel_coverage(distance - np.float32(radius + 1.8), scale))
    depth = 20 + 46 * np.maximum(-facing_light, 0) ** 2 * smooth((distance - 0.45 * radius) / (0.55 * radius))
    composite(canvas, depth[..., None], pixel_coverage(distance - np.float32(radius), scale))


def _draw_screw(canvas: Floats, u: Floats, v: Floats, turn: float, scale: float, *, is_present: bool) -> None:
    """Draw a brass screw with a hexagon socket in its counterbore, or the empty counterbore."""
    distance = np.hypot(u, v)
    facing_light = light_on_slope(u, v)
    # chamfer of the counterbore, and the dark gap inside it
    composite(
        canvas,
        (96 - 62 * facing_light)[..., None],
        pixel_coverage(distance - np.float32(_SCREW_RADIUS + 2.6), scale),
    )
    composite(canvas, np.full(3, 34.0), pixel_coverage(distance - np.float32(_SCREW_RADIUS + 1.2), scale))
    if not is_present:
        # floor of the counterbore, with the hole for the thread
        floor = 92 - 34 * facing_light * smooth(distance / np.float32(_SCREW_RADIUS))
        composite(canvas, floor[..., None], pixel_coverage(distance - np.float32(_SCREW_RADIUS - 0.5), scale))
        _draw_hole(canvas, u, v, 5.0, scale)
        return
    # domed head with a glint
    brass = np.asarray((1.0, 0.84, 0.53), np.float32)
    dome = 184 + 62 * facing_light * smooth(distance / np.float32(_SCREW_RADIUS)) ** 2
    dome += 26 * np.exp(-((u + 4) ** 2 + (v + 5) ** 2) / 22)
    composite(canvas, dome[..., None] * brass, pixel_coverage(distance - np.float32(_SCREW_RADIUS), scale))
    # chamfer of the socket
    socket_distance = scene.hexagon(u, v, 6.0, turn)
    composite(
        canvas,
        (150 - 60 * facing_light)[..., None] * brass,
        pixel_coverage(socket_distance - np.float32(0.9), scale),
    )
    # depth of the socket
    depth = 30 + 34 * np.maximum(-facing_light, 0) * smooth(distance / 6)
    composite(
        canvas,
        depth[..., None] * np.asarray((1.0, 0.9, 0.75), np.float32),
        pixel_coverage(socket_distance, scale),
    )


@lru_cache(maxsize=8)
def _font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of a height in units of the plate."""
    return ImageFont.load_default(height * _PRINT_SCALE)


def _draw_print(canvas: Floats, part: _PlateVariation, flaw: Flaw | None) -> None:
    """Draw the label in three inks on the metal's grain; a misprint changes the printing plate."""
    zoom = _PRINT_SCALE
    width = round(2 * _LABEL_HALF[0] * zoom)
    height = round(2 * _LABEL_HALF[1] * zoom)
    inks = [Image.new("L", (width, height), 0) for _ in range(3)]
    blue, black, orange = (ImageDraw.Draw(ink) for ink in inks)
    blue.rounded_rectangle([0, 0, width - 1, 25 * zoom], 3 * zoom, fill=255)
    blue.text((width / 2, 12.8 * zoom), "FLAWSCOPE", fill=0, font=_font(15.5), anchor="mm")
    orange.rectangle([0, 28 * zoom, width - 1, 31 * zoom], fill=255)
    black.text((0, 43 * zoom), "FS-20", fill=255, font=_font(17), anchor="lm")
    black.text((width - 1, 39.5 * zoom), "24 V DC", fill=255, font=_font(9.5), anchor="rm")
    black.text((width - 1, 49 * zoom), "0.5 A  IP67", fill=255, font=_font(9.5), anchor="rm")
    black.text((0, 61.5 * zoom), "SN", fill=255, font=_font(11), anchor="lm")
    black.text((18 * zoom, 61.5 * zoom), part.serial, fill=255, font=_font(11), anchor="lm")
    orange.ellipse([width - 13 * zoom, 56 * zoom, width - 2 * zoom, 67 * zoom], fill=255)
    # bar code: six bits for each digit, then one wide bar
    bits = "".join(f"{int(digit) * 37 % 64:06b}1" for digit in "7" + part.serial + "3")
    step = width / (2 * len(bits))
    for index, bit in enumerate(bits):
        left = 2 * index * step
        bar_width = (1.45 if bit == "1" else 0.55) * step
        black.rectangle([left, 72 * zoom, left + bar_width, height - 1], fill=255)
    plate = Image.merge("RGB", inks)
    if flaw:
        plate = _misprint(plate, flaw)
    # Bring the printing plate into the label's window of the picture: turn it at three times the window's
    # resolution, then average
    frame = part.frame
    scale = part.frame.scale
    centre = frame.pixel(*_LABEL)
    half_height = (_LABEL_HALF[1] + 6) * scale
    top, left = (int(edge) for edge in np.asarray(centre) - half_height)
    left -= round((_LABEL_HALF[0] - _LABEL_HALF[1]) * scale)  # half of the width, instead of the height
    rows = math.ceil(2 * (_LABEL_HALF[1] + 6) * scale)
    columns = math.ceil(2 * (_LABEL_HALF[0] + 6) * scale)
    rows = min(rows, canvas.shape[0] - top)
    columns = min(columns, canvas.shape[1] - left)
    fine = 3
    # from a pixel of the enlarged window to the pixel of the plate: turned, enlarged, and moved
    scaled_cos = math.cos(frame.angle) * zoom / scale / fine
    scaled_sin = math.sin(frame.angle) * zoom / scale / fine
    middle_y = (centre[0] - top) * fine
    middle_x = (centre[1] - left) * fine
    x_offset = width / 2 - scaled_cos * middle_x - scaled_sin * middle_y
    y_offset = height / 2 + scaled_sin * middle_x - scaled_cos * middle_y
    affine = (scaled_cos, scaled_sin, x_offset, -scaled_sin, scaled_cos, y_offset)
    turned = plate.transform(
        (columns * fine, rows * fine), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    ).reduce(fine)
    coverage = np.asarray(turned, np.float32) / 255
    window = (slice(top, top + rows), slice(left, left + columns))
    grain = part.grain[window]
    for channel, ink in enumerate(_INKS):
        composite(canvas[window], ink + 3 * grain[..., None], 0.93 * coverage[..., channel])


def _misprint(plate: Image.Image, flaw: Flaw) -> Image.Image:
    """Return the printing plate with a fault: missing ink, ink dragged along, or a part printed twice."""
    rng = flaw.rng
    zoom = _PRINT_SCALE
    ink = np.asarray(plate, np.float32)
    inked_pixels = np.flatnonzero(ink.max(-1) > 128)
    row, column = divmod(int(inked_pixels[rng.integers(len(inked_pixels))]), ink.shape[1])
    y, x = np.ogrid[: ink.shape[0], : ink.shape[1]]
    radius = flaw.grade(22, 6.5) * zoom
    distance = np.hypot((x - column) / 1.5, y - row) / radius
    distance = distance * np.exp(0.5 * fractal_noise(ink.shape[:2], (6, 6), rng, octaves=4))
    inside = smooth((1.1 - distance) / 0.2)[..., None]
    fault = ("void", "smear", "double")[int(rng.integers(3))]
    if fault == "void":
        faulty_ink = ink * (1 - inside * min(1.0, flaw.grade(1.0, 0.75)))
    elif fault == "smear":
        drag = round(flaw.grade(14, 5) * zoom)
        weights = np.linspace(1, 0, 6)
        trail = np.max([weight * np.roll(ink, round(drag * (1 - weight)), 1) for weight in weights], 0)
        faulty_ink = np.maximum(ink, inside * 0.85 * trail)
    else:
        offset = round(flaw.grade(4.5, 2.4) * zoom)
        faulty_ink = np.maximum(ink, inside * 0.9 * np.roll(ink, (offset, offset), (0, 1)))
    return Image.fromarray(np.clip(faulty_ink, 0, 255).astype(np.uint8))


def _choose_missing(flaw: Flaw) -> str:
    """Return the name of the part to leave out, by the difficulty: a missing screw is easiest to see."""
    if flaw.difficulty < 0.55:
        return f"screw{int(flaw.rng.integers(len(_SCREWS)))}"
    if flaw.difficulty < 0.8:
        return f"tapped{int(flaw.rng.integers(len(_TAPPED_HOLES)))}"
    return f"hole{int(flaw.rng.integers(len(_BOLT_HOLES)))}"


def _draw_flaw(canvas: Floats, part: _PlateVariation, flaw: Flaw) -> None:
    """Draw a flaw on the plate's surface, in place; other flaws are drawn with their parts (`render`)."""
    scale = part.frame.scale
    rng = flaw.rng
    u = part.frame.u
    v = part.frame.v
    is_bore = np.hypot(u - np.float32(_BOSS[0]), v - np.float32(_BOSS[1])) <= _BORE + 4
    surface = np.asarray((rounded_box(u, v, _HALF, _CORNER) < -9) & ~is_bore)  # where flaws may lie
    if flaw.name in _SURFACE_FLAWS:
        _SURFACE_FLAWS[flaw.name](canvas, surface, flaw, scale)
    elif flaw.name == "stain":
        scene.draw_stain(canvas, surface, flaw, scale, _TINTS)
    elif flaw.name == "crack":  # begins at the bore or at the rim
        heading = float(rng.uniform(0, 2 * np.pi))
        if rng.random() < 0.5:
            reach = _BORE + 1
            start = (_BOSS[0] + reach * math.cos(heading), _BOSS[1] + reach * math.sin(heading))
        else:
            side = float(rng.choice([-1.0, 1.0]))
            start = (float(rng.uniform(-90, 90)), side * (_HALF[1] - 2))
            heading = -side * math.pi / 2 + float(rng.normal(0, 0.3))
        scene.draw_crack(canvas, part.frame.pixel(*start), heading + part.frame.angle, flaw, scale)
