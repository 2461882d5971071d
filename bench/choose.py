"""Which settings of PatchCore find most on all products at once?

    FLAWSCOPE_DATA=data python bench/choose.py --folders data/lens,data/pcb --work FOLDER
    python bench/choose.py --categories "" --kinds gear,wood --work FOLDER

A setting is tuned on what no test set says: simulated defects on good pictures that are left out of the
training set of a real product, and drawn products with their drawn defects. For each product the setting is
chosen by all the others, and judged on it (`chosen without it`). The real defects of the public test sets are
printed beside, and choose nothing.

A setting names its looks at a picture: `lite0 256 .1, lite0 512 2000 fine` is EfficientNet-Lite0 at 256 px
with a tenth of the patches in the memory bank, and at 512 px with 2,000 of stage 2 alone. The patches are
`joined` (stages 2 and 3 at stride 8, the default), `fine` (stage 2), `coarse` (stage 3, stride 16), `half`
(stages 2 and 3 at stride 16), `scaled` (joined, every channel divided by its spread in good patches), `three`
(joined, the mean distance of the three nearest elements), or `residual` (joined, the distance from the
subspace of so many principal components). The largest of the looks' maps counts, with `mean: ...` their mean,
with `norm: ...` the root of the sum of their squares, of what is above 0; `sigma 6: ...` smooths by 6 pixels;
`deviation: ...` divides them by their standard deviation in good pictures, not by how far the highest
hundredth lies above the mean. `lite0-imagenet` has the mean and spread of ImageNet's colours in place of the
network's own, which are 0.5. Times are beside that of the default until these measurements.
Greedy k-center picks a small bank before a large one, so that one selection and one search serve all sizes of
a bank, and all settings share the looks, which stay in --work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import common
from common import Args, Cell, Record

SIDE, MAP = 512, 256  # pixels of pictures and of maps
SIGMA = 4.0  # pixels at a look's size
SPREAD_QUANTILE = 0.99  # of the maps of good pictures: how far it lies above their mean is their scale
LEFT_OUT = 5  # every so many good pictures of the training set are left out
SIMULATED = 60
CONTRASTS = 8.0, 64.0  # grey levels of simulated defects
LEVELS = 2**16  # that map values are counted in
OVERLAP_LIMIT = 0.3  # false-positive rate up to which AU-PRO counts
KINDS = "gear,bottle,keys,cable,wood,mesh,leather,pill,sheet,fabric"
BEFORE = "deviation: lite0 256 .1, lite0 384 .03"  # the default until these measurements
IMAGENET = "-imagenet"
STAGES = {"fine": (2,), "coarse": (3,)}  # of patches; others: both
Floats = NDArray[np.float32]


class Look(NamedTuple):
    backbone: str
    size: int
    bank: str  # elements, or a share of the patches
    patches: str = "joined"

    def elements(self, patches: int) -> int:
        """Elements of the bank, of so many patches."""
        if not self.bank.startswith("."):
            return min(int(self.bank), patches)
        wanted = round(float(self.bank) * patches)  # as PatchCore counts with sizes from 256 on
        return min(wanted if self.size == 256 else max(wanted, 2000), patches)


def looks_of(setting: str) -> list[Look]:
    words = [text.split() for text in setting.split(": ")[-1].split(",")]
    return [Look(w[0], int(w[1]), *w[2:]) for w in words]


JOINS: dict[str, Callable[[Sequence[Floats]], Floats]] = {
    "maximum": lambda maps: np.maximum.reduce(maps),
    "mean": lambda maps: np.add.reduce(maps) / np.float32(len(maps)),
    "norm": lambda maps: np.sqrt(sum(np.square(np.maximum(one, 0)) for one in maps)),
}


class Options(NamedTuple):
    """How the maps of a setting's looks are made and brought together."""

    sigma: float  # pixels that they are smoothed by at each look's size
    join: str  # maximum, mean or norm
    by_deviation: bool

    @classmethod
    def of(cls, setting: str) -> Options:
        words = setting.split(": ")[0].split() if ": " in setting else []
        sigma = float(words[words.index("sigma") + 1]) if "sigma" in words else SIGMA
        join = next((word for word in words if word in JOINS), "maximum")
        return cls(sigma, join, "deviation" in words)


