"""Drawn products for the measurements, beside the program's own plate and fabric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import common
from common import Args
from flawscope.synthesis.demo import dataset, fabric, plate, scene
from flawscope.synthesis.demo.scene import UNITS, Flaw, Frame, composite, pixel_coverage, rounded_box
from flawscope.synthesis.masks import Mask
from flawscope.synthesis.textures import Floats, fractal_noise

DEFECTS = ("scratch", "stain", "speck", "dent")
Rng = np.random.Generator
Scene = tuple[Floats, Mask]  # light [H, W, 3], and where the product is [H, W]


def _ground(size: int, rng: Rng, colour: tuple[float, float, float], rough: float = 5) -> Floats:
    noise = fractal_noise((size, size), (4, 4), rng, octaves=5)
    return np.asarray(colour, np.float32) + rough * noise[..., None]


def _shape(canvas: Floats, distance: Floats, frame: Frame, colour: Any, shade: Any = 0.0) -> Mask:
    """Lays a shape of a signed distance [H, W] over the canvas; its mask."""
    light = np.asarray(colour, np.float32) + np.asarray(shade, np.float32)[..., None]
    composite(canvas, light, pixel_coverage(distance, frame.scale))
    return distance < -4


def _gear(size: int, rng: Rng) -> Scene:
    """A toothed wheel at any angle."""
    frame, canvas = scene.random_frame(size, rng, shift=10, degrees=180), _ground(size, rng, (70, 62, 54))
    radius, angle = np.hypot(frame.u, frame.v), np.arctan2(frame.v, frame.u)
    teeth = 118 + 9 * np.clip(3 * np.sin(18 * angle), -1, 1)
    body = _shape(canvas, radius - teeth, frame, (172, 160, 128), 10 * np.sin(radius / 3))
    _shape(canvas, radius - 34, frame, (46, 44, 42))
    _shape(canvas, rounded_box(frame.u - 34, frame.v, (9, 9), 2), frame, (46, 44, 42))
    return canvas, body & (radius > 48)


def _bottle(size: int, rng: Rng) -> Scene:
    """A bottle's mouth from above: rings of glass."""
    frame = scene.random_frame(size, rng, shift=5, degrees=180)
    canvas = _ground(size, rng, (222, 224, 220), 3)
    radius = np.hypot(frame.u, frame.v)
    for outer, colour in ((128, (52, 34, 20)), (108, (96, 58, 26)), (76, (30, 18, 12)), (62, (62, 40, 26))):
        wave = 12 * np.sin(radius / 9 + rng.uniform(-0.4, 0.4))
        wave = wave * (0.6 + 0.4 * np.sin(np.arctan2(frame.v, frame.u)))
        _shape(canvas, radius - outer, frame, colour, wave)
    return canvas, radius < 122


