"""What a drawn board is made of: which parts lie where, and how the tracks run. The same for every picture.

Everything lies on a grid of `GRID` pixels. Lengths are in pixels and do not grow with the picture: a larger
board holds more parts. Points are (row, column).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]

GRID = 16  # pixels between neighbouring tracks
EDGE = 40  # pixels from the picture's edge to the first line of the grid
_SEED = 20
_BLOCKED, _BESIDE = -1, -2  # cells under a part; cells that a diagonal track passes at half a pitch
_STRAIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))
_VALUES = ("103", "472", "220", "101", "4R7", "154", "333", "680")
_CHIPS = ("FS2048", "LM358D", "74HC14", "AT328P", "MX25L", "TL074")


class Part(NamedTuple):
    """A part on the board: what `board_parts.draw_part` knows, its middle, quarter turns, what is printed."""

    kind: str
    row: int
    column: int
    turns: int = 0
    label: str = ""


class Pad(NamedTuple):
    """A pad with nothing on it, `height` x `width` pixels, round or not."""

    row: int
    column: int
    height: int
    width: int
    round: bool


class Design(NamedTuple):
    """A board of one size. `stretches` are the middles of track pieces [N, 4]: row, column and direction;
    `gaps` lie between two tracks that run side by side, [N, 4]: middle of the gap and direction of the
    tracks."""

    size: tuple[int, int]
    parts: tuple[Part, ...]
    tracks: tuple[tuple[Point, ...], ...]
    vias: tuple[Point, ...]
    pads: tuple[Pad, ...]
    words: tuple[tuple[int, int, str], ...]
    pours: tuple[tuple[int, int, int, int], ...]
    stretches: NDArray[np.int32]
    gaps: NDArray[np.int32]


class Footprint(NamedTuple):
    """Cells that a part takes up, and where its legs are: (cell, cell) from the middle, and outwards."""

    rows: int
    columns: int
    legs: tuple[tuple[Point, Point], ...] = ()


def _around(half: int, legs: int) -> tuple[tuple[Point, Point], ...]:
    """Legs on all four sides of a square, `half` cells from the middle."""
    along = range(-(legs // 2), legs - legs // 2)
    sides = [[((side * half, a), (side, 0)) for a in along] for side in (-1, 1)]
    sides += [[((a, side * half), (0, side)) for a in along] for side in (-1, 1)]
    return tuple(leg for side in sides for leg in side)


def _rows(half: int, legs: int, pitch: int) -> tuple[tuple[Point, Point], ...]:
    """Legs above and below."""
    first = -(legs - 1) * pitch // 2
    return tuple(((side * half, first + k * pitch), (side, 0)) for side in (-1, 1) for k in range(legs))


FOOTPRINTS: dict[str, Footprint] = {
    "qfp80": Footprint(29, 29, _around(14, 20)),
    "qfp48": Footprint(21, 21, _around(10, 12)),
    "soic14": Footprint(13, 23, _rows(6, 7, 3)),
    "soic8": Footprint(13, 14, _rows(6, 4, 3)),
    "sot23": Footprint(5, 5, (((2, -1), (1, 0)), ((2, 1), (1, 0)), ((-2, 0), (-1, 0)))),
    "electrolytic": Footprint(9, 9, (((0, -4), (0, -1)), ((0, 4), (0, 1)))),
    "crystal": Footprint(5, 13, (((0, -6), (0, -1)), ((0, 6), (0, 1)))),
    "resistor": Footprint(3, 5, (((0, -2), (0, -1)), ((0, 2), (0, 1)))),
    "capacitor": Footprint(3, 5, (((0, -2), (0, -1)), ((0, 2), (0, 1)))),
    "small_capacitor": Footprint(3, 3, (((0, -1), (0, -1)), ((0, 1), (0, 1)))),
    "led": Footprint(3, 5, (((0, -2), (0, -1)), ((0, 2), (0, 1)))),
    "hole": Footprint(7, 7),
}
# how many of each, for a megapixel; those that come first get the room
_DENSITY = {
    "qfp80": 0.35,
    "qfp48": 0.8,
    "soic14": 1.2,
    "electrolytic": 0.8,
    "crystal": 0.5,
    "soic8": 1.6,
    "sot23": 3,
    "rows": 9,
    "resistor": 10,
    "capacitor": 8,
    "small_capacitor": 12,
    "led": 2,
    "test_point": 10,
    "empty": 8,
    "word": 8,
    "bus": 9,
}


class _Grid:
    """The cells that are taken, while a design grows."""

    def __init__(self, rows: int, columns: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken = np.zeros((rows, columns), np.int32)
        self.vias: dict[Point, None] = {}
        self.tracks: list[list[Point]] = []
        self.starts: list[tuple[Point, Point]] = []
        self.nets = 0

    def free_place(self, rows: int, columns: int, margin: int = 1, tries: int = 40) -> Point | None:
        """The middle cell of a random free window, or None."""
        height, width = self.taken.shape
        rows, columns = rows + 2 * margin, columns + 2 * margin
        if rows > height or columns > width:
            return None
        for _ in range(tries):
            top = int(self.rng.integers(height - rows + 1))
            left = int(self.rng.integers(width - columns + 1))
            if not self.taken[top : top + rows, left : left + columns].any():
                return top + rows // 2, left + columns // 2
        return None

    def block(self, middle: Point, rows: int, columns: int) -> None:
        top, left = middle[0] - rows // 2, middle[1] - columns // 2
        self.taken[top : top + rows, left : left + columns] = _BLOCKED

    def free(self, cell: Point) -> bool:
        rows, columns = self.taken.shape
        return 0 <= cell[0] < rows and 0 <= cell[1] < columns and self.taken[cell] == 0

    def walk(self, start: Point, plan: list[tuple[Point, int]]) -> None:
        """A track from `start` along `plan`, pairs of a direction and a number of steps, until something is
        in the way; it ends in a via."""
        self.nets += 1
        path, beside = [start], []
        for (down, right), steps in plan:
            for _ in range(steps):
                row, column = path[-1]
                cell = (row + down, column + right)
                if not self.free(cell):
                    break
                if down and right:
                    corners = ((row + down, column), (row, column + right))
                    if any(self.taken[c] not in (0, _BESIDE) for c in corners):
                        break
                    beside += corners
                path.append(cell)
            else:
                continue
            break
        while len(path) > 2 and self._near_via(path[-1]):
            path.pop()
        if len(path) < 4:
            return
        for cell in path[1:]:
            self.taken[cell] = self.nets
        for cell in beside:
            if self.taken[cell] == 0:
                self.taken[cell] = _BESIDE
        self.tracks.append(path)
        self.vias[path[-1]] = None

    def _near_via(self, cell: Point) -> bool:
        return any((cell[0] + i, cell[1] + j) in self.vias for i in (-1, 0, 1) for j in (-1, 0, 1))


@lru_cache(maxsize=4)
def design(size: tuple[int, int]) -> Design:
    """The board of a picture of `size` (height, width): always the same."""
    rng = np.random.default_rng([_SEED, *size])
    rows, columns = ((side - 2 * EDGE) // GRID + 1 for side in size)
    grid = _Grid(rows, columns, rng)
    parts: list[Part] = []
    pads: list[Pad] = []
    words: list[tuple[int, int, str]] = []
    area = size[0] * size[1] / 1e6

    def pixel(cell: Point) -> Point:
        return EDGE + cell[0] * GRID, EDGE + cell[1] * GRID

    def put(kind: str, middle: Point, turns: int, label: str = "") -> None:
        shape = FOOTPRINTS[kind]
        across = turns % 2 == 1
        grid.block(middle, *((shape.columns, shape.rows) if across else shape[:2]))
        parts.append(Part(kind, *pixel(middle), turns, label))
        for (r, c), (down, right) in shape.legs:
            for _ in range(turns):
                (r, c), (down, right) = (-c, r), (-right, down)  # a quarter turn, counter-clockwise
            grid.starts.append(((middle[0] + r, middle[1] + c), (down, right)))

    def many(name: str) -> range:
        return range(max(1, round(_DENSITY[name] * area)))

    if min(size) >= 512:
        for corner in ((3, 3), (3, columns - 4), (rows - 4, 3), (rows - 4, columns - 4)):
            put("hole", corner, 0)
    for kind in ("qfp80", "qfp48", "soic14", "electrolytic", "crystal", "soic8", "sot23"):
        for _ in range(round(_DENSITY[kind] * area)) if kind == "qfp80" else many(kind):
            turns = int(rng.integers(4))
            shape = FOOTPRINTS[kind]
            across = (shape.columns, shape.rows) if turns % 2 else shape[:2]
            middle = grid.free_place(*across, margin=3 if kind != "sot23" else 1)
            if middle:
                put(kind, middle, turns, str(rng.choice(_CHIPS)))
    for _ in many("rows"):  # equal parts side by side
        kind = str(rng.choice(["resistor", "capacitor", "small_capacitor", "led"], p=[0.5, 0.25, 0.2, 0.05]))
        count, turns = int(rng.integers(3, 9)), int(rng.integers(2))
        length, wide = 4 * count - 1, FOOTPRINTS[kind].columns
        middle = grid.free_place(*((wide, length) if turns else (length, wide)), margin=2)
        if middle is None:
            continue
        label = str(rng.choice(_VALUES))
        for k in range(count):
            step = 4 * k + 1 - length // 2
            cell = (middle[0], middle[1] + step) if turns else (middle[0] + step, middle[1])
            put(kind, cell, turns, label)
    for _ in many("word"):
        text = f"{rng.choice(['R', 'C', 'U', 'J', 'TP', 'D'])}{int(rng.integers(1, 400))}"
        middle = grid.free_place(2, len(text) + 1, margin=0)
        if middle:
            grid.block(middle, 2, len(text) + 1)
            words.append((*pixel(middle), text))
    for _ in many("test_point"):
        middle = grid.free_place(3, 3, margin=0)
        if middle:
            grid.block(middle, 1, 1)
            across = int(rng.integers(5, 14)) * 2
            pads.append(Pad(*pixel(middle), across, across, True))
            grid.starts.append((middle, _STRAIGHT[int(rng.integers(4))]))
    for _ in many("empty"):  # a place for a part that this board does without
        middle = grid.free_place(3, 5)
        if middle:
            grid.block(middle, 3, 5)
            tall, wide = int(rng.integers(5, 18)) * 2, int(rng.integers(5, 13)) * 2
            for side in (-2, 2):
                cell = (middle[0], middle[1] + side)
                pads.append(Pad(*pixel(cell), tall, wide, False))
                grid.starts.append((cell, (0, side // 2)))
    for kind in ("resistor", "capacitor", "small_capacitor", "led"):
        for _ in many(kind):
            turns = int(rng.integers(4))
            middle = grid.free_place(5, 5, margin=0)
            if middle:
                put(kind, middle, turns, str(rng.choice(_VALUES)))
    _route(grid, len(many("bus")))
    pours = tuple(
        (int(t), int(left), int(t + h), int(left + w))
        for t, left, h, w in zip(
            rng.integers(0, size[0], len(many("sot23"))),
            rng.integers(0, size[1], len(many("sot23"))),
            rng.integers(200, 700, len(many("sot23"))),
            rng.integers(200, 700, len(many("sot23"))),
            strict=True,
        )
    )
    stretches, gaps = _places(grid)
    return Design(
        size,
        tuple(parts),
        tuple(tuple(pixel(cell) for cell in track) for track in grid.tracks),
        tuple(pixel(cell) for cell in grid.vias),
        tuple(pads),
        tuple(words),
        pours,
        stretches,
        gaps,
    )


def _route(grid: _Grid, buses: int) -> None:
    """Tracks from the legs outwards, neighbours side by side, and buses across what is free."""
    rng = grid.rng
    for k, (cell, out) in enumerate(grid.starts):
        nudge = np.random.default_rng([_SEED, cell[0] // 24, cell[1] // 24])  # neighbours bend the same way
        bend = -1 if nudge.random() < 0.5 else 1
        slant = (out[0] or bend, out[1] or bend)
        along = cell[1] if out[0] else cell[0]
        first = 2 + (-bend * along) % 24
        plan = [(out, first), (slant, int(nudge.integers(2, 14))), (out, int(rng.integers(3, 40)))]
        grid.walk(cell, plan if k % 5 else [(out, int(rng.integers(4, 30)))])
    for _ in range(buses):
        lanes, reach = int(rng.integers(3, 9)), int(rng.integers(16, 60))
        middle = grid.free_place(lanes, 6, margin=0)
        if middle is None:
            continue
        for lane in range(lanes):
            start = (middle[0] - lanes // 2 + lane, middle[1] - 3 + 2 * (lane % 2))
            if grid.free(start) and not grid._near_via(start):
                plan = [((0, 1), reach - lane), ((1, 1), 8), ((0, 1), int(rng.integers(4, 30)))]
                before = len(grid.tracks)
                grid.walk(start, plan)
                if len(grid.tracks) > before:
                    grid.taken[start] = grid.nets
                    grid.vias[start] = None


def _places(grid: _Grid) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`stretches` and `gaps` of a `Design`, in pixels."""
    stretches: list[tuple[int, int, int, int]] = []
    straight: dict[Point, tuple[int, Point]] = {}  # cell -> net and direction
    for net, track in enumerate(grid.tracks):
        for before, cell, after in zip(track[:-2], track[1:-1], track[2:], strict=True):
            direction = (after[0] - cell[0], after[1] - cell[1])
            if direction == (cell[0] - before[0], cell[1] - before[1]):
                stretches.append((*cell, *direction))
                straight[cell] = (net, (abs(direction[0]), abs(direction[1])))
    gaps = []
    for (row, column), (net, direction) in straight.items():
        if sum(direction) == 1:
            other = straight.get((row + direction[1], column + direction[0]))
            if other is not None and other[0] != net and other[1] == direction:
                gaps.append((2 * row + direction[1], 2 * column + direction[0], *direction))
    places = np.array(stretches, np.int32).reshape(-1, 4)
    places[:, :2] = EDGE + places[:, :2] * GRID
    between = np.array(gaps, np.int32).reshape(-1, 4)
    between[:, :2] = EDGE + between[:, :2] * (GRID // 2)
    return places, between