SETTINGS = [
    BEFORE,
    "lite0 256 .1, lite0 384 .03",
    "lite0 256 .03, lite0 384 .01",
    "lite0 256 2000, lite0 384 2000",
    "lite0 256 .1, lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite0 256 .1, lite0 512 4000 coarse, lite0 512 4000 fine",
    "lite0 256 2000, lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite0 256 2000, lite0 512 2000 fine",
    "lite0 256 2000, lite0 512 2000",
    "lite0 256 2000, lite0 512 2000 half",
    "lite0 256 2000, lite0 384 2000, lite0 512 2000",
    "lite0 384 2000, lite0 512 2000",
    "lite0 512 4000",
    "lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite0 256 2000 coarse, lite0 256 2000 fine, lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite0 256 2000, lite0 384 2000 coarse, lite0 384 2000 fine",
    "lite0 384 2000, lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite0 256 2000, lite0 384 2000, lite0 512 2000 coarse, lite0 512 2000 fine",
    "mean: lite0 256 .1, lite0 384 .03",
    "mean: lite0 256 2000, lite0 512 2000 coarse, lite0 512 2000 fine",
    "mean: lite0 384 2000 coarse, lite0 384 2000 fine, lite0 512 2000 coarse, lite0 512 2000 fine",
    "sigma 3: lite0 256 2000, lite0 512 2000",
    "sigma 6: lite0 256 2000, lite0 512 2000",
    "norm: lite0 256 .1, lite0 384 .03",
    "norm: lite0 256 .03, lite0 384 2000 coarse, lite0 384 2000 fine",
    "norm: lite0 256 .1, lite0 512 2000 coarse, lite0 512 2000 fine",
    "norm: lite0 256 .1, lite0 512 4000 coarse, lite0 512 4000 fine",
    "norm: lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite1 256 2000, lite1 384 2000",
    "lite2 256 2000, lite2 384 2000",
    "lite2 256 2000, lite2 384 2000, lite2 512 2000",
    "norm: lite2 256 2000, lite2 512 2000 coarse, lite2 512 2000 fine",
    "norm: lite2 256 2000, lite0 512 2000 coarse, lite0 512 2000 fine",
    "lite0 256 2000 scaled, lite0 384 2000 scaled",
    "lite0 256 2000 three, lite0 384 2000 three",
    "lite0 256 64 residual, lite0 384 64 residual",
]


# ----------------------------------------------------------------------------------------------- products


@dataclass
class Pictures:
    """Pictures [N, SIDE, SIDE, 3], and where their defects are [N, MAP, MAP] bool."""

    pixels: list[NDArray[np.uint8]] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> None:
        self.pixels.append(_resized(pixels, SIDE))
        self.masks.append(np.zeros((MAP, MAP), np.bool_) if mask is None else _resized(mask, MAP))


