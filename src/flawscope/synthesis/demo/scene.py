"""Drawing with light: coordinates, shapes, and flaws for all generated categories.

A canvas is `[H, W, 3]` float32 in 0..255. Lengths are in units, which are a 320th of the picture's side: a
scene looks the same at any size. Shapes are signed distances in units (negative inside): edges are then
smooth without a larger drawing that is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.synthesis.masks import Mask, draw_centre, ellipse, line_coverage
from flawscope.synthesis.textures import Floats, fractal_noise

Colour = tuple[float, float, float]
UNITS = 320
LIGHT = (-0.6, -0.8)  # direction (right, down) from which the light comes


class Flaw(NamedTuple):
    """Defect to draw.

    Attributes:
        name: Name of the defect.
        difficulty: 0 (easy to see) to 1 (hard to see).
        rng: Generator of all its details.
    """

    name: str
    difficulty: float
    rng: np.random.Generator

    def grade(self, easy: float, hard: float) -> float:
        """Return a value between `easy` and `hard` by the difficulty, on a geometric scale.

        It is random by up to 8 % either way.
        """
        value = easy * (hard / easy) ** self.difficulty
        return float(value * self.rng.uniform(0.92, 1.08))

    def choose(self, choices: Sequence[Colour]) -> Colour:
        """Return a colour chosen at random."""
        return choices[int(self.rng.integers(len(choices)))]


class Frame(NamedTuple):
    """Coordinates of an object in a picture.

    Attributes:
        u: [H, W], distance to the right of the object's centre, in units.
        v: [H, W], distance below the object's centre, in units.
        scale: Pixels per unit.
        angle: Angle of the object, in radians.
        shift: Shift (right, down) of the object from the picture's centre, in units.
    """

    u: Floats
    v: Floats
    scale: float
    angle: float
    shift: tuple[float, float]

    def pixel(self, u: float, v: float) -> tuple[float, float]:
        """Return the pixel (row, column) of a point of the frame."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x = cos * u - sin * v + UNITS / 2 + self.shift[0]
        y = sin * u + cos * v + UNITS / 2 + self.shift[1]
        return y * self.scale, x * self.scale


def random_frame(size: int, rng: np.random.Generator, *, shift: float, degrees: float) -> Frame:
    """Return a frame moved by up to `shift` units and turned by up to `degrees` either way."""
    dx, dy = (float(d) for d in rng.uniform(-shift, shift, 2))
    angle = math.radians(float(rng.uniform(-degrees, degrees)))
    scale = size / UNITS
    y, x = np.ogrid[:size, :size]
    right = ((x + 0.5) / scale - UNITS / 2 - dx).astype(np.float32)
    down = ((y + 0.5) / scale - UNITS / 2 - dy).astype(np.float32)
    cos = np.float32(math.cos(angle))
    sin = np.float32(math.sin(angle))
    u = cos * right + sin * down
    v = cos * down - sin * right
    return Frame(u=u, v=v, scale=scale, angle=angle, shift=(dx, dy))


def window_around(
    canvas: Floats, frame: Frame, centre: tuple[float, float], reach: float
) -> tuple[Floats, Floats, Floats]:
    """Return a window of the canvas around a point, for small parts, and its distances `u` and `v`.

    The window ends `reach` units from the point. It shares the memory of `canvas`: a change in it changes the
    canvas. `u` and `v` are the frame's coordinates, counted from the point.
    """
    row, column = frame.pixel(*centre)
    half = reach * frame.scale + 2
    rows = slice(max(0, int(row - half)), max(0, int(row + half) + 1))
    columns = slice(max(0, int(column - half)), max(0, int(column + half) + 1))
    u, v = frame.u[rows, columns], frame.v[rows, columns]
    return canvas[rows, columns], u - np.float32(centre[0]), v - np.float32(centre[1])


