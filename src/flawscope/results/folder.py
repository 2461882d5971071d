"""Writes pictures to disk: overlays, maps and masks of predictions."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
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

MAX_NAME_BYTES = 200  # of a result's name; a file may have 255, and the results add a hash and suffixes
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
        marked: [H, W] bool, pixels within the contours.
        colour: Colour of the contours.
        prediction: The prediction.
    """

    picture: Pixels
    heat: Pixels
    marked: NDArray[np.bool_]
    colour: drawing.Colour
    prediction: Prediction

    @classmethod
    def render(cls, source: PictureSource, prediction: Prediction) -> RenderedPrediction:
        """Draw a prediction over its picture, which is scaled to sides of at most `MAX_SIDE`.

        Raises:
            InputError: The picture cannot be read again.
            MemoryError: The picture is too large.
        """
        picture = displayed(source)
        factor = MAX_SIDE / max(picture.shape[:2])
        if factor < 1:
            height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
            image = Image.fromarray(picture)
            picture = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        heat, marked, colour = prediction.over(picture)
        return cls(picture, heat, marked, colour, prediction)

    @property
    def overlay(self) -> Pixels:
        """The heat map with contours, and with the findings in a note, [H, W, 3]."""
        return self.prediction.with_note(drawing.contour(self.heat, self.marked, self.colour))


@dataclass
class PictureWriter:
    """Writes overlays, maps and masks into the folders `overlays`, `maps` and `masks` below `out`.

    Attributes:
        out: The results folder.
        root: Folder of the pictures: results are named by the paths relative to it; None: the working folder.
        maps: Form of the maps, a key of `MAPS`; "none": no maps are written.
        inputs: All pictures, so that names differ for pictures that differ only by their suffix; None: they
            are not known yet.
        owners: Picture by the name of its results; the names are folded (`_folded`).
        names: Name of the results by the picture.
        failures: A line on each picture that could not be read again; such a picture gets a map and a mask,
            but no overlay.
        output: Files of the folder that flawscope wrote.
    """

    out: Path
    root: Path | None = None
    maps: str = "png16"
    inputs: InitVar[Iterable[Path] | None] = None
    owners: dict[str, Path] = field(default_factory=dict)
    names: dict[Path, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    output: OutputFiles = field(init=False)

    def __post_init__(self, inputs: Iterable[Path] | None) -> None:
        self.output = OutputFiles(self.out)
        self._has_written_scale = False
        # number of inputs that share a name without suffix, by that name; None: the inputs are not known
        self._stem_counts = None if inputs is None else Counter(_folded(self._stem(path)) for path in inputs)

    def add(self, path: Path, prediction: Prediction, source: PictureSource | None = None) -> None:
        """Write the picture's overlay, map and mask.

        Args:
            path: File of the picture.
            prediction: Prediction to draw.
            source: The picture; None: it is read from `path`.
        """
        name = self.name(path)
        rendered = None
        try:
            rendered = RenderedPrediction.render(path if source is None else source, prediction)
        except (InputError, MemoryError) as error:  # such as a picture that was moved
            # a MemoryError may have no text
            self.failures.append(f"{error or path} (scored, but not drawn)")
        if rendered:
            drawing.save_png(self.output.path(f"overlays/{name}.png"), rendered.overlay)
        drawing.save_png(self.output.path(f"masks/{name}.png"), prediction.mask)
        if self.maps != "none":
            self._write_map(name, prediction)

    def _write_map(self, name: str, prediction: Prediction) -> None:
        """Write a map. With the first map, also write the file that explains the values of all maps."""
        suffix, _ = MAPS[self.maps]
        path = self.output.path(f"maps/{name}{suffix}")
        try:
            drawing.save_map(path, prediction.map, *prediction.levels.colour_range)
            if not self._has_written_scale:
                self._write_scale(prediction)
                self._has_written_scale = True
        except OSError as error:
            raise write_error(path, error) from None

    def _write_scale(self, prediction: Prediction) -> None:
        """Write the file that says what a value of a map means."""
        low, high = prediction.levels.colour_range
        _, meaning = MAPS[self.maps]
        facts = {
            "format": self.maps,
            "value": meaning,
            "low": low,
            "high": high,
            "mask_threshold": prediction.levels.mask_threshold,
            "outline": prediction.levels.outline,
        }
        text = json.dumps(facts, indent=1, allow_nan=False)
        self.output.path("maps/scale.json").write_text(f"{text}\n", encoding="utf-8")

    def name(self, path: Path) -> str:
        """Return the name of a picture's results; choose it at the first call.

        No other picture gets the same name, nor one that differs only in case. The name has no suffix, unless
        pictures differ only by their suffixes, such as a.png and a.jpg. If the inputs are not known, the
        suffix is left off only if it is .png.
        """
        chosen_name = self.names.get(path)
        if chosen_name is not None:
            return chosen_name
        stem = self._stem(path)
        if self._stem_counts is None:
            needs_suffix = path.suffix.lower() != ".png"
        else:
            needs_suffix = self._stem_counts[_folded(stem)] > 1
        name = _shorten(f"{stem}{path.suffix}" if needs_suffix else stem)
        while self.owners.setdefault(_folded(name), path) != path:  # another picture has this name
            name += "_"
        self.names[path] = name
        return name

    def _stem(self, path: Path) -> str:
        """Return the picture's path below the root or the working folder, without its suffix.

        If the path starts with a folder `test`, this folder is left off. For a picture outside both folders,
        FOLDER/FILE is returned, so that a result never lies outside of the results folder.
        """
        absolute = _absolute(path)
        for root in (self.root, Path()):
            if root is None or not absolute.is_relative_to(_absolute(root)):
                continue
            relative = absolute.relative_to(_absolute(root))
            if relative.parts[0] == "test" and len(relative.parts) > 1:
                relative = Path(*relative.parts[1:])
            return relative.with_suffix("").as_posix()
        return f"{absolute.parent.name}/{absolute.stem}".lstrip("/")  # the root of a drive has no name


def _folded(name: str) -> str:
    """Return a name without the differences that some file systems ignore.

    Such differences are case, and the Unicode form of letters with accents.
    """
    return unicodedata.normalize("NFC", name).casefold()


def _shorten(name: str) -> str:
    """Return the name; if its last part is longer than `MAX_NAME_BYTES`, a hash replaces the end."""
    folder, _, file_name = name.rpartition("/")
    encoded = os.fsencode(file_name)
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{folder}/{encoded[:MAX_NAME_BYTES].decode(errors='ignore')}~{digest}".lstrip("/")


def common_folder(paths: Sequence[Path]) -> Path | None:
    """Return the deepest folder that has all pictures in it, except those in the working folder.

    The folder is the `root` for `PictureWriter`. The result is None if the pictures have only the root of a
    drive in common, or all lie in the working folder.
    """
    working_folder = _absolute(Path())
    outer_folders = set()
    for path in map(_absolute, paths):
        if not path.is_relative_to(working_folder):
            outer_folders.add(path.parent)
    try:
        common = Path(os.path.commonpath(outer_folders))
    except ValueError:  # there are no outer folders, or they lie on several drives
        return None
    return None if common == Path(common.anchor) else common


def _absolute(path: Path) -> Path:
    """Return the absolute path without `..`; links are not followed."""
    return Path(os.path.abspath(path))