def _resized(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    """A picture, or a mask by the nearest pixels, as evaluation does it."""
    from PIL import Image

    if pixels.dtype == np.bool_:
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


def pictures_of(root: Path, drawn: bool) -> dict[str, Pictures]:
    """Pictures to learn from, good ones that are left out, and those with defects: `tuned`, and `real` of a
    product that is not drawn."""
    import flawscope

    dataset = flawscope.open_dataset(root)
    made = {name: Pictures() for name in ("learnt", "good", "tuned", "real")}
    for i, item in enumerate(dataset.train):
        made["good" if i % LEFT_OUT == LEFT_OUT - 1 else "learnt"].add(_read(item.path))
    for item in dataset.test:
        made["tuned" if drawn else "real"].add(_read(item.path), _mask(item))
    if drawn:
        del made["real"]
    else:
        _simulate(made)
    return made


def _read(path: Path) -> NDArray[np.uint8]:
    from flawscope.pictures.decoding import decode, to_eight_bits

    return to_eight_bits(decode(path))


def _mask(item: Any) -> NDArray[np.bool_] | None:
    from flawscope.datasets.masks import read_any_mask

    if not item.anomalous:
        return None
    return np.logical_or.reduce([read_any_mask(mask) for mask in item.masks])


def _simulate(made: Mapping[str, Pictures]) -> None:
    """Simulated defects of all sizes and contrasts on the good pictures that are left out, beside these."""
    from flawscope.synthesis import DefectScale, Foreground, simulate_defect

    good, scales = made["good"].pixels, list(DefectScale)
    for picture in good:
        made["tuned"].add(picture)
    part = Foreground.of(good)
    for number in range(SIMULATED):
        rng, picture = np.random.default_rng([5600, number]), good[number % len(good)]
        contrast = float(np.exp(rng.uniform(*np.log(CONTRASTS))))
        scale = scales[number % len(scales)]
        defect = simulate_defect(picture, rng, scale=scale, contrast=contrast, foreground=part.mask(picture))
        made["tuned"].add(defect.picture, defect.mask)


# ------------------------------------------------------------------------------------------------- a look


@cache
def backbone_of(name: str, stages: tuple[int, ...] = (2, 3)) -> Any:
    import torch

    from flawscope.methods.features import backbone

    made, _ = backbone.load_backbone(f"tf_efficientnet_{name.removesuffix(IMAGENET)}", stages, (SIDE, SIDE))
    if name.endswith(IMAGENET):
        for buffer, values in zip((made.mean, made.std), backbone.IMAGENET, strict=True):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
    return made.to(memory_format=torch.channels_last)


def embeddings_at(backbone: str, size: int, kinds: Sequence[str]) -> dict[str, Any]:
    """By kind of patches: which of the maps they take, and how these become patches."""
    from flawscope.methods.patch_detector import PatchEmbedding

    shapes = backbone_of(backbone).shapes_at((size, size))
    numbers = {kind: [stage - 2 for stage in STAGES.get(kind, (2, 3))] for kind in kinds}
    return {k: (n, PatchEmbedding([shapes[i] for i in n], 3, None)) for k, n in numbers.items()}


def patches_of(backbone: str, size: int, kinds: Sequence[str], pixels: Sequence[Any]) -> dict[str, Any]:
    """Patches [N, P, D] of pictures, by kind."""
    import torch
    from PIL import Image

    made: dict[str, list[Any]] = {kind: [] for kind in kinds}
    embeddings = embeddings_at(backbone, size, kinds)
    with torch.inference_mode():
        for k in range(0, len(pixels), 4):
            seen = [
                np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BILINEAR))
                for p in pixels[k : k + 4]
            ]
            images = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float() / 255
            maps = backbone_of(backbone)(images.contiguous(memory_format=torch.channels_last))
            for kind, (numbers, embedding) in embeddings.items():
                found = embedding([maps[n] for n in numbers])
                if kind == "half":  # the mean of two by two
                    grid = found.transpose(1, 2).unflatten(2, embedding.grid)
                    found = torch.nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
                made[kind].append(found)
    return {kind: torch.cat(parts) for kind, parts in made.items()}


def search_look(work: Path, name: str, pictures: Mapping[str, Pictures], looks: Sequence[Look]) -> None:
    """Write the distances of all pictures' patches to the banks of looks that differ in bank and patches."""
    import torch

    from flawscope.methods.patchcore import coreset

    backbone, size = looks[0].backbone, looks[0].size
    kinds = sorted({look.patches for look in looks})
    learnt = patches_of(backbone, size, kinds, pictures["learnt"].pixels)
    shown = {s: patches_of(backbone, size, kinds, p.pixels) for s, p in pictures.items() if s != "learnt"}
    for kind in kinds:
        began = time.perf_counter()
        points = learnt.pop(kind).flatten(0, 1)
        scale = points.std(0).clamp(min=1e-6) if kind == "scaled" else torch.ones(())
        points = points / scale if kind == "scaled" else points
        counts = {look.bank: look.elements(len(points)) for look in looks if look.patches == kind}
        if kind != "residual":
            bank = points[coreset.select(points, max(counts.values())).indices]
        arrays: dict[str, Any] = {"seconds": time.perf_counter() - began, "learnt": len(points)}
        for which in shown:
            queries = shown[which].pop(kind)
            flat, wanted = queries.flatten(0, 1) / scale, sorted(set(counts.values()))
            if kind == "residual":
                away = residuals(flat, points, wanted)
            else:
                away = nearest(flat, bank, wanted, 3 if kind == "three" else 1)
            for text, count in counts.items():
                arrays[f"{which} {text}"] = away[count].view(queries.shape[:2]).numpy()
        np.savez(_file(work, name, looks[0]._replace(patches=kind)), **arrays)


def residuals(queries: Any, points: Any, counts: Sequence[int]) -> dict[int, Any]:
    """Distances [Q] from the subspace of the points' first principal components, for so many of them each."""
    import torch

    centre = points.mean(0)
    values, vectors = torch.linalg.eigh((points - centre).T @ (points - centre))
    along = ((queries - centre) @ vectors).square()
    return {count: along[:, : len(values) - count].sum(1).sqrt() for count in counts}