def rounded_box(u: Floats, v: Floats, half: tuple[float, float], radius: float) -> Floats:
    """Return the signed distance from a rectangle with round corners.

    Args:
        u: Distances to the right of the rectangle's centre.
        v: Distances below the rectangle's centre.
        half: Half of the width and of the height.
        radius: Radius of the corners.
    """
    # distances from the inner rectangle, which has the centres of the corners' circles as its corners
    inner_u = np.abs(u) - (half[0] - radius)
    inner_v = np.abs(v) - (half[1] - radius)
    outside = np.hypot(np.maximum(inner_u, 0), np.maximum(inner_v, 0))
    return np.asarray(outside + np.minimum(np.maximum(inner_u, inner_v), 0) - radius, np.float32)


def hexagon(u: Floats, v: Floats, radius: float, angle: float) -> Floats:
    """Return the signed distance from a hexagon of inner `radius`, turned by `angle`; exact on the sides."""
    turn = np.arctan2(v, u) - angle
    turn = np.mod(turn, np.pi / 3) - np.pi / 6
    return np.asarray(np.hypot(u, v) * np.cos(turn) - radius, np.float32)


def pixel_coverage(distance: NDArray[np.floating], scale: float) -> Floats:
    """Return the share of each pixel that a shape covers, 0..1, from its signed distance in units."""
    return np.asarray(np.clip(0.5 - distance * np.float32(scale), 0, 1), np.float32)


def smooth(value: NDArray[np.floating]) -> Floats:
    """Return a smooth step over 0..1."""
    value = np.clip(value, 0, 1)
    return np.asarray(value * value * (3 - 2 * value), np.float32)


def light_on_slope(u: Floats, v: Floats) -> Floats:
    """Return the light, -1..1, on a slope that faces away from the origin."""
    radius = np.maximum(np.hypot(u, v), 1e-3)
    return np.asarray((u * LIGHT[0] + v * LIGHT[1]) / radius, np.float32)


def composite(canvas: Floats, colour: NDArray[np.floating], opacity: NDArray[np.floating]) -> None:
    """Lay a colour (`[3]` or `[H, W, 3]`) over the canvas, in place."""
    canvas += opacity[..., None] * (np.asarray(colour, np.float32) - canvas)


