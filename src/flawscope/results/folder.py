"""Pictures on disk: overlays, maps, masks, a contact sheet and an animation of what a predictor found."""

from __future__ import annotations

import json
import os
from bisect import bisect
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets import Item
from flawscope.datasets.files import natural_key
from flawscope.datasets.masks import union
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import decode
from flawscope.results import animation, drawing
from flawscope.results.prediction import Prediction

MAX_SIDE = 2048  # overlays of larger pictures are scaled down; maps and masks are at the network's size

# The contact sheet
PANEL = 150  # pixels that a picture, its overlay or its ground truth is high
BOX = (PANEL, PANEL * 3 // 2)  # wide pictures may be wider
GAP = 4  # between them
ROWS = 14  # at most, all kinds together; further kinds are named, not shown
ROWS_PER_KIND = 4
WIDTH = 1440  # pixels that a row of examples may take
MARGIN = 16  # between examples, roomily
KEPT = 8  # highest and lowest scores of a kind that are kept: enough for the sheet, whatever the number

# How maps are written: the file's suffix, and what a value in it means
MAPS = {
    "png16": (".png", "low + (high - low) * pixel / 65535; what is outside is at the nearer end"),
    "tiff": (".tiff", "pixel, 32-bit float"),
    "npy": (".npy", "element, 32-bit float"),
}

LEGEND = (
    "picture | heat map, outlined where it is above the threshold | ground truth, if known\n"
    "of each kind the pictures with the highest and the lowest scores"
)

Pixels = NDArray[np.uint8]


class Example(NamedTuple):
    """One picture on the contact sheet: its panels side by side, and what is said about it."""

    name: str
    score: float
    strip: Pixels
    verdict: str
    is_anomalous: bool
    shot: animation.Shot | None = None  # for the animation, while the picture is among those it shows


@dataclass
class Kind:
    """The pictures of one kind; the sheet shows those with the highest and the lowest scores."""

    expected: bool | None = None  # whether they are defective; None: nobody said
    count: int = 0
    anomalous: int = 0
    examples: list[Example] = field(default_factory=list)  # by rising score

    def wants(self, score: float) -> bool:
        """Whether the sheet would show it, as far as one can tell by now."""
        return len(self.examples) < 2 * KEPT or self._place(score) != KEPT

    def add(self, example: Example) -> None:
        self.examples.insert(self._place(example.score), example)
        if len(self.examples) > 2 * KEPT:
            del self.examples[KEPT]
        # Who is no longer among the extremes never returns to them. Shots are large: let theirs go.
        shown = animation.SHOTS // 2
        for k in range(shown, len(self.examples) - shown):
            self.examples[k] = self.examples[k]._replace(shot=None)

    def extremes(self, count: int) -> list[Example]:
        """`count` of them, highest score first: one half the highest, the other the lowest."""
        falling = self.examples[::-1]
        if len(falling) <= count:
            return falling
        low = count // 2
        return falling[: count - low] + falling[len(falling) - low :]

    def words(self) -> str:
        """How many there are, and what became of them."""
        if self.expected is None:
            return f"{self.count} pictures"
        return f"{self.anomalous} of {self.count} called anomalous"

    def _place(self, score: float) -> int:
        return bisect(self.examples, score, key=lambda example: example.score)


@dataclass
class Pictures:
    """Writes under `out`: overlays/, maps/ and masks/, in the folders' own names, and collects a contact
    sheet and an animation. Memory does not grow with the number of pictures.

    maps: one of `MAPS`, or none. animation: gif, webp or none.
    """

    out: Path
    root: Path | None = None
    maps: str = "png16"
    animation: str = "none"
    kinds: dict[str, Kind] = field(default_factory=dict)
    scale: tuple[float, float, float] | None = None  # both ends of the colours and the mask's threshold
    owners: dict[str, Path] = field(default_factory=dict)  # result name -> picture

    def take(self, item: Item, prediction: Prediction) -> None:
        """One evaluated picture."""
        self.add(item.path, prediction, item.kind, item.masks, expected=item.anomalous)

    def add(
        self,
        path: Path,
        prediction: Prediction,
        kind: str = "",
        masks: tuple[Path, ...] = (),
        *,
        expected: bool | None = None,
    ) -> None:
        """Write the picture's overlay, map and mask. Without a `kind` the verdict is the kind."""
        name = self._name(path)
        shown = _scaled(_eight_bit(decode(path)))
        low, high = prediction.colour_range
        values = prediction.picture_map(shown.shape[:2])
        heat, found = drawing.overlay(shown, values, low, high), values > prediction.mask_threshold
        try:
            for folder in ("overlays", "masks", *(["maps"] if self.maps != "none" else [])):
                (self.out / folder / name).parent.mkdir(parents=True, exist_ok=True)
            drawing.save_png(self.out / "overlays" / f"{name}.png", drawing.contour(heat, found))
            drawing.save_png(self.out / "masks" / f"{name}.png", prediction.mask)
            if self.maps != "none":
                self._write_map(name, prediction)
        except OSError as error:
            raise FlawscopeError(f"cannot write to {self.out}: {error.strerror}; free some space") from None
        self.scale = (low, high, prediction.mask_threshold)
        verdict = "anomalous" if prediction.is_anomalous else "good"
        collected = self.kinds.setdefault(kind or verdict, Kind(expected))
        collected.count += 1
        collected.anomalous += prediction.is_anomalous
        if len(self.kinds) <= ROWS and collected.wants(prediction.score):
            # outlined at its small size: a thin line would be lost in shrinking
            small = drawing.contour(np.asarray(drawing.fitted(heat, BOX)), found)
            panels: list[drawing.Drawable] = [shown, small]
            with suppress(InputError):  # the evaluation reports it
                panels += [union(masks, prediction.geometry.picture_size)] if masks else []
            wrong = expected is not None and expected != prediction.is_anomalous
            remark = ("missed" if expected else "false alarm") if wrong else ""
            words = f"{verdict}, {remark}" if remark else verdict
            p_value = f"p = {prediction.p_value:.3f}"
            shot = None
            if self.animation != "none":
                short, bad = f"{remark or verdict}, {p_value}", prediction.is_anomalous
                shot = animation.shot(kind or path.name, shown, heat, found, short, is_anomalous=bad)
            strip, words = _strip(panels), f"{words}, {p_value}"
            collected.add(Example(name, prediction.score, strip, words, prediction.is_anomalous, shot))

    def finish(self, title: str) -> Path | None:
        """Write the contact sheet, whose path it returns, and the animation."""
        # kinds known to be good first; without known kinds the anomalous ones
        names = sorted(self.kinds, key=lambda name: (self.kinds[name].expected is True, natural_key(name)))
        if not names or self.scale is None:
            return None
        shown, left = names[:ROWS], names[ROWS:]
        if self.animation != "none":
            room = animation.room(len(shown))
            shots = [[e.shot for e in self.kinds[name].extremes(room) if e.shot] for name in shown]
            moving = self.out / f"animation.{self.animation}"
            animation.save(moving, *animation.frames(shots, title, self.scale))
        rows: list[tuple[list[drawing.Drawable], list[str]]] = []
        cells: list[tuple[int, int]] = []
        frames: list[list[drawing.Colour | None]] = []
        headings: list[str | None] = []
        for name in shown:
            kind = self.kinds[name]
            width = max(PANEL, *(example.strip.shape[1] for example in kind.examples))
            columns = max(1, (WIDTH + MARGIN) // (width + MARGIN))
            chosen = kind.extremes(columns * min(ROWS_PER_KIND, max(1, ROWS // len(shown))))
            common = os.path.commonpath([os.path.dirname(e.name) for e in chosen])
            headings.append(f"{name}: {kind.words()}")
            for start in range(0, len(chosen), columns):
                row = chosen[start : start + columns]
                captions = [f"{os.path.relpath(e.name, common)}\n{e.verdict}" for e in row]
                rows.append(([e.strip for e in row], captions))
                cells.append((PANEL, width))
                frames.append([drawing.BAD if e.is_anomalous else drawing.GOOD for e in row])
            headings += [None] * (len(rows) - len(headings))
        lines = [title, *LEGEND.split("\n")]
        if left:
            lines.append(f"not shown: {', '.join(left)}")
        path = self.out / "contact_sheet.png"
        bar = drawing.colour_bar(*self.scale, height=PANEL, label="map")
        sheet = drawing.contact_sheet(
            rows, cells, frames=frames, headings=headings, title="\n".join(lines), bar=bar
        )
        drawing.save_png(path, sheet)
        return path

    def _write_map(self, name: str, prediction: Prediction) -> None:
        """The map, and once what its numbers mean."""
        low, high = prediction.colour_range
        suffix, meaning = MAPS[self.maps]
        path = self.out / "maps" / f"{name}{suffix}"
        if self.maps == "png16":
            drawing.save_map16(path, prediction.map, low, high)
        elif self.maps == "tiff":
            drawing.save_map_tiff(path, prediction.map)
        else:
            drawing.save_map_npy(path, prediction.map)
        if self.scale is None:
            facts = {
                "format": self.maps,
                "value": meaning,
                "low": low,
                "high": high,
                "mask_threshold": prediction.mask_threshold,
            }
            text = json.dumps(facts, indent=1, allow_nan=False)
            (self.out / "maps" / "scale.json").write_text(f"{text}\n", encoding="utf-8")

    def _name(self, path: Path) -> str:
        """Where the picture's results go; a.png and a.jpg beside each other keep their suffix apart."""
        name = self._stem(path)
        if self.owners.setdefault(name, path) != path:
            name = f"{name}{path.suffix}"
        while self.owners.setdefault(name, path) != path:
            name += "_"
        return name

    def _stem(self, path: Path) -> str:
        if self.root is not None and path.is_relative_to(self.root):
            relative = path.relative_to(self.root)
            parts = relative.parts[1:] if relative.parts[0] == "test" else relative.parts
            return Path(*parts).with_suffix("").as_posix()
        # a list of files from anywhere: never above the output folder
        return Path(os.path.relpath(path)).as_posix().replace("../", "").lstrip("/").rsplit(".", 1)[0]


def _eight_bit(picture: NDArray[np.generic]) -> Pixels:
    """A deep picture as a person may see it: over its own maximum. For showing only."""
    if picture.dtype == np.uint8:
        return np.asarray(picture, dtype=np.uint8)
    values = picture.astype(np.float32)
    values = values / max(float(values.max()), 1e-12) * 255.0
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.uint8))


def _scaled(picture: Pixels) -> Pixels:
    """The picture at most `MAX_SIDE` high and wide."""
    height, width = picture.shape[:2]
    factor = min(1.0, MAX_SIDE / max(height, width))
    if factor == 1.0:
        return picture
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


def _strip(panels: list[drawing.Drawable]) -> Pixels:
    """The panels side by side on white, [H, W, 3]."""
    images = [drawing.fitted(panel, BOX) for panel in panels]
    strip = np.full((images[0].height, images[0].width * len(images) + GAP * (len(images) - 1), 3), 255)
    strip = strip.astype(np.uint8)
    for k, image in enumerate(images):
        left = k * (images[0].width + GAP)
        strip[:, left : left + image.width] = np.asarray(image)
    return strip