def nearest(queries: Any, bank: Any, counts: Sequence[int], few: int = 1) -> dict[int, Any]:
    """Mean distances [Q] to the `few` nearest of the bank's first elements, for so many of them each."""
    import torch

    made, start = {}, 0
    centre = bank.mean(0)
    queries, bank = queries - centre, bank - centre
    norms, squares = (bank * bank).sum(1), (queries * queries).sum(1)
    best = torch.full((len(queries), few), torch.inf)
    for count in counts:
        for k in range(start, count, 1024):
            part = slice(k, min(k + 1024, count))
            for rows in range(0, len(queries), 1024):
                block = slice(rows, rows + 1024)
                away = torch.addmm(norms[part], queries[block], bank[part].T, alpha=-2)
                if few == 1:
                    torch.minimum(best[block], away.amin(1, keepdim=True), out=best[block])
                else:
                    best[block] = torch.cat([best[block], away], 1).topk(few, largest=False).values
        made[count], start = (best + squares[:, None]).clamp(min=0).sqrt().mean(1), count
    return made


def _file(work: Path, name: str, look: Look) -> Path:
    return work / f"{name}-{look.backbone}-{look.size}-{look.patches}.npz"


def search_product(work: Path, name: str, root: Path, drawn: bool, settings: Sequence[str]) -> None:
    """Write what --work lacks of a product's looks."""
    groups: dict[tuple[str, int], set[Look]] = {}
    for look in (look for setting in settings for look in looks_of(setting)):
        banks = _banks(work, name, look)
        if look.bank not in banks:
            looks = {look, *(look._replace(bank=bank) for bank in banks)}
            groups.setdefault((look.backbone, look.size), set()).update(looks)
    if not groups:
        return
    pictures = pictures_of(root, drawn)
    for looks in groups.values():
        began = time.perf_counter()
        search_look(work, name, pictures, sorted(looks))
        first = min(looks)
        common.say(f"{name}, {first.backbone} {first.size}: {time.perf_counter() - began:.0f} s")
    masks = {which: np.stack(p.masks) for which, p in pictures.items() if which in ("tuned", "real")}
    np.savez_compressed(work / f"{name}-masks.npz", **masks)


def _banks(work: Path, name: str, look: Look) -> list[str]:
    """The banks of a look's patches that --work holds."""
    path = _file(work, name, look)
    texts = np.load(path).files if path.is_file() else []
    return [text.removeprefix("good ") for text in texts if text.startswith("good ")]


# ---------------------------------------------------------------------------------------------- a setting


def judge(work: Path, name: str, setting: str) -> Cell:
    """What a setting finds in a product: of `tuned` and, where it is not drawn, `real` defects."""
    looks, how = looks_of(setting), Options.of(setting)
    files = [np.load(_file(work, name, look)) for look in looks]
    masks = np.load(work / f"{name}-masks.npz")
    scales = []
    for look, file in zip(looks, files, strict=True):
        drawn = _maps(look, file[f"good {look.bank}"], how.sigma)
        spread = drawn.std() if how.by_deviation else np.quantile(drawn, SPREAD_QUANTILE) - drawn.mean()
        scales.append((drawn.mean(), max(float(spread), 1e-9)))
    made: Cell = {}
    for which in masks.files:
        maps = [
            (_maps(look, file[f"{which} {look.bank}"], how.sigma) - mean) / spread
            for look, file, (mean, spread) in zip(looks, files, scales, strict=True)
        ]
        made[which] = metrics(JOINS[how.join](maps), masks[which])
    made["banks"] = [look.elements(int(file["learnt"])) for look, file in zip(looks, files, strict=True)]
    return made


@cache
def _matrix(size: int, cells: int, sigma: float) -> Floats:
    from flawscope.methods.patch_detector import smoothing_matrix

    return np.asarray(smoothing_matrix(MAP, cells, sigma * MAP / size).numpy())


def _maps(look: Look, distances: Floats, sigma: float) -> Floats:
    """Maps [N, MAP, MAP] of distances [N, P]."""
    cells = round(distances.shape[1] ** 0.5)
    matrix = _matrix(look.size, cells, sigma)
    return np.asarray(matrix @ distances.reshape(-1, cells, cells) @ matrix.T)