def _keys(size: int, rng: Rng) -> Scene:
    """Twelve caps with round marks in a dark frame."""
    frame, canvas = scene.random_frame(size, rng, shift=4, degrees=1.5), _ground(size, rng, (36, 38, 44), 3)
    body = np.zeros((size, size), np.bool_)
    for k in range(12):
        u = frame.u - (k % 4 - 1.5) * 70 + rng.uniform(-0.8, 0.8)
        v = frame.v - (k // 4 - 1) * 84 + rng.uniform(-0.8, 0.8)
        shade = rng.normal(0, 3) + 14 * np.clip(v / 34, -1, 1)
        body |= _shape(canvas, rounded_box(u, v, (29, 36), 7), frame, (204, 206, 198), shade)
        _shape(canvas, np.abs(np.hypot(u, v) - 4 - k) - 1.5, frame, (60, 90, 140))
    return canvas, body


def _cable(size: int, rng: Rng) -> Scene:
    """A cut cable: three wires of copper in their colours within a grey sheath, at any angle."""
    frame, canvas = scene.random_frame(size, rng, shift=6, degrees=180), _ground(size, rng, (150, 146, 140))
    body = _shape(canvas, np.hypot(frame.u, frame.v) - 138, frame, (208, 206, 202))
    for k, colour in enumerate(((54, 130, 60), (60, 84, 170), (120, 78, 52))):
        turn = 2 * np.pi * k / 3 + rng.normal(0, 0.03)
        radius = np.hypot(frame.u - 68 * np.cos(turn), frame.v - 68 * np.sin(turn))
        _shape(canvas, radius - 58, frame, colour)
        strands = 30 * fractal_noise((size, size), (36, 36), rng, octaves=1)
        _shape(canvas, radius - 36, frame, (186, 112, 70), strands)
    return canvas, body


def _wood(size: int, rng: Rng) -> Scene:
    """Boards of wood: long grain, which differs from one to the next."""
    frame = scene.random_frame(size, rng, shift=30, degrees=2)
    bend = fractal_noise((size, size), (2, 5), rng, octaves=3)
    grain = np.sin(frame.v / 4.5 + 9 * bend + rng.uniform(0, 6)) + 0.6 * np.sin(frame.v / 1.7 + 14 * bend)
    fine = fractal_noise((size, size), (96, 6), rng, octaves=2)
    canvas = np.asarray((166, 118, 74), np.float32) + (13 * grain + 16 * fine)[..., None]
    return np.asarray(canvas, np.float32), np.ones((size, size), np.bool_)


def _mesh(size: int, rng: Rng) -> Scene:
    """Welded wire over a dark ground."""
    frame, canvas = scene.random_frame(size, rng, shift=16, degrees=2), _ground(size, rng, (40, 42, 48))
    for across in (frame.u, frame.v):
        distance = np.abs(np.mod(across + rng.uniform(0, 32), 32) - 16) - 3.4
        _shape(canvas, distance, frame, (176, 178, 184), -9 * distance**2 / 3)
    return canvas, np.ones((size, size), np.bool_)


def _leather(size: int, rng: Rng) -> Scene:
    """Dyed leather: a fine relief without direction."""
    relief = fractal_noise((size, size), (34, 34), rng, octaves=2)
    slope = np.gradient(np.abs(relief))
    rough = 7 * fractal_noise((size, size), (3, 3), rng, octaves=2)
    shade = 190 * (slope[0] + slope[1]) * size / UNITS + rough
    canvas = np.asarray((126, 64, 40), np.float32) + np.clip(shade, -50, 50)[..., None]
    return np.asarray(canvas, np.float32), np.ones((size, size), np.bool_)


def _pill(size: int, rng: Rng) -> Scene:
    """A capsule of two colours, turned by up to 10 degrees."""
    frame, canvas = scene.random_frame(size, rng, shift=8, degrees=10), _ground(size, rng, (24, 26, 30), 2)
    distance = rounded_box(frame.u, frame.v, (120, 50), 49)
    round_off = 36 * np.sqrt(np.clip(1 - (frame.v / 52) ** 2, 0, 1)) - 20
    colour = np.where((frame.u < rng.normal(0, 1.5))[..., None], (214, 70, 52), (236, 226, 190))
    body = _shape(canvas, distance, frame, colour, round_off)
    return canvas, body


def _sheet(size: int, rng: Rng) -> Scene:
    """Brushed metal without any object: streaks that differ from one to the next."""
    frame = scene.random_frame(size, rng, shift=20, degrees=1)
    streaks = sum(fractal_noise((size, size), (n, 2), rng, octaves=1) for n in (24, 60, 110))
    shine = 22 * np.exp(-(((frame.v + rng.uniform(-30, 30)) / 90) ** 2))
    canvas = np.asarray((146, 150, 156), np.float32) + (9 * streaks + shine)[..., None]
    return np.asarray(canvas, np.float32), np.ones((size, size), np.bool_)


def _bearing(size: int, rng: Rng) -> Scene:
    """A ball bearing from above: eleven balls between two rings, at any angle."""
    frame, canvas = scene.random_frame(size, rng, shift=6, degrees=180), _ground(size, rng, (34, 36, 40), 3)
    radius = np.hypot(frame.u, frame.v)
    body = _shape(canvas, np.abs(radius - 84) - 44, frame, (96, 100, 108), 6 * np.cos(radius / 5))
    for ring in (116, 52):
        _shape(canvas, np.abs(radius - ring) - 10, frame, (178, 182, 190))
    for k in range(11):
        turn = 2 * np.pi * k / 11
        u, v = frame.u - 84 * np.cos(turn), frame.v - 84 * np.sin(turn)
        _shape(canvas, np.hypot(u, v) - 15, frame, (206, 210, 218), -40 * np.hypot(u + 4, v + 4) / 15)
    return canvas, body


def _circuit(size: int, rng: Rng) -> Scene:
    """A green board with tracks and pads, always of one layout."""
    frame, canvas = scene.random_frame(size, rng, shift=3, degrees=1), _ground(size, rng, (20, 78, 46), 4)
    layout = np.random.default_rng(5)
    for _ in range(16):
        u, v, long = *layout.uniform(-110, 110, 2), layout.uniform(20, 80)
        half = (long, 3) if layout.random() < 0.5 else (3, long)
        _shape(canvas, rounded_box(frame.u - u, frame.v - v, half, 2), frame, (60, 128, 84))
        for side in (-1, 1):
            pad = np.hypot(frame.u - u - side * half[0], frame.v - v - side * half[1]) - 8
            _shape(canvas, pad, frame, np.array((206, 184, 120)) + rng.normal(0, 4))
    return canvas, np.ones((size, size), np.bool_)


def _tile(size: int, rng: Rng) -> Scene:
    """A speckled ceramic tile, whose specks differ from one to the next."""
    frame, canvas = scene.random_frame(size, rng, shift=4, degrees=1), _ground(size, rng, (92, 88, 84))
    specks = fractal_noise((size, size), (64, 64), rng, octaves=2)
    body = rounded_box(frame.u, frame.v, (126, 126), 8)
    body = _shape(canvas, body, frame, (214, 206, 194), -46 * np.clip(specks - 0.6, 0, 1) * 3)
    return canvas, body


def _lid(size: int, rng: Rng) -> Scene:
    """A blue lid with ribs around it and a print of bars, turned by up to 5 degrees."""
    frame, canvas = scene.random_frame(size, rng, shift=6, degrees=5), _ground(size, rng, (214, 210, 204), 3)
    radius, angle = np.hypot(frame.u, frame.v), np.arctan2(frame.v, frame.u)
    body = _shape(canvas, radius - 124, frame, (46, 82, 158), 16 * np.sin(60 * angle) * (radius > 104))
    for k in range(6):
        bar = rounded_box(frame.u - 20 * (k - 2.5), frame.v, (6, 24 + 9 * (k % 3)), 2)
        _shape(canvas, bar, frame, (232, 232, 226))
    return canvas, body


def view(size: int, rng: Rng, number: int, tone: float, flaw: Flaw | None) -> Floats:
    """A part from one of its sides: its own outline and holes, in the tone of the whole part."""
    frame, canvas = scene.random_frame(size, rng, shift=4, degrees=2), _ground(size, rng, (52, 54, 58), 3)
    half = (128 - 14 * number, 70 + 13 * number)
    streaks = 7 * fractal_noise((size, size), (60, 3), rng, octaves=2)
    body = _shape(canvas, rounded_box(frame.u, frame.v, half, 14), frame, (160, 164, 170), tone + streaks)
    for k in range(number + 1):
        angle = 2 * np.pi * k / (number + 1)
        u, v = frame.u - 0.6 * half[0] * np.cos(angle), frame.v - 0.6 * half[1] * np.sin(angle)
        _shape(canvas, np.hypot(u, v) - 13, frame, (40, 40, 44))
    if flaw:
        scene.draw_scratch(canvas, body, flaw, frame.scale)
    return canvas


def _render(draw: Callable[[int, Rng], Scene], size: int, rng: Rng, flaw: Flaw | None) -> Floats:
    """A product as `dataset.Category` draws it."""
    canvas, body = draw(size, rng)
    scale = size / UNITS
    edge = size // 10
    inside = np.zeros_like(body)
    inside[edge:-edge, edge:-edge] = body[edge:-edge, edge:-edge]
    if flaw and flaw.name == "stain":
        scene.draw_stain(canvas, inside, flaw, scale, ((0.55, 0.42, 0.24), (0.4, 0.4, 0.44)))
    elif flaw:
        draw_flaw = {"scratch": scene.draw_scratch, "dent": scene.draw_dent, "speck": scene.draw_speck}
        draw_flaw[flaw.name](canvas, inside, flaw, scale)
    return canvas


def _recoloured(size: int, rng: Rng, flaw: Flaw | None) -> Floats:
    """The plate, painted: the same shapes in other colours."""
    return np.asarray(plate.render(size, rng, flaw) * (0.62, 0.86, 1.16), np.float32)


def _nearer(size: int, rng: Rng, flaw: Flaw | None) -> Floats:
    """The fabric at two thirds of the distance: the middle of a larger picture."""
    large = size * 3 // 2
    edge = (large - size) // 2
    return fabric.render(large, rng, flaw)[edge : edge + size, edge : edge + size]


SCENES = {
    "gear": _gear, "bottle": _bottle, "keys": _keys, "cable": _cable, "wood": _wood, "mesh": _mesh,
    "leather": _leather, "pill": _pill, "sheet": _sheet,
}  # fmt: skip
CATEGORIES = {name: dataset.Category(DEFECTS, partial(_render, draw)) for name, draw in SCENES.items()}
# products on which no limit of the program was chosen
HELD = {"bearing": _bearing, "circuit": _circuit, "tile": _tile, "lid": _lid}
CATEGORIES |= {name: dataset.Category(DEFECTS, partial(_render, draw)) for name, draw in HELD.items()}
CATEGORIES["painted"] = dataset.Category(plate.DEFECTS, _recoloured)
CATEGORIES["nearer"] = dataset.Category(fabric.DEFECTS, _nearer)


def product(root: Path, name: str, *, train: int, good: int, bad: int, size: int, seed: int) -> Path:
    """Folder of a drawn product in MVTec AD's layout, made once; `bad` defective pictures in all."""
    folder = root / name
    if folder.is_dir():
        return folder
    draft = root / f".{name}"
    dataset.CATEGORIES.update(CATEGORIES)
    counts = {"train": train, "good": good, "bad_per_kind": -(-bad // len(dataset.CATEGORIES[name].defects))}
    dataset.draw_dataset(draft, category=name, size=size, seed=seed, **counts)
    (draft / name).rename(folder)
    return folder


def products(args: Args, folder: Path, seed: int, **counts: int) -> Iterator[tuple[str, Path]]:
    """Real categories and drawn products, with their folders."""
    yield from common.category_folders(args)
    for name in filter(None, args.products.split(",")):
        yield name, product(folder, name, seed=seed, **counts)
