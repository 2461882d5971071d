"""What a drawn board is made of: which parts lie where, and how the tracks run. The same for every picture.

Everything lies on a grid of `GRID` pixels. Lengths are in pixels and do not grow with the picture: a larger
board holds more parts. Points are (row, column).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]

GRID = 16  # pixels between neighbouring tracks
EDGE = 40  # pixels from the picture's edge to the first line of the grid
_SEED = 20
_TRIES = 40  # places that are tried for a part
_SHORTEST = 4  # cells
_BLOCKED, _BESIDE = -1, -2  # cells under a part; cells that a diagonal track passes at half a pitch
_STRAIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))
_SMALL = ("resistor", "capacitor", "small_capacitor", "led")
_ROUND = (14, 10, 18, 8, 24, 12, 20, 16)  # pixels across
_SQUARE = ((26, 18), (12, 10), (18, 16), (34, 22), (16, 12), (9, 8), (22, 14))
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


class Word(NamedTuple):
    """Silk-screen print and its middle."""

    row: int
    column: int
    text: str


class Box(NamedTuple):
    """A rectangle; it may reach over the board's edge."""

    top: int
    left: int
    bottom: int
    right: int


class Design(NamedTuple):
    """A board of one size. `stretches [N, 4]` are points on straight tracks, `gaps [N, 4]` points halfway
    between two tracks that run side by side: row, column, and the tracks' direction (down, right)."""

    size: tuple[int, int]
    parts: tuple[Part, ...]
    tracks: tuple[tuple[Point, ...], ...]
    vias: tuple[Point, ...]
    pads: tuple[Pad, ...]
    words: tuple[Word, ...]
    pours: tuple[Box, ...]
    stretches: NDArray[np.int32]
    gaps: NDArray[np.int32]


class Footprint(NamedTuple):
    """Cells that a part takes up, and its legs: where they are from its middle, and the way out."""

    rows: int
    columns: int
    legs: tuple[tuple[Point, Point], ...] = ()

    def turned(self, turns: int) -> tuple[int, int]:
        """Rows and columns after this many quarter turns."""
        return (self.columns, self.rows) if turns % 2 else (self.rows, self.columns)


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
# how many of each a megapixel, where there is room
_DENSITY = {
    "qfp80": 0.3,
    "qfp48": 0.8,
    "soic14": 1.2,
    "electrolytic": 0.8,
    "crystal": 0.5,
    "soic8": 1.6,
    "sot23": 3,
    "early_bus": 4,
    "row": 9,
    "resistor": 10,
    "capacitor": 8,
    "small_capacitor": 12,
    "led": 2,
    "test_point": 10,
    "empty": 8,
    "word": 8,
    "bus": 7,
    "pour": 3,
}