def metrics(maps: Floats, masks: NDArray[np.bool_]) -> Cell:
    """Image and pixel AUROC and AU-PRO, the last two of map values that are rounded to `LEVELS`."""
    from scipy import ndimage

    from flawscope.evaluation.metrics import auroc

    low, high = float(maps.min()), float(maps.max())
    levels = ((maps - low) * ((LEVELS - 1) / (high - low))).astype(np.int32)
    normal = np.bincount(levels[~masks], minlength=LEVELS)
    defective = np.bincount(levels[masks], minlength=LEVELS)
    overlap, regions = np.zeros(LEVELS), 0
    for drawn, mask in zip(levels, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        for region in range(1, count + 1):
            inside = drawn[labels == region]
            overlap += np.bincount(inside, minlength=LEVELS) / len(inside)
        regions += count
    false, true = (_share_above(values) for values in (normal, defective))
    covered = _share_above(overlap / regions)
    within = false <= OVERLAP_LIMIT
    x = np.append(false[within], OVERLAP_LIMIT)
    y = np.append(covered[within], np.interp(OVERLAP_LIMIT, false, covered))
    found = {
        "image_auroc": auroc(masks.any((1, 2)), maps.max((1, 2))),
        "pixel_auroc": float(np.trapezoid(true, false)),
        "au_pro": float(np.trapezoid(y, x)) / OVERLAP_LIMIT,
    }
    return {key: common.round_to(value, 4) for key, value in found.items()}


def _share_above(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Shares of what is counted at a level or above it, from the highest level to the lowest, after 0."""
    whole = np.cumsum(counts[::-1])
    return np.concatenate([[0.0], whole / whole[-1]])


# --------------------------------------------------------------------------------------------------- time


def measure_times(settings: Sequence[str], repeats: int) -> Cell:
    """Seconds on one thread: of the network of every look, and of a search among 1,000 elements."""
    import torch

    torch.set_num_threads(1)
    works: dict[str, Any] = {}
    for look in dict.fromkeys(look for setting in settings for look in looks_of(setting)):
        stages = (2,) if look.patches == "fine" else (2, 3)
        network = backbone_of(look.backbone, stages)
        image = torch.rand(1, 3, look.size, look.size).contiguous(memory_format=torch.channels_last)
        queries = patches_of(look.backbone, look.size, [look.patches], [np.zeros((SIDE, SIDE, 3), np.uint8)])
        points = queries[look.patches][0].contiguous()
        bank = torch.rand(1000, points.shape[1])
        works[_network_key(look)] = lambda network=network, image=image: network(image)
        works[_search_key(look)] = lambda points=points, bank=bank: nearest(points, bank, [1000])
    with torch.inference_mode():
        times = common.time_rounds(works, repeats)
    return {key: common.round_to(min(values), 4) for key, values in times.items()}


def _network_key(look: Look) -> str:
    stages = "2" if look.patches == "fine" else "2,3"
    return f"network {look.backbone} {look.size} {stages}"


def _search_key(look: Look) -> str:
    return f"search {look.backbone} {look.size} {look.patches}"


def picture_seconds(times: Cell, setting: str, banks: Sequence[int]) -> float:
    """Seconds that a picture takes: networks, of which looks at one size share one, and searches."""
    looks = looks_of(setting)
    networks: dict[tuple[str, int], float] = {}
    for look in looks:
        key = look.backbone, look.size
        networks[key] = max(networks.get(key, 0.0), times[_network_key(look)])
    searches = (times[_search_key(look)] * count / 1000 for look, count in zip(looks, banks, strict=True))
    return sum(networks.values()) + sum(searches)


# -------------------------------------------------------------------------------------------------- choice


def value(cell: Cell) -> float:
    """What settings are chosen by: the mean of image AUROC and AU-PRO, of defects that are no test set's."""
    return (cell["tuned"]["image_auroc"] + cell["tuned"]["au_pro"]) / 2


def rows_of(cells: Mapping[str, Cell], times: Cell, real: Sequence[str]) -> Iterator[Cell]:
    base = cells[BEFORE]
    for setting, cell in cells.items():
        ratios = [
            picture_seconds(times, setting, cell[name]["banks"])
            / picture_seconds(times, BEFORE, base[name]["banks"])
            for name in (real or cell)
        ]
        row: Cell = {
            "setting": setting,
            "time": round(float(np.mean(ratios)), 2),
            "tuned: value": round(float(np.mean([value(cell[name]) for name in cell])), 4),
            "tuned: worst product": round(min(value(cell[name]) - value(base[name]) for name in cell), 4),
        }
        if real:
            images = [cell[name]["real"]["image_auroc"] for name in real]
            row["real: image AUROC"] = round(float(np.mean(images)), 4)
            before = [base[name]["real"]["image_auroc"] for name in real]
            row["real: worst product"] = round(float(np.min(np.subtract(images, before))), 4)
        for name in real:
            found = cell[name]["real"]
            row[name] = f"{found['image_auroc']:.4f} / {found['pixel_auroc']:.4f} / {found['au_pro']:.3f}"
        yield row


def chosen_without(cells: Mapping[str, Cell], ratios: Mapping[str, float], limit: float) -> list[Cell]:
    """For each product the setting that the others choose within the time, and what it finds there."""
    allowed = [setting for setting in cells if ratios[setting] <= limit]
    rows = []
    for name in cells[BEFORE]:
        others = [other for other in cells[BEFORE] if other != name]
        best = max(allowed, key=lambda s: float(np.mean([value(cells[s][other]) for other in others])))
        judged = "real" if "real" in cells[best][name] else "tuned"
        row: Cell = {"product": name, "judged by": judged, "chosen without it": best}
        for key in common.MAIN_METRICS:
            before, after = cells[BEFORE][name][judged][key], cells[best][name][judged][key]
            row[key] = f"{before:.4f} -> {after:.4f}"
        rows.append(row)
    return rows


def print_markdown(title: str, rows: Sequence[Cell]) -> None:
    if not rows:
        return
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row.values())} |")