def simulate_sensor(canvas: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the canvas as a camera sees it, in uint8.

    Brightness varies by up to 5 %. Light is uneven and falls off towards the corners, and shot noise and read
    noise are added.
    """
    height, width = canvas.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    tilt_x, tilt_y = rng.normal(0, 0.02, 2)
    brightness = float(rng.uniform(0.95, 1.05))
    unevenness = 1 + tilt_x * x + tilt_y * y
    falloff = 1 - 0.09 * (x * x + y * y) / 2
    light = brightness * unevenness * falloff
    exposed = canvas * light[..., None].astype(np.float32)
    grain = rng.standard_normal(canvas.shape, np.float32)
    grain += rng.standard_normal((height, width, 1), np.float32)  # in all channels: noise of the brightness
    exposed += grain * (0.5 + 0.06 * np.sqrt(np.maximum(exposed, 0)))
    return np.asarray(np.clip(np.rint(exposed), 0, 255), np.uint8)


def offsets_from(canvas: Floats, centre: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return the distances `x [1, W]` and `y [H, 1]` of pixels from a pixel (row, column)."""
    y, x = np.ogrid[: canvas.shape[0], : canvas.shape[1]]
    return (x - centre[1]).astype(np.float32), (y - centre[0]).astype(np.float32)


def _path_along(centre: tuple[int, int], heading: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Return a path `[N, 2]` in the directions `heading [N]`, with the pixel `centre` at its middle."""
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1) * length / len(heading), 0)
    return np.asarray(path + (np.asarray(centre) + 0.5 - path[len(path) // 2]), np.float64)


def draw_stain(canvas: Floats, allowed: Mask, flaw: Flaw, scale: float, tints: Sequence[Colour]) -> None:
    """Draw a dried stain, in place: a soft tint, darker at its edge, through which the surface is visible."""
    rng = flaw.rng
    tint = flaw.choose(tints)
    x, y = offsets_from(canvas, draw_centre(allowed, rng))
    radius = flaw.grade(36, 13) * scale
    angle = rng.uniform(0, np.pi)
    aspect = math.exp(rng.uniform(0, 0.35))
    distance = np.hypot(*ellipse(x, y, angle, aspect)) / np.float32(radius)
    distance = distance * np.exp(0.55 * fractal_noise(distance.shape, (8, 8), rng, octaves=3))
    strength = smooth((1.05 - distance) / 0.3) * (0.75 + 0.4 * np.exp(-(((distance - 0.86) / 0.09) ** 2)))
    strength *= (1 + 0.25 * fractal_noise(distance.shape, (12, 12), rng, octaves=2)) * flaw.grade(0.6, 0.17)
    canvas *= 1 - strength[..., None] * (1 - np.asarray(tint, np.float32))


def draw_scratch(canvas: Floats, allowed: Mask, flaw: Flaw, scale: float) -> None:
    """Draw a groove, in place: a bright flank and a dark one beside it, thin at both ends."""
    rng = flaw.rng
    centre = draw_centre(allowed, rng)
    length = flaw.grade(130, 45) * scale
    angle = rng.uniform(0, 2 * np.pi)
    along = np.linspace(-0.5, 0.5, 40)
    path = _path_along(centre, angle + rng.normal(0, 0.35) * along, length)
    widths = flaw.grade(2.0, 1.0) * scale * (1 - 0.75 * np.abs(2 * along) ** 3)
    bright = line_coverage(allowed.shape, path, widths)
    normal = np.asarray([np.cos(angle), -np.sin(angle)]) * (0.9 * widths.max())
    # the dark flank lies on the side of the light, because this flank slopes down, away from the light
    normal *= 1 if normal @ (LIGHT[1], LIGHT[0]) > 0 else -1
    dark = line_coverage(allowed.shape, path + normal, 0.9 * widths)
    contrast = flaw.grade(85, 34)
    canvas += ((contrast * bright - 0.9 * contrast * dark * (1 - bright)) * allowed)[..., None]


def draw_dent(canvas: Floats, allowed: Mask, flaw: Flaw, scale: float) -> None:
    """Draw a dimple, in place: its wall towards the light is in shade, the opposite wall shines."""
    rng = flaw.rng
    x, y = offsets_from(canvas, draw_centre(allowed, rng))
    sigma = flaw.grade(9, 3.6) * scale
    along, across = ellipse(x, y, rng.uniform(0, np.pi), math.exp(rng.uniform(0, 0.3)))
    bowl = np.exp(-0.5 * (along**2 + across**2) / sigma**2)
    wall = -(x * LIGHT[0] + y * LIGHT[1]) / sigma * bowl * math.exp(0.5)  # light on the slope, about -1..1
    shine = np.maximum(wall, 0) ** 3
    amplitude = flaw.grade(95, 32)
    canvas += ((amplitude * (0.8 * wall + 0.35 * shine) - 0.15 * amplitude * bowl) * allowed)[..., None]


def draw_speck(canvas: Floats, allowed: Mask, flaw: Flaw, scale: float) -> None:
    """Draw a foreign particle with its shadow, in place."""
    rng = flaw.rng
    centre = draw_centre(allowed, rng)
    radius = flaw.grade(8.5, 2.4) * scale
    ripple = np.exp(0.6 * fractal_noise((48, 48), (4, 4), rng, octaves=3))
    turn = rng.uniform(0, np.pi)
    aspect = math.exp(rng.uniform(0.1, 0.6))
    colours = ((38, 30, 26), (92, 54, 30), (150, 44, 36), (236, 232, 222), (46, 84, 60))
    colour = np.asarray(flaw.choose(colours), np.float32)
    # offset away from the light in radii, ink, opacity, and width of the edge in radii (0: one pixel)
    shadow = (0.45, np.zeros(3), 0.4, 0.8)
    particle = (0.0, colour, 1.0, 0.0)
    for offset, ink, opacity, edge_width in (shadow, particle):
        x, y = offsets_from(canvas, centre)
        x = x + offset * radius * LIGHT[0]
        y = y + offset * radius * LIGHT[1]
        angle = np.arctan2(y, x)
        direction = ((angle + np.pi) * 7.6).astype(int)  # -π..π as a row of `ripple`, 0..47
        uneven = ripple[direction, 24]  # a line of the noise, bent into a circle
        distance = np.hypot(*ellipse(x, y, turn, aspect)) * uneven
        edge = pixel_coverage(distance - np.float32(radius), 1 / (1 + edge_width * radius))
        facet = 1 + 0.5 * light_on_slope(x, y) * smooth(distance / np.float32(radius))
        composite(canvas, facet[..., None] * ink.astype(np.float32), opacity * edge)


def draw_crack(canvas: Floats, start: tuple[float, float], heading: float, flaw: Flaw, scale: float) -> None:
    """Draw a jagged break with branches, in place. It begins at `start` (row, column) and becomes thinner."""
    rng = flaw.rng
    length = flaw.grade(78, 34) * scale
    width = flaw.grade(2.6, 1.3) * scale
    depth = flaw.grade(150, 55)
    rim_contrast = flaw.grade(34, 10)

    def jagged_path(origin: NDArray[np.float64], angle: float, reach: float) -> NDArray[np.float64]:
        """Return the points [N, 2] (row, column) of a path of about `reach` pixels."""
        count = max(4, int(reach / (4.5 * scale)))
        directions = angle + np.cumsum(rng.normal(0, 0.16, count)) + rng.normal(0, 0.5, count)
        steps = np.stack([np.sin(directions), np.cos(directions)], 1) * (reach / count)
        return np.vstack([origin, origin + np.cumsum(steps, 0)])

    trunk = jagged_path(np.asarray(start, np.float64), heading, length)
    coverage = line_coverage(canvas.shape[:2], trunk, width * np.linspace(1, 0.35, len(trunk)))
    for _ in range(int(rng.integers(1, 4))):
        root = trunk[int(rng.integers(len(trunk) // 4, len(trunk) - 1))]
        side = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0))
        branch = jagged_path(root, heading + side, length * float(rng.uniform(0.15, 0.4)))
        branch_widths = 0.6 * width * np.linspace(1, 0.3, len(branch))
        coverage = np.maximum(coverage, line_coverage(canvas.shape[:2], branch, branch_widths))
    # a bright rim on the side away from the light
    step = max(1, round(scale))
    rim = np.roll(coverage, (step, step), (0, 1)) * (1 - coverage)
    canvas += (rim_contrast * rim - depth * coverage)[..., None]
    np.maximum(canvas, 8, out=canvas)


def draw_thread(canvas: Floats, allowed: Mask, flaw: Flaw, scale: float, colours: Sequence[Colour]) -> None:
    """Draw a loose piece of yarn on the surface with its shadow, in place."""
    rng = flaw.rng
    colour = flaw.choose(colours)
    centre = draw_centre(allowed, rng)
    length = flaw.grade(150, 42) * scale
    width = flaw.grade(4.2, 1.9) * scale
    along = np.linspace(0, 1, 60)
    amplitudes = rng.normal(0, 1.6, 3)
    start_heading = rng.uniform(0, 2 * np.pi)
    bends = np.zeros(60)
    for i, amplitude in enumerate(amplitudes):
        bends += amplitude * np.sin((i + 1.5) * along + rng.uniform(0, 6))
    path = _path_along(centre, start_heading + bends, length)
    widths = np.full(60, width)
    shadow = line_coverage(allowed.shape, path + 0.7 * width, 1.3 * widths)
    canvas *= 1 - 0.45 * shadow[..., None]
    composite(canvas, np.asarray(colour) * 0.72, line_coverage(allowed.shape, path, widths))
    composite(canvas, np.asarray(colour), line_coverage(allowed.shape, path - 0.15 * width, 0.55 * widths))
