"""Writes pictures to disk: overlays, maps and masks of predictions."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.artefact.files import write_error
from flawscope.errors import InputError
from flawscope.pictures.channels import displayed
from flawscope.pictures.decoding import PictureSource
from flawscope.results import drawing
from flawscope.results.prediction import Prediction
from flawscope.results.table import OutputFiles

MAX_NAME_BYTES = 200  # of a result's name; the longest that a file may have is 255
MAX_SIDE = 2048  # overlays of larger pictures are scaled down; maps and masks are at the network's size

# Formats of maps: the file's suffix, and the meaning of a value in it
MAPS = {
    "png16": (".png", "low + (high - low) * pixel / 65535; what is outside is at the nearer end"),
    "tiff": (".tiff", "pixel, 32-bit float"),
    "npy": (".npy", "element, 32-bit float"),
}

Pixels = NDArray[np.uint8]


class RenderedPrediction(NamedTuple):
    """Picture and prediction, rendered for people.

    Attributes:
        picture: [H, W, 3], the picture as it is shown.
        heat: [H, W, 3], the same with its heat map and the squares of its parts.
        marked: [H, W] bool, pixels within the outline.
        colour: Colour of the outline.
        prediction: The prediction.
    """

    picture: Pixels
    heat: Pixels
    marked: NDArray[np.bool_]
    colour: drawing.Colour
    prediction: Prediction

    @classmethod
    def render(cls, source: PictureSource, prediction: Prediction) -> RenderedPrediction:
        """Draw a prediction. InputError or MemoryError where the picture cannot be read again."""
        shown = displayed(source)
        factor = MAX_SIDE / max(shown.shape[:2])
        if factor < 1:
            height, width = (max(1, round(side * factor)) for side in shown.shape[:2])
            shown = np.asarray(Image.fromarray(shown).resize((width, height), Image.Resampling.BILINEAR))
        return cls(shown, *prediction.over(shown), prediction)

    @property
    def overlay(self) -> Pixels:
        """Return the heat map with outlines, and with the findings in a note."""
        return self.prediction.with_note(drawing.contour(self.heat, self.marked, self.colour))


@dataclass
class PictureWriter:
    """Writes under `out`: overlays/, maps/ and masks/, in the folders' own names.

    Attributes:
        out: The results folder.
        root: Folder whose inner paths name the results; None: the working folder.
        maps: One of `MAPS`, or none.
        inputs: All pictures, where they are known beforehand: those that would share a name keep their
            suffix.
        owners: Pictures by the name of their results, in lower case.
        names: Names of results by the picture.
        failures: Pictures that could not be read again, each with the reason; they only have a map and a
            mask.
        own: Files of the folder that flawscope wrote.
    """

    out: Path
    root: Path | None = None
    maps: str = "png16"
    inputs: InitVar[Iterable[Path] | None] = None
    owners: dict[str, Path] = field(default_factory=dict)  # result name, without upper case -> picture
    names: dict[Path, str] = field(default_factory=dict)  # picture -> result name
    failures: list[str] = field(default_factory=list)
    own: OutputFiles = field(init=False)

    def __post_init__(self, inputs: Iterable[Path] | None) -> None:
        self.own = OutputFiles(self.out)
        self._has_scale = False
        self._sharing = None if inputs is None else Counter(_folded(self._stem(path)) for path in inputs)

    def add(self, path: Path, prediction: Prediction, source: PictureSource | None = None) -> None:
        """Write the picture's overlay, map and mask.

        Args:
            path: File of the picture.
            prediction: Prediction to draw.
            source: The picture itself, where nothing lies at `path`.
        """
        name = self.name(path)
        drawn = None
        try:
            drawn = RenderedPrediction.render(path if source is None else source, prediction)
        except (InputError, MemoryError) as error:  # such as a picture that was moved
            self.failures.append(f"{error or path} (scored, but not drawn)")
        self._write(name, prediction, drawn)

    def _write(self, name: str, prediction: Prediction, drawn: RenderedPrediction | None) -> None:
        path = self.out
        try:
            if drawn:
                drawing.save_png(path := self.own.path(f"overlays/{name}.png"), drawn.overlay)
            drawing.save_png(path := self.own.path(f"masks/{name}.png"), prediction.mask)
            if self.maps != "none":
                path = self.own.path(f"maps/{name}{MAPS[self.maps][0]}")
                drawing.save_map(path, prediction.map, *prediction.levels.colour_range)
            if self.maps != "none" and not self._has_scale:
                self._write_scale(prediction)
                self._has_scale = True
        except OSError as error:
            raise write_error(path, error) from None

    def _write_scale(self, prediction: Prediction) -> None:
        low, high = prediction.levels.colour_range
        facts = {
            "format": self.maps,
            "value": MAPS[self.maps][1],
            "low": low,
            "high": high,
            "mask_threshold": prediction.levels.mask_threshold,
            "outline": prediction.levels.outline,
        }
        text = json.dumps(facts, indent=1, allow_nan=False)
        self.own.path("maps/scale.json").write_text(f"{text}\n", encoding="utf-8")

    def name(self, path: Path) -> str:
        """Return the name of a picture's results, which no other picture has, in upper or lower case.

        It has no suffix, unless pictures share a name but for it, such as a.png and a.jpg. Where this is not
        known yet, only a PNG's suffix is left off.
        """
        if (known := self.names.get(path)) is not None:
            return known
        name = self._stem(path)
        shared = path.suffix.lower() != ".png" if self._sharing is None else self._sharing[_folded(name)] > 1
        name = _short(f"{name}{path.suffix}" if shared else name)
        while self.owners.setdefault(_folded(name), path) != path:
            name += "_"
        self.names[path] = name
        return name

    def _stem(self, path: Path) -> str:
        """Return the picture's path below the root or the working folder, without its suffix.

        For a picture elsewhere it is its folder's name and its own: a path never leads out of the output
        folder.
        """
        full = _absolute(path)
        for root in (self.root, Path()):
            if root is not None and full.is_relative_to(_absolute(root)):
                parts = full.relative_to(_absolute(root)).parts
                return Path(*parts[parts[0] == "test" and len(parts) > 1 :]).with_suffix("").as_posix()
        return f"{full.parent.name}/{full.stem}".lstrip("/")


def _folded(name: str) -> str:
    """Return the name as a file system compares it that ignores case and the form of an umlaut."""
    return unicodedata.normalize("NFC", name).casefold()


def _short(name: str) -> str:
    """Return the name; where it would be too long for a file, a hash replaces its end."""
    folder, _, last = name.rpartition("/")
    encoded = os.fsencode(last)
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{folder}/{encoded[:MAX_NAME_BYTES].decode(errors='ignore')}~{digest}".lstrip("/")


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