def main() -> int:
    import torch

    import drawn

    parser = common.make_parser(__doc__, "choose")
    parser.add_argument("--folders", default="", help="further data sets, of any layout, with commas")
    parser.add_argument("--kinds", default=KINDS, help="drawn products (default: %(default)s)")
    parser.add_argument("--settings", default=";".join(SETTINGS), help="with semicolons (default: all)")
    parser.add_argument("--search-only", action="store_true", help="fill --work, and judge nothing yet")
    parser.add_argument("--repeats", type=int, default=15, help="of times (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=1.25, help="times the default (default: %(default)s)")
    for name, count in (("learnt", 20), ("good", 10), ("bad", 20)):
        parser.add_argument(f"--{name}", type=int, default=count, help="drawn (default: %(default)s)")
    quick = f"{BEFORE};lite0 256 100 fine"
    args = common.parse_arguments(
        parser, kinds="sheet", learnt=5, good=2, bad=4, settings=quick, repeats=1, threads=1
    )
    torch.set_num_threads(args.threads)
    settings = [text.strip() for text in args.settings.split(";")]
    counts = {"train": args.learnt, "good": args.good, "bad": args.bad, "size": SIDE}
    with common.workspace(args.work) as work:
        real = [*common.category_folders(args)]
        real += [(Path(folder).name, Path(folder)) for folder in filter(None, args.folders.split(","))]
        names = [*filter(None, args.kinds.split(","))]
        kinds = [(name, drawn.product(work, name, seed=5600, **counts)) for name in names]
        for name, root in [*real, *kinds]:
            search_product(work, name, root, (name, root) in kinds, settings)
        if args.search_only:
            return 0
        return report(args, work, [name for name, _ in real], [name for name, _ in kinds], settings)


def report(args: Args, work: Path, real: list[str], kinds: list[str], settings: list[str]) -> int:
    record = Record(args, "settings of PatchCore, on all products at once")
    if not {*settings} <= {*record.cells.get("times", {}).get("of", [])}:
        record.cells.pop("times", None)  # all of them in one run
    timed = record.cell("times", lambda: {"of": settings, **measure_times(settings, args.repeats)})
    cells = {}
    for setting in settings:
        if not {*real, *kinds} <= {*record.cells.get(setting, {})}:
            record.cells.pop(setting, None)
        found = record.cell(setting, lambda s=setting: {n: judge(work, n, s) for n in [*real, *kinds]})
        cells[setting] = {name: found[name] for name in [*real, *kinds]}
    rows = [*rows_of(cells, timed, real)]
    print_markdown("settings: time beside the default's, and what they find", rows)
    ratios = {row["setting"]: row["time"] for row in rows}
    print_markdown(
        f"chosen by the other products, within {args.limit:g} of the time",
        chosen_without(cells, ratios, args.limit),
    )
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
