"""Pictures on disk: overlays, maps, masks and a contact sheet of what a predictor found."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope import drawing
from flawscope.datasets import Item
from flawscope.errors import FlawscopeError
from flawscope.imaging import decode, read_mask
from flawscope.prediction import Prediction

MAX_SIDE = 2048  # overlays of larger pictures are scaled down; maps and masks are at the network's size
PER_KIND = 4  # pictures of a kind on the contact sheet
CELL = (200, 200)


@dataclass
class Pictures:
    """Writes under `out`: overlays/, maps/ (16-bit, scale fixed by calibration) and masks/, in the folders'
    own names, and collects a contact sheet."""

    out: Path
    root: Path | None = None
    rows: dict[str, list[tuple[list[NDArray[np.uint8]], list[str], bool]]] = field(default_factory=dict)

    def take(self, item: Item, prediction: Prediction) -> None:
        """One evaluated picture."""
        self.add(item.path, prediction, item.kind, item.masks)

    def add(self, path: Path, prediction: Prediction, kind: str = "", masks: tuple[Path, ...] = ()) -> None:
        """Write the picture's overlay, map and mask."""
        name = self._name(path)
        picture = _eight_bit(decode(path), prediction)
        shown, geometry = _scaled(picture, prediction)
        low, high = prediction.colour_range
        values = geometry.warp(prediction.map)
        heat = drawing.overlay(shown, values, low, high)
        heat = drawing.contour(heat, values > prediction.mask_threshold)
        try:
            for folder in ("overlays", "maps", "masks"):
                (self.out / folder / name).parent.mkdir(parents=True, exist_ok=True)
            drawing.save_png(self.out / "overlays" / f"{name}.png", heat)
            drawing.save_map16(self.out / "maps" / f"{name}.png", prediction.map, low, high)
            mask = prediction.mask.astype(np.uint8) * 255
            drawing.save_png(self.out / "masks" / f"{name}.png", Image.fromarray(mask))
        except OSError as error:
            raise FlawscopeError(f"cannot write to {self.out}: {error.strerror}; free some space") from None
        rows = self.rows.setdefault(kind, [])
        if len(rows) < PER_KIND:
            cells = [_thumb(shown), _thumb(heat)]
            verdict = "anomalous" if prediction.is_anomalous else "good"
            titles = [name, f"{verdict}, p = {prediction.p_value:.3f}"]
            if masks:
                truth = np.zeros(prediction.geometry.picture_size, dtype=bool)
                for mask_path in masks:
                    found = read_mask(mask_path)
                    if found.shape == truth.shape:
                        truth |= found
                cells.append(_thumb(_as_picture(truth)))
                titles.append("ground truth")
            rows.append((cells, titles, prediction.is_anomalous))

    def finish(self, title: str) -> Path | None:
        """Write the contact sheet."""
        rows = [(cells, titles) for kind in self.rows.values() for cells, titles, _ in kind]
        if not rows:
            return None
        path = self.out / "contact_sheet.png"
        drawing.save_png(path, drawing.contact_sheet(rows, CELL, title=title))
        return path

    def _name(self, path: Path) -> str:
        if self.root is not None and path.is_relative_to(self.root):
            relative = path.relative_to(self.root)
            parts = relative.parts[1:] if relative.parts[0] == "test" else relative.parts
            return Path(*parts).with_suffix("").as_posix()
        # a list of files from anywhere: never above the output folder
        return Path(os.path.relpath(path)).as_posix().replace("../", "").lstrip("/").rsplit(".", 1)[0]


def _eight_bit(picture: NDArray[np.generic], prediction: Prediction) -> NDArray[np.uint8]:
    """A deep picture as a person may see it: over its own maximum. For showing only."""
    if picture.dtype == np.uint8:
        return np.asarray(picture, dtype=np.uint8)
    values = picture.astype(np.float32)
    values = values / max(float(values.max()), 1e-12) * 255.0
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.uint8))


def _scaled(picture: NDArray[np.uint8], prediction: Prediction):  # type: ignore[no-untyped-def]
    """The picture at most `MAX_SIDE` wide, and the geometry from it to the map."""
    height, width = picture.shape[:2]
    factor = min(1.0, MAX_SIDE / max(height, width))
    geometry = prediction.geometry
    if factor == 1.0:
        return picture, geometry
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
    (sy, sx), ry, rx = geometry.scale, height / size[0], width / size[1]
    return small, type(geometry)(size, geometry.size, (sy * ry, sx * rx), geometry.offset)


def _thumb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(picture)
    image.thumbnail((CELL[1], CELL[0]))
    return np.asarray(image)


def _as_picture(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.repeat((mask * 255).astype(np.uint8)[:, :, None], 3, axis=2)
