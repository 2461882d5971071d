"""python predict.py MODEL.onnx PICTURE...: a line of JSON each, with numpy, Pillow and ONNX Runtime alone."""

import base64
import json
import os
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before it is imported: nothing is sent to anybody
import onnxruntime

BATCH, ROWS = 4, 256  # tiles that are computed, and rows of a large map that are put together, at a time

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
entries = session.get_modelmeta().custom_metadata_map
manifest = json.loads(entries["flawscope"])
how, good, rows, fusion = map(manifest.get, ("preprocess", "calibration", "pictures", "fusion"))
tile, overlap = (how.pop(key, None) for key in ("tile", "overlap"))  # with tiles alone
how.pop("black_level", None)  # of pictures of more than 8 bits
if manifest["format"] not in (5, 6) or set(how) != {*("size", "keep_aspect", "crop", "white_level")}:
    sys.exit(f"{sys.argv[1]}: made by a flawscope that this example does not know")
size, seen = np.array(how["size"]), np.array(how["crop"] or how["size"])  # before and after cropping
region = np.ones(seen, bool)  # what counts; without tiles the network itself knows it
if packed := entries.get("flawscope.region"):
    region = np.frombuffer(zlib.decompress(base64.b64decode(packed)), bool).reshape(seen)
counted = [k for k, score in enumerate(rows["score"]) if rows["counted"][k] and score is not None]
units, scored, maxima = ([rows[name][k] for k in counted] for name in ("unit", "score", "maximum"))
_, unit, sizes = np.unique(units if good["promised"] else counted, return_inverse=True, return_counts=True)
weights, allowed = 1 / sizes[unit], good["rate"] * (len(sizes) + 1) - 1 + 1e-9  # a part's pictures: 1


def threshold(values):
    """The smallest of good pictures' values above which no more of them lie than the rate allows."""
    order = np.argsort(-np.array(values), kind="stable")
    above = np.cumsum([0, *weights[order][:-1]])
    return values[order[max(0, np.searchsorted(above, allowed, side="right") - 1)]]


def read(path):
    """The upright picture, RGB."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode[0] in "IF":
        sys.exit(f"{path}: has more than 8 bits, which this example does not know")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # a large one is not copied again
    paper = Image.new("RGB", image.size, "white")  # transparent pixels show white
    paper.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
    return paper


def resized(picture, height, width, y0=0, x0=0):
    """[height, width, 3] uint8: the picture without y0 rows above and below and x0 columns on both sides."""
    y1, x1 = picture.height - y0, picture.width - x0
    # The width first: Pillow 13 would take the height first in tall pictures, and round otherwise
    across = picture.resize((width, picture.height), Image.Resampling.BILINEAR, (x0, 0, x1, picture.height))
    return np.asarray(across.resize((width, height), Image.Resampling.BILINEAR, (0, y0, width, y1)))


def run(views):
    """Scores and maps of pixels [H, W, 3], each with what of them counts; the rest is marked, v as -1 - v."""
    images = [np.divide(pixels.transpose(2, 0, 1), 255, dtype=np.float32) for pixels, _ in views]
    images = [np.where(counts, image, -1 - image) for image, (_, counts) in zip(images, views, strict=True)]
    return session.run(["scores", "maps"], {"images": np.stack(images)})


def judge(path):
    """Score and map of a picture; with tiles the map is as large as the canvas that they are cut from."""
    picture = read(path)
    whole = np.array([picture.height, picture.width])
    canvas, scale = seen, size / whole
    if tile:
        canvas = np.maximum(1, np.round(whole * seen / tile)).astype(int)
        if (canvas < seen).any():
            sys.exit(f"{path}: is smaller than a tile of {tile[1]} x {tile[0]} pixels")
    if how["keep_aspect"]:
        scale[:] = max(scale) if how["crop"] else min(scale)
    inner = np.array(how["crop"] or np.clip(np.round(whole * scale), 1, size).astype(int))
    corner = np.maximum(0, (whole - inner / scale) / 2) if how["crop"] else np.zeros(2)
    around = [(n // 2, n - n // 2) for n in seen - inner]  # padding: the edges are repeated
    pixels = np.pad(resized(picture, *inner, *corner), [*around, (0, 0)], "edge")
    (score,), (map_,) = run([(pixels, region & np.pad(np.ones(inner, bool), around))])
    if (canvas == seen).all():
        return score, map_
    # Where the canvas's rows and columns lie in this view, multiplied in flawscope's order
    step = inner / whole * whole / canvas
    places = [(np.arange(canvas[k]) + 0.5) * step[k] + around[k][0] for k in (0, 1)]
    score, map_ = (found * fusion["factor"] + fusion["shift"] for found in (score, map_))
    return with_tiles(resized(picture, *canvas), places, score, map_)


def with_tiles(canvas, places, score, view):
    """Score and map of a canvas [H, W, 3], from its tiles and from score and map of the whole picture."""
    counts = region[np.ix_(*(place.astype(int) for place in places))]
    down, across = (side(counts.shape[k], seen[k]) for k in (0, 1))
    tiles = [(y, x) for y in down for x in across if counts[y[0], x[0]].any()]
    blended, lowest = np.zeros(counts.shape, np.float32), np.inf if tiles else 0
    for k in range(0, len(tiles), BATCH):
        batch = tiles[k : k + BATCH]
        found = run([(canvas[y, x], counts[y, x]) for (y, _), (x, _) in batch])
        for ((y, dy), (x, dx)), one, drawn in zip(batch, *found, strict=True):
            blended[y, x] += drawn * dy[:, None] * dx
            score, lowest = np.maximum(score, one), min(lowest, drawn.min())
    blended[~counts] = lowest  # the tiles there were not computed
    for rows in (slice(k, k + ROWS) for k in range(0, len(blended), ROWS)):
        larger = between(between(view, places[0][rows]).T, places[1]).T
        np.maximum(blended[rows], larger, out=blended[rows], where=counts[rows])
    return (blended.max() if fusion["score"] == "map" else score), blended


def side(whole, part):
    """Where tiles lie along one side of the canvas, and what each pixel counts for: less near a neighbour."""
    stride = max(1, part - round(overlap * part))
    starts = [min(k * stride, whole - part) for k in range(-(-(whole - part) // stride) + 1)]
    middles, ramps, total = np.arange(part) + 0.5, np.ones((len(starts), part)), np.zeros(whole)
    for k, shared in enumerate(part - np.diff(starts)):
        if shared > 0:
            ramps[k] *= np.clip((part - middles) / shared, 0, 1)
            ramps[k + 1] *= np.clip(middles / shared, 0, 1)
    tiles = [(slice(start, start + part), ramp) for start, ramp in zip(starts, ramps, strict=True)]
    for window, ramp in tiles:
        total[window] += ramp
    return [(window, np.float32(ramp / total[window])) for window, ramp in tiles]


def between(rows, places):
    """A map's rows at these places, linear between their centres, which lie at i + 0.5."""
    at = np.clip(places - 0.5, 0, len(rows) - 1)
    low, high = np.floor(at).astype(int), np.ceil(at).astype(int)
    return rows[low] + (rows[high] - rows[low]) * np.float32(at - low)[:, None]


scores, limits = np.array(scored), [threshold(values) for values in (scored, maxima)]
for path in sys.argv[2:]:
    score, map_ = judge(path)
    p_value, marked = (1 + weights[scores >= score].sum()) / (len(sizes) + 1), np.mean(map_ > limits[1])
    found = {"path": path, "score": float(score), "is_anomalous": not score <= limits[0]}
    print(json.dumps({**found, "p_value": float(p_value), "share_marked": float(marked)}))
