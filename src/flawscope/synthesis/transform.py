"""Cuts out a defect, turns, mirrors, resizes and distorts it, and pastes it at another place."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.synthesis.masks import Mask, bounding_box
from flawscope.synthesis.textures import Floats, Picture

IN_PLACE = 2 / 3  # share of a cut in the foreground above which it stays where it is
_MESH_CELLS = 4  # number of cells along a side of the mesh, whose corners are moved to distort a cut
_MAX_PLACES = 8  # number of places that are tried for a part


class Cut(NamedTuple):
    """Cut-out defect.

    Attributes:
        pixels: [h, w, 3] uint8.
        opacity: [h, w] float32 in 0..1; 0 outside the defect.
        corner: Place (row, column) of its top left corner in the picture, which may be outside the frame.
    """

    pixels: Picture
    opacity: Floats
    corner: tuple[int, int]

    @property
    def mask(self) -> Mask:
        """[h, w] bool, True where the cut is not fully transparent."""
        return self.opacity > 0


def blend(old: Picture, new: Picture, opacity: Floats) -> Picture:
    """Return `(1 - opacity) * old + opacity * new`, rounded; `opacity` is [h, w] float32 in 0..1."""
    old_levels = old.astype(np.float32)
    return np.rint(old_levels + opacity[..., None] * (new - old_levels)).astype(np.uint8)


def cut_and_move(picture: Picture, mask: Mask, rng: np.random.Generator) -> Cut:
    """Cut out the marked part of a picture, and move it at random.

    The cut is mirrored, stretched and turned. Half of the time this is done about the cut's own middle, so
    that the cut stays at its place. In the other half it is done about the picture's middle, as if the entire
    picture were turned.

    Args:
        picture: [H, W, 3] uint8.
        mask: [H, W] bool, True on the part to cut out; not all False.
        rng: Source of the movement.
    """
    box = bounding_box(mask, 1)  # with a margin of 1 pixel
    layers = np.concatenate([picture[box], mask[box][..., None] * np.uint8(255)], 2)
    middle = np.asarray([(side.start + side.stop) / 2 for side in box])
    # all sizes are (height, width)
    picture_size = np.asarray(mask.shape, np.float64)
    matrix = _random_matrix(rng)
    layers_size = np.asarray(layers.shape[:2])
    extent = np.abs(matrix) @ layers_size  # size of the moved cut
    reduction = min(1.0, float((picture_size / extent).min()))  # the cut must not be larger than the picture
    matrix = matrix * reduction
    extent = extent * reduction
    canvas_size = np.clip(np.ceil(extent), 1, picture_size).astype(int)
    if rng.random() < 0.5:  # turn about the picture's middle, which moves the cut
        middle = picture_size / 2 + matrix @ (middle - picture_size / 2)
    top, left = np.rint(middle - canvas_size / 2).astype(int)
    mesh = _distorted_mesh(canvas_size, layers_size, np.asarray(np.linalg.inv(matrix), np.float64), rng)
    canvas_height, canvas_width = canvas_size
    turned = np.asarray(
        Image.fromarray(layers).transform(
            (int(canvas_width), int(canvas_height)), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR
        )
    )
    alpha = turned[..., 3]
    belongs_to_cut = alpha >= 128  # at least half of the pixel lies in the cut
    opacity = np.where(belongs_to_cut, alpha, 0).astype(np.float32) / np.float32(255)
    return Cut(pixels=turned[..., :3], opacity=opacity, corner=(int(top), int(left)))


def _random_matrix(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random matrix [2, 2] from source to target (row, column): mirror, stretch, turn."""
    mirror = np.diag(rng.choice([-1.0, 1.0], 2))
    stretch = np.diag(np.exp(rng.uniform(-0.3, 0.3) + rng.uniform(-0.1, 0.1, 2)))
    angle = int(rng.choice([0, 0, 1])) * math.pi / 2  # a quarter turn once in three times
    is_small_turn = rng.random() < 0.7
    angle += rng.uniform(-0.3, 0.3) if is_small_turn else rng.uniform(-math.pi, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(np.asarray([[cos, -sin], [sin, cos]]) @ stretch @ mirror, np.float64)


def _distorted_mesh(
    canvas_size: NDArray[np.int_],
    source_size: NDArray[np.int_],
    inverse: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Return Pillow's mesh: rectangles of the canvas, each with the four points of the source that it shows.

    Args:
        canvas_size: Height and width of the picture to make.
        source_size: Height and width of the picture that is distorted.
        inverse: Matrix [2, 2] from canvas to source (row, column).
        rng: Generator of the distortion.
    """
    rows, columns = (
        np.unique(np.linspace(0, side, _MESH_CELLS + 1).round().astype(int)) for side in canvas_size
    )
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    source_points = (grid - canvas_size / 2) @ inverse.T + source_size / 2
    source_points = source_points + rng.normal(0, rng.uniform(0, 0.03), source_points.shape) * source_size
    mesh = []
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            box = (int(columns[j]), int(rows[i]), int(columns[j + 1]), int(rows[i + 1]))
            # (x, y) of upper left, lower left, lower right and upper right corner, as Pillow wants them
            corners = source_points[[i, i + 1, i + 1, i], [j, j, j + 1, j + 1]][:, ::-1]
            mesh.append((box, tuple(corners.ravel().tolist())))
    return mesh


def paste_cut(picture: Picture, cut: Cut, within: Mask, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Paste a cut in place, or its parts at random places.

    The cut is pasted in place if more than the share `IN_PLACE` of it lies in the mask `within`. If not, each
    connected part is pasted at the best of a few random places, and clipped to the mask.

    Args:
        picture: [H, W, 3] uint8.
        cut: The cut.
        within: [H, W] bool, the pixels where parts may be placed.
        rng: Source of the places.

    Returns:
        The picture, and the mask of the pasted pixels, all False where nothing found room.
    """
    changed = picture.copy()
    mask = np.zeros_like(within)
    if _share_within(cut, within) > IN_PLACE:
        _paste(changed, mask, cut)
        return changed, mask
    places = np.flatnonzero(within)
    for part in _connected_parts(cut):
        candidates = [_place(part, places, within.shape, rng) for _ in range(_MAX_PLACES)]
        best = max(candidates, key=lambda candidate: _share_within(candidate, within))
        picture_window, cut_window = _overlap_windows(best, within.shape)
        opacity = best.opacity.copy()
        opacity[cut_window] *= within[picture_window]
        _paste(changed, mask, best._replace(opacity=opacity))
    return changed, mask


def _connected_parts(cut: Cut) -> list[Cut]:
    """Return the connected parts of a cut, each in its own window."""
    from scipy import ndimage

    labels, _ = ndimage.label(cut.mask, np.ones((3, 3)))
    parts = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        opacity = np.where(labels[box] == number, cut.opacity[box], np.float32(0))
        corner = (cut.corner[0] + box[0].start, cut.corner[1] + box[1].start)
        parts.append(Cut(cut.pixels[box], opacity, corner))
    return parts


def _place(part: Cut, places: NDArray[np.intp], frame: tuple[int, ...], rng: np.random.Generator) -> Cut:
    """Return the part with its middle at a random one of the places, or as near to it as the frame allows.

    Args:
        part: The part.
        places: Numbers of the frame's pixels that may be chosen, counted row by row.
        frame: (H, W) of the frame.
        rng: Source of the place.
    """
    frame_height, frame_width = frame
    height, width = part.opacity.shape
    middle_row, middle_column = divmod(int(places[rng.integers(len(places))]), frame_width)
    top = min(max(0, middle_row - height // 2), frame_height - height)
    left = min(max(0, middle_column - width // 2), frame_width - width)
    return part._replace(corner=(top, left))


def _overlap_windows(cut: Cut, frame: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a cut and the frame of the picture overlap.

    Returns:
        The window in the picture, and the same window in the cut.
    """
    picture_window = []
    cut_window = []
    for corner, side, frame_side in zip(cut.corner, cut.opacity.shape, frame, strict=True):
        start = max(0, corner)
        stop = max(min(frame_side, corner + side), start)  # an empty window where nothing overlaps
        picture_window.append(slice(start, stop))
        cut_window.append(slice(start - corner, stop - corner))
    return (picture_window[0], picture_window[1]), (cut_window[0], cut_window[1])


def _share_within(cut: Cut, within: Mask) -> float:
    """Return the share of a cut's pixels that lie in a mask of the picture."""
    picture_window, cut_window = _overlap_windows(cut, within.shape)
    mask = cut.mask
    return float((mask[cut_window] & within[picture_window]).sum()) / max(1, int(mask.sum()))


def _paste(picture: Picture, mask: Mask, cut: Cut) -> None:
    """Paste a cut into a picture, and add it to the mask of pasted pixels, both in place."""
    picture_window, cut_window = _overlap_windows(cut, mask.shape)
    picture[picture_window] = blend(picture[picture_window], cut.pixels[cut_window], cut.opacity[cut_window])
    mask[picture_window] |= cut.mask[cut_window]
