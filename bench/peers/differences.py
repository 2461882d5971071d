"""Which of anomalib's ways makes its contours other than flawscope's?

    python bench/peers/differences.py --data ROOT --sets mvtec/toothbrush,real/cookie

PatchCore at anomalib's own size, 256x256, with a coreset of 10 %, in flawscope's code alone. Distances of
patches are stored once for each way in which the network can see a picture; all maps are drawn of these. One
way is changed at a time: the normalization of colours, the resize, how a map is enlarged, its blur, the
coreset's start. Each is judged on test pictures, at their own size, and on simulated defects of all kinds on
good pictures that were left out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402
from common import Cell, Pictures, Record  # noqa: E402

SETS = "mvtec/toothbrush,real/cookie,real/lens,real/fabric,real/paper_flr01_tl"
SIDE, RATIO = 256, 0.1
LEFT_OUT, SIMULATED = 16, 60
BATCH, BLOCK = 8, 1024
SEED = 93
Picture = np.ndarray


class Way(NamedTuple):
    """How the network sees a picture, and how a map is drawn of its patches' distances.

    colours: the normalization that the weights were trained with, one of the same mean and less spread
    (contrast 1.5), or ImageNet's mean and standard deviation, as anomalib has it. resize: Pillow's of 8 bits,
    or the same in floats. start: the coreset's first patch.
    """

    colours: str = "own"
    resize: str = "8 bits"
    enlarge: str = "bilinear"
    sigma: float = 4.0
    start: int = 0


OURS = Way()
WAYS = {
    "flawscope": OURS,
    "colours by ImageNet": OURS._replace(colours="ImageNet"),
    "contrast 1.5": OURS._replace(colours="contrast 1.5"),
    "resize in floats": OURS._replace(resize="floats"),
    "enlarged by nearest": OURS._replace(enlarge="nearest"),
    "sigma 3": OURS._replace(sigma=3.0),
    "sigma 6": OURS._replace(sigma=6.0),
    "another coreset start": OURS._replace(start=1077),
    "all three, as anomalib": OURS._replace(colours="ImageNet", resize="floats", enlarge="nearest"),
}


class Distances(NamedTuple):
    """Distances [N, 32, 32] of patches to a bank: of the test pictures to that of all good ones, and of
    left-out good pictures and simulated defects to that of the others."""

    test: np.ndarray
    simulated: np.ndarray


class Network:
    """The default backbone's patches at 256 px."""

    def __init__(self) -> None:
        from flawscope.methods.features.backbone import IMAGENET, load_backbone
        from flawscope.methods.features.weights import DEFAULT_BACKBONE
        from flawscope.methods.patch_detector import PatchEmbedding

        size = (SIDE, SIDE)
        self.backbone, _ = load_backbone(DEFAULT_BACKBONE, (2, 3), size)
        self.embedding = PatchEmbedding(self.backbone.shapes_at(size), 3, None)
        mean, std = self.backbone.mean.clone(), self.backbone.std.clone()
        self.colours = {
            "own": (mean, std),
            "contrast 1.5": (mean, std / 1.5),
            "ImageNet": (
                mean.new_tensor(IMAGENET[0]).view_as(mean),
                std.new_tensor(IMAGENET[1]).view_as(std),
            ),
        }

    def patches(self, pictures: Sequence[Picture], way: Way) -> Any:
        """Patches [N, 1024, D]."""
        import torch

        self.backbone.mean, self.backbone.std = self.colours[way.colours]
        found = []
        for start in range(0, len(pictures), BATCH):
            images = torch.stack([resized(one, way.resize) for one in pictures[start : start + BATCH]])
            with torch.inference_mode():
                found.append(self.embedding(self.backbone(images)))
        return torch.cat(found)


def resized(picture: Picture, resize: str) -> Any:
    """The picture [3, 256, 256] in 0..1."""
    import torch
    from PIL import Image

    from flawscope.methods.patch_detector import reducing_matrix

    if resize == "8 bits":
        small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    whole = torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
    return reducing_matrix(SIDE, whole.shape[1]) @ whole @ reducing_matrix(SIDE, whole.shape[2]).T


def select_bank(patches: Any, start: int) -> Any:
    from flawscope.methods.patchcore import coreset

    points = patches.flatten(0, 1)
    return points[coreset.select(points, int(RATIO * len(points)), first=start).indices]


