"""Writes pictures to disk: overlays, maps and masks of predictions, a contact sheet and an animation."""

from __future__ import annotations

import json
import os
from bisect import bisect, insort
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import InputError, pluralize
from flawscope.pictures.decoding import PictureSource, decode, to_eight_bits
from flawscope.pictures.listing import natural_key
from flawscope.results import drawing
from flawscope.results.contact_sheet import (
    MAX_SHOTS,
    SheetRow,
    Shot,
    animate,
    contact_sheet,
    make_shot,
    save_animation,
    shots_per_kind,
)
from flawscope.results.prediction import Prediction, outcome
from flawscope.results.table import OutputFiles, write_error

MAX_SIDE = 2048  # overlays of larger pictures are scaled down; maps and masks are at the network's size

# The contact sheet
PANEL_HEIGHT = 150  # pixels that a picture or its overlay is high
PANEL_SIZE = (PANEL_HEIGHT, PANEL_HEIGHT * 3 // 2)  # wide pictures may be wider
GAP = 4  # between them
MAX_ROWS = 14  # at most, all kinds together; further kinds are named, not shown
ROWS_PER_KIND = 4
ROW_WIDTH = 1440  # pixels that a row of examples may take
MARGIN = 16  # between examples, roomily
KEPT_EXTREMES = 8  # highest, and lowest, scores of a kind that are kept: enough for any sheet

# Formats of maps: the file's suffix, and the meaning of a value in it
MAPS = {
    "png16": (".png", "low + (high - low) * pixel / 65535; what is outside is at the nearer end"),
    "tiff": (".tiff", "pixel, 32-bit float"),
    "npy": (".npy", "element, 32-bit float"),
}

LEGEND = "picture | heat map, transparent at its peak; outlined: what is above the mask threshold"
SQUARE = "; square: where the part was found, the dot at the reference's upper left corner"
DASHED = "; dashed: ground truth"
SELECTION = "of each kind the pictures with the highest and the lowest scores"

Pixels = NDArray[np.uint8]
MaskReader = Callable[[], NDArray[np.bool_]]


class Example(NamedTuple):
    """Picture on the contact sheet: its panels side by side, and its caption."""

    name: str
    score: float
    strip: Pixels
    verdict: str
    is_anomalous: bool
    shot: Shot | None = None  # for the animation, while the picture is among those it shows


@dataclass
class KindExamples:
    """Pictures of one kind; the sheet shows those with the highest and the lowest scores."""

    expected: bool | None = None  # whether they are defective; None: unknown
    count: int = 0
    anomalous: int = 0
    examples: list[Example] = field(default_factory=list)  # by rising score

    def would_show(self, score: float) -> bool:
        """Whether the sheet would show a picture with this score, among those so far."""
        place = bisect(self.examples, score, key=lambda one: one.score)
        return len(self.examples) < 2 * KEPT_EXTREMES or place != KEPT_EXTREMES

    def add(self, example: Example) -> None:
        insort(self.examples, example, key=lambda one: one.score)
        del self.examples[KEPT_EXTREMES:-KEPT_EXTREMES]
        # A picture that has left the extremes never returns to them. Shots are large: let theirs go.
        shown = MAX_SHOTS // 2
        for k in range(shown, len(self.examples) - shown):
            self.examples[k] = self.examples[k]._replace(shot=None)

    def extremes(self, count: int) -> list[Example]:
        """Returns `count` examples, highest score first: one half the highest, the other the lowest."""
        falling = self.examples[::-1]
        if len(falling) <= count:
            return falling
        low = count // 2
        return falling[: count - low] + falling[len(falling) - low :]

    def count_text(self) -> str:
        if self.expected is None:
            return pluralize(self.count, "picture")
        return f"{self.anomalous} of {self.count} called anomalous"


class RenderedPrediction(NamedTuple):
    """Picture as it is shown [H, W, 3], the same with its heat map and the squares of its parts, the outlined
    pixels [H, W] bool, and a reason for the decision other than the score."""

    picture: Pixels
    heat: Pixels
    marked: NDArray[np.bool_]
    remark: str

    @classmethod
    def render(cls, source: PictureSource, prediction: Prediction) -> RenderedPrediction:
        """Draws a prediction. InputError or MemoryError where the picture cannot be read again."""
        shown = to_eight_bits(decode(source))
        factor = MAX_SIDE / max(shown.shape[:2])
        if factor < 1:
            height, width = (max(1, round(side * factor)) for side in shown.shape[:2])
            shown = np.asarray(Image.fromarray(shown).resize((width, height), Image.Resampling.BILINEAR))
        return cls(shown, *prediction.over(shown), prediction.remark)

    @property
    def overlay(self) -> Pixels:
        """Heat map with outlines."""
        return drawing.draw_note(drawing.contour(self.heat, self.marked), self.remark)


@dataclass
class PictureWriter:
    """Writes under `out`: overlays/, maps/ and masks/, in the folders' own names, and collects a contact
    sheet and an animation. Memory does not grow with the number of pictures.

    root: results are named by the pictures' paths below it.
    maps: one of `MAPS`, or none. animation: gif, webp or none.
    failures: pictures that could not be read again, each with the reason; they have a map and a mask only.
    """

    out: Path
    root: Path | None = None
    maps: str = "png16"
    animation: str = "none"
    kinds: dict[str, KindExamples] = field(default_factory=dict)
    aligned: bool = False  # parts are found first
    scale: tuple[float, float, float] | None = None  # both ends of the colours and the mask threshold
    owners: dict[str, Path] = field(default_factory=dict)  # result name -> picture
    failures: list[str] = field(default_factory=list)
    own: OutputFiles = field(init=False)

    def __post_init__(self) -> None:
        self.own = OutputFiles(self.out)

    def add(
        self,
        path: Path,
        prediction: Prediction,
        kind: str = "",
        *,
        expected: bool | None = None,
        truth: MaskReader | None = None,
        source: PictureSource | None = None,
    ) -> None:
        """Writes the picture's overlay, map and mask. Without a `kind` the verdict is the kind. `truth` reads
        the mask of the defect, where one is known. `source`: the picture itself, where nothing lies at
        `path`."""
        name = self.name(path)
        drawn = None
        try:
            drawn = RenderedPrediction.render(path if source is None else source, prediction)
        except (InputError, MemoryError) as error:  # such as a picture that was moved
            self.failures.append(f"{error or path} (scored, but not drawn)")
        self._write(name, prediction, drawn)
        self.aligned = prediction.part_found is not None
        self.scale = (*prediction.colour_range, prediction.mask_threshold)
        collected = self.kinds.setdefault(kind or prediction.decision, KindExamples(expected))
        collected.count += 1
        collected.anomalous += prediction.is_anomalous
        if drawn and len(self.kinds) <= MAX_ROWS and collected.would_show(prediction.score):
            collected.add(self._example(name, kind or path.name, drawn, prediction, truth, expected))

    def finish(self, title: str) -> Path | None:
        """Writes the contact sheet and the animation; returns the sheet's path."""
        # kinds known to be good first; without known kinds the anomalous ones
        names = sorted(self.kinds, key=lambda name: (self.kinds[name].expected is True, natural_key(name)))
        names = [name for name in names if self.kinds[name].examples]
        if not names or self.scale is None:
            return None
        shown, left = names[:MAX_ROWS], names[MAX_ROWS:]
        if self.animation != "none":
            most = shots_per_kind(len(shown))
            shots = [[e.shot for e in self.kinds[name].extremes(most) if e.shot] for name in shown]
            moving = self.own.path(f"animation.{self.animation}")
            save_animation(moving, *animate(shots, title, self.scale))
        known = any(kind.expected is not None for kind in self.kinds.values())
        lines = [title, LEGEND + (SQUARE if self.aligned else "") + (DASHED if known else ""), SELECTION]
        if left:
            lines.append(f"not shown: {', '.join(left)}")
        path = self.own.path("contact_sheet.png")
        drawing.save_png(path, self._sheet(shown, "\n".join(lines), self.scale))
        return path

    def _sheet(self, kinds: list[str], title: str, scale: tuple[float, float, float]) -> Image.Image:
        lines = []
        for name in kinds:
            kind = self.kinds[name]
            width = max(PANEL_HEIGHT, *(example.strip.shape[1] for example in kind.examples))
            columns = max(1, (ROW_WIDTH + MARGIN) // (width + MARGIN))
            chosen = kind.extremes(columns * min(ROWS_PER_KIND, max(1, MAX_ROWS // len(kinds))))
            common = os.path.commonpath([os.path.dirname(e.name) for e in chosen])
            for start in range(0, len(chosen), columns):
                row = chosen[start : start + columns]
                lines.append(
                    SheetRow(
                        [e.strip for e in row],
                        [f"{os.path.relpath(e.name, common)}\n{e.verdict}" for e in row],
                        heading="" if start else f"{name}: {kind.count_text()}",
                        frames=[drawing.BAD_COLOUR if e.is_anomalous else drawing.GOOD_COLOUR for e in row],
                        width=width,
                    )
                )
        bar = drawing.colour_bar(*scale, height=PANEL_HEIGHT, label="map")
        return contact_sheet(lines, (PANEL_HEIGHT, PANEL_HEIGHT), title=title, bar=bar)

    def _example(
        self,
        name: str,
        caption: str,
        drawn: RenderedPrediction,
        prediction: Prediction,
        truth: MaskReader | None,
        expected: bool | None,
    ) -> Example:
        bad, verdict, severity = prediction.is_anomalous, prediction.decision, prediction.severity
        remark = outcome(expected, bad) if expected is not None and expected != bad else ""
        # outlined at its small size: a thin line would be lost in shrinking
        small = drawing.contour(np.asarray(drawing.fit_into(drawn.heat, PANEL_SIZE)), drawn.marked)
        small = drawing.draw_note(small, drawn.remark)
        with suppress(InputError):  # the evaluation reports it
            if truth:
                marked = drawing.shrink_mask(truth(), small.shape[:2])
                small = drawing.contour(small, marked, drawing.TRUTH_COLOUR, dashed=True)
        picture = np.asarray(drawing.fit_into(drawn.picture, PANEL_SIZE))
        gap = np.full((picture.shape[0], GAP, 3), 255, np.uint8)
        new_shot = None
        if self.animation != "none":
            verdict_text = f"{remark or verdict}, severity {severity:+.1f}"
            new_shot = make_shot(caption, *drawn[:3], verdict_text, is_anomalous=bad)
        words = f"{verdict}, {remark}" if remark else verdict
        words += f"\nseverity {severity:+.1f}, p = {prediction.p_value:.3f}"
        return Example(name, prediction.score, np.hstack([picture, gap, small]), words, bad, new_shot)

    def _write(self, name: str, prediction: Prediction, drawn: RenderedPrediction | None) -> None:
        try:
            if drawn:
                drawing.save_png(self.own.path(f"overlays/{name}.png"), drawn.overlay)
            drawing.save_png(self.own.path(f"masks/{name}.png"), prediction.mask)
            if self.maps != "none":
                path = self.own.path(f"maps/{name}{MAPS[self.maps][0]}")
                drawing.save_map(path, prediction.map, *prediction.colour_range)
            if self.maps != "none" and self.scale is None:
                self._write_scale(prediction)
        except OSError as error:
            raise write_error(self.out, error) from None

    def _write_scale(self, prediction: Prediction) -> None:
        low, high = prediction.colour_range
        facts = {
            "format": self.maps,
            "value": MAPS[self.maps][1],
            "low": low,
            "high": high,
            "mask_threshold": prediction.mask_threshold,
            "outline": prediction.outline,
        }
        text = json.dumps(facts, indent=1, allow_nan=False)
        self.own.path("maps/scale.json").write_text(f"{text}\n", encoding="utf-8")

    def name(self, path: Path) -> str:
        """Name of the picture's results; a.png and a.jpg beside each other keep their suffix apart."""
        name = self._stem(path)
        if self.owners.setdefault(name, path) != path:
            name = f"{name}{path.suffix}"
        while self.owners.setdefault(name, path) != path:
            name += "_"
        return name

    def _stem(self, path: Path) -> str:
        """Path below the root or the working folder; of a picture elsewhere, its folder's name and its own,
        so that it never leads out of the output folder."""
        full = _absolute(path)
        for root in (self.root, Path()):
            if root is not None and full.is_relative_to(_absolute(root)):
                parts = full.relative_to(_absolute(root)).parts
                return Path(*parts[parts[0] == "test" and len(parts) > 1 :]).with_suffix("").as_posix()
        return f"{full.parent.name}/{full.stem}".lstrip("/")


def common_folder(paths: Sequence[Path]) -> Path | None:
    """The folder that the pictures outside the working folder share, a `root` for `PictureWriter`."""
    here = _absolute(Path())
    outside = {full.parent for full in map(_absolute, paths) if not full.is_relative_to(here)}
    with suppress(ValueError):  # none, or on several drives
        common = Path(os.path.commonpath(outside))
        return None if common == Path(common.anchor) else common
    return None


def _absolute(path: Path) -> Path:
    """The path without `..`, links as they are."""
    return Path(os.path.abspath(path))