class _Layout:
    """A design while it grows: the cells that are taken, and what lies there. Places are drawn at random and
    given up where nothing is free."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.rng = np.random.default_rng([_SEED, *size])
        rows, columns = ((side - 2 * EDGE) // GRID + 1 for side in size)
        self.taken = np.zeros((rows, columns), np.int32)
        self.parts: list[Part] = []
        self.pads: list[Pad] = []
        self.words: list[Word] = []
        self.starts: list[tuple[Point, Point]] = []  # cells that tracks begin at, and the way out
        self.tracks: list[list[Point]] = []
        self.vias: dict[Point, None] = {}

    def many(self, name: str) -> range:
        """How many of these the board has room for."""
        return range(round(_DENSITY[name] * self.size[0] * self.size[1] / 1e6 + 0.25))

    def choice(self, names: Sequence[str], p: Sequence[float] | None = None) -> str:
        return str(self.rng.choice(list(names), p=p))

    def find(self, rows: int, columns: int, margin: int = 0) -> Point | None:
        """The middle cell of a free window with free cells around it."""
        height, width = self.taken.shape
        rows, columns = rows + 2 * margin, columns + 2 * margin
        if rows > height or columns > width:
            return None
        for _ in range(_TRIES):
            top = int(self.rng.integers(height - rows + 1))
            left = int(self.rng.integers(width - columns + 1))
            if not self.taken[top : top + rows, left : left + columns].any():
                return top + rows // 2, left + columns // 2
        return None

    def block(self, middle: Point, rows: int, columns: int) -> None:
        top, left = middle[0] - rows // 2, middle[1] - columns // 2
        self.taken[top : top + rows, left : left + columns] = _BLOCKED

    def put(self, kind: str, middle: Point, turns: int, label: str = "") -> None:
        """A part on free cells; its legs become starts of tracks."""
        shape = FOOTPRINTS[kind]
        self.block(middle, *shape.turned(turns))
        self.parts.append(Part(kind, *pixel(middle), turns, label))
        for leg, out in shape.legs:
            for _ in range(turns):  # a quarter turn, counter-clockwise
                leg, out = (-leg[1], leg[0]), (-out[1], out[0])
            self.starts.append(((middle[0] + leg[0], middle[1] + leg[1]), out))

    def free(self, cell: Point) -> bool:
        rows, columns = self.taken.shape
        return 0 <= cell[0] < rows and 0 <= cell[1] < columns and self.taken[cell] == 0

    def near_via(self, cell: Point) -> bool:
        return any((cell[0] + i, cell[1] + j) in self.vias for i in (-1, 0, 1) for j in (-1, 0, 1))

    def walk(self, start: Point, plan: Sequence[tuple[Point, int]]) -> bool:
        """A track from `start` along `plan`, directions and numbers of steps, until something is in the way.
        It ends in a via. False where there is no room for one."""
        path, beside = [start], list[Point]()
        for (down, right), steps in plan:
            for _ in range(steps):
                row, column = path[-1]
                cell = (row + down, column + right)
                corners = ((row + down, column), (row, column + right)) if down and right else ()
                if not self.free(cell) or any(self.taken[c] not in (0, _BESIDE) for c in corners):
                    break
                beside += corners
                path.append(cell)
            else:
                continue
            break
        while len(path) > _SHORTEST and self.near_via(path[-1]):
            path.pop()
        if len(path) <= _SHORTEST:
            return False
        self.tracks.append(path)
        for cell in path[1:]:
            self.taken[cell] = len(self.tracks)
        for cell in beside:
            if self.taken[cell] == 0:
                self.taken[cell] = _BESIDE
        self.vias[path[-1]] = None
        return True


def pixel(cell: Point) -> Point:
    """Where a cell of the grid lies in the picture."""
    return EDGE + cell[0] * GRID, EDGE + cell[1] * GRID


@lru_cache(maxsize=4)
def design(size: tuple[int, int]) -> Design:
    """The board of a picture of `size` (height, width): always the same."""
    layout = _Layout(size)
    rows, columns = layout.taken.shape
    if min(rows, columns) > 24:
        for corner in ((3, 3), (3, columns - 4), (rows - 4, 3), (rows - 4, columns - 4)):
            layout.put("hole", corner, 0)
    _place_chips(layout)
    _route_buses(layout, layout.many("early_bus"))
    _place_rows(layout)
    _place_pads(layout)
    _place_words(layout)
    _place_small_parts(layout)
    _route_legs(layout)
    _route_buses(layout, layout.many("bus"))
    stretches, gaps = _places(layout.tracks)
    return Design(
        size,
        tuple(layout.parts),
        tuple(tuple(pixel(cell) for cell in track) for track in layout.tracks),
        tuple(pixel(cell) for cell in layout.vias),
        tuple(layout.pads),
        tuple(layout.words),
        _pours(layout),
        stretches,
        gaps,
    )


def _place_chips(layout: _Layout) -> None:
    for kind in ("qfp80", "qfp48", "soic14", "electrolytic", "crystal", "soic8", "sot23"):
        for _ in layout.many(kind):
            turns = int(layout.rng.integers(4))
            middle = layout.find(*FOOTPRINTS[kind].turned(turns), margin=1 if kind == "sot23" else 3)
            if middle:
                layout.put(kind, middle, turns, layout.choice(_CHIPS))


def _place_rows(layout: _Layout) -> None:
    """Equal parts side by side."""
    for _ in layout.many("row"):
        kind = layout.choice(_SMALL, p=(0.5, 0.25, 0.2, 0.05))
        count, turns = int(layout.rng.integers(3, 9)), int(layout.rng.integers(2))
        length, wide = 4 * count - 1, FOOTPRINTS[kind].columns
        middle = layout.find(*((wide, length) if turns else (length, wide)), margin=2)
        label = layout.choice(_VALUES)
        if middle is None:
            continue
        for k in range(count):
            step = 4 * k + 1 - length // 2
            cell = (middle[0], middle[1] + step) if turns else (middle[0] + step, middle[1])
            layout.put(kind, cell, turns, label)


def _place_words(layout: _Layout) -> None:
    for _ in layout.many("word"):
        text = f"{layout.choice(('R', 'C', 'U', 'J', 'TP', 'D'))}{int(layout.rng.integers(1, 400))}"
        middle = layout.find(2, len(text) + 1)
        if middle:
            layout.block(middle, 2, len(text) + 1)
            layout.words.append(Word(*pixel(middle), text))


def _place_pads(layout: _Layout) -> None:
    """Places to measure at, and places for parts that this board does without."""
    for k in layout.many("test_point"):
        middle = layout.find(3, 3)
        if middle:
            layout.block(middle, 1, 1)
            across = _ROUND[k % len(_ROUND)]
            layout.pads.append(Pad(*pixel(middle), across, across, True))
            layout.starts.append((middle, _STRAIGHT[int(layout.rng.integers(4))]))
    for k in layout.many("empty"):
        middle = layout.find(3, 5, margin=1)
        if middle:
            layout.block(middle, 3, 5)
            tall, wide = _SQUARE[k % len(_SQUARE)]
            for side in (-2, 2):
                cell = (middle[0], middle[1] + side)
                layout.pads.append(Pad(*pixel(cell), tall, wide, False))
                layout.starts.append((cell, (0, side // 2)))


def _place_small_parts(layout: _Layout) -> None:
    for kind in _SMALL:
        for _ in layout.many(kind):
            turns = int(layout.rng.integers(4))
            middle = layout.find(5, 5)
            if middle:
                layout.put(kind, middle, turns, layout.choice(_VALUES))


def _route_legs(layout: _Layout) -> None:
    """Tracks from the legs outwards; those of one side of a chip bend one after the other and run on side by
    side."""
    for k, (cell, out) in enumerate(layout.starts):
        near = np.random.default_rng([_SEED, cell[0] // 24, cell[1] // 24])  # neighbours bend the same way
        bend = -1 if near.random() < 0.5 else 1
        slant = (out[0] or bend, out[1] or bend)
        along = cell[1] if out[0] else cell[0]
        first = 2 + (-bend * along) % 24
        last = int(layout.rng.integers(3, 40))
        plan = [(out, first), (slant, int(near.integers(2, 14))), (out, last)]
        layout.walk(cell, plan if k % 5 else [(out, last)])


def _route_buses(layout: _Layout, count: range) -> None:
    """Tracks side by side across what is still free."""
    for _ in count:
        lanes, reach = int(layout.rng.integers(3, 9)), int(layout.rng.integers(16, 60))
        middle = layout.find(lanes, 6)
        if middle is None:
            continue
        for lane in range(lanes):
            start = (middle[0] - lanes // 2 + lane, middle[1] - 3 + 2 * (lane % 2))
            if layout.near_via(start) or not layout.free(start):
                continue
            last = int(layout.rng.integers(4, 30))
            if layout.walk(start, [((0, 1), reach - lane), ((1, 1), 8), ((0, 1), last)]):
                layout.taken[start] = len(layout.tracks)
                layout.vias[start] = None


def _pours(layout: _Layout) -> tuple[Box, ...]:
    """Areas of copper, which overlap."""
    boxes = []
    for _ in layout.many("pour"):
        top, left = (int(layout.rng.integers(0, side)) for side in layout.size)
        height, width = (int(layout.rng.integers(200, 700)) for _ in range(2))
        boxes.append(Box(top, left, top + height, left + width))
    return tuple(boxes)


def _places(tracks: Sequence[Sequence[Point]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`stretches` and `gaps` of a `Design`."""
    stretches: list[tuple[int, int, int, int]] = []
    gaps: list[tuple[int, int, int, int]] = []
    straight: dict[Point, tuple[int, Point]] = {}  # cell -> track and direction
    for number, track in enumerate(tracks):
        for before, cell, after in zip(track[1:-3], track[2:-2], track[3:-1], strict=True):  # not at its ends
            direction = (after[0] - cell[0], after[1] - cell[1])
            if direction == (cell[0] - before[0], cell[1] - before[1]):
                stretches.append((*pixel(cell), *direction))
                straight[cell] = (number, (abs(direction[0]), abs(direction[1])))
    for (row, column), (number, (down, right)) in straight.items():
        other = straight.get((row + right, column + down))
        if down + right == 1 and other is not None and other[0] != number and other[1] == (down, right):
            y, x = pixel((row, column))
            gaps.append((y + right * GRID // 2, x + down * GRID // 2, down, right))
    return np.array(stretches, np.int32).reshape(-1, 4), np.array(gaps, np.int32).reshape(-1, 4)