def distances(patches: Any, bank: Any) -> np.ndarray:
    """Distance of each patch [N, P, D] to its nearest of the bank, on its grid."""
    import torch

    from flawscope.methods.patchcore.model import products, smallest

    centre = bank.mean(0)
    elements = bank - centre
    norms, found = elements.square().sum(1), []
    for one in patches - centre:
        best = smallest(products(one, norms, elements, BLOCK)) + one.square().sum(1)
        found.append(best.clamp(min=0).sqrt())
    side = math.isqrt(patches.shape[1])
    return np.asarray(torch.stack(found).view(-1, side, side))


def draw_maps(values: np.ndarray, way: Way) -> np.ndarray:
    """Maps [N, 256, 256] of distances on a grid."""
    import torch
    from torch.nn import functional as F

    from flawscope.methods.patch_detector import smooth_matrix, smoothing_matrix

    cells = values.shape[-1]
    if way.enlarge == "bilinear":
        matrix = smoothing_matrix(SIDE, cells, way.sigma)
    else:
        identity = torch.eye(cells, dtype=torch.float64)[None]
        nearest = F.interpolate(identity, size=SIDE, mode="nearest")[0].T
        matrix = smooth_matrix(nearest, way.sigma).float()
    return np.asarray(matrix @ torch.from_numpy(values) @ matrix.T)


def judged(maps: np.ndarray, pictures: Pictures) -> Cell:
    """Metrics of maps, whose maxima are the scores."""
    return common.judge_maps(maps.max((1, 2)), maps, pictures.masks)


# ----------------------------------------------------------------------------------------------- the pictures


def read(path: Path) -> Picture:
    from flawscope.pictures.arrays import grey_as_rgb
    from flawscope.pictures.decoding import decode, to_eight_bits

    return np.asarray(grey_as_rgb(to_eight_bits(decode(path))))


def test_pictures(data: Any) -> Pictures:
    from flawscope.datasets.masks import union_masks

    pixels = [read(item.path) for item in data.test]
    masks = []
    for item, picture in zip(data.test, pixels, strict=True):
        size = picture.shape[:2]
        masks.append(union_masks(item.masks, size) if item.anomalous else np.zeros(size, bool))
    return Pictures(pixels, masks)


def measure(root: Path) -> Cell:
    """Metrics of each way, on test pictures and on simulated defects."""
    import flawscope

    data = flawscope.open_dataset(root)
    train, test = [read(item.path) for item in data.train], test_pictures(data)
    order = np.random.default_rng(0).permutation(len(train))
    left_out = order[: min(LEFT_OUT, len(train) * 2 // 5)]
    learnt = np.sort(order[len(left_out) :])
    simulated = common.with_simulated_defects([train[k] for k in left_out], SIMULATED, SEED)
    network = Network()

    stored: dict[Way, Distances] = {}
    found: Cell = {"learnt": len(train), "left out": len(left_out)}
    for name, way in WAYS.items():
        seen = OURS._replace(colours=way.colours, resize=way.resize, start=way.start)
        if seen not in stored:
            good = network.patches(train, seen)
            whole, part = select_bank(good, seen.start), select_bank(good[learnt], seen.start)
            stored[seen] = Distances(
                distances(network.patches(test.pictures, seen), whole),
                distances(network.patches(simulated.pictures, seen), part),
            )
        values = stored[seen]
        found[name] = {
            "test": judged(draw_maps(values.test, way), test),
            "simulated": judged(draw_maps(values.simulated, way), simulated),
        }
    return found


def report(cells: dict[str, Cell]) -> None:
    rows = []
    for kind in ("test", "simulated"):
        for way in WAYS:
            for name, cell in cells.items():
                rows.append({"on": kind, "way": way, "set": name, **cell[way][kind]})
    common.print_table("one way changed at a time", rows)


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "peers-differences")
    parser.add_argument("--sets", default=SETS, help="default: %(default)s")
    args = common.parse_arguments(parser, sets="mvtec/plate")
    torch.set_num_threads(args.threads)
    record = Record(args, "ways of flawscope and anomalib, one changed at a time")
    report(common.measure_sets(args, record, args.sets.split(","), measure))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
