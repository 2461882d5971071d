"""What do presets of PatchCore find of a product of which few good pictures are known?

    python bench/few.py --data DATA
    python bench/few.py --data DATA --sets real/lens --counts 4 --draws 2

Real sets below DATA (skipped where they are missing). The good pictures of a draw are taken anew, those of a
smaller count are among those of a larger one, and all are judged on the same others, good and defective.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import common
import guards
from common import Cell, Record

FIGURES = ("image_auroc", "au_pro", "pixel_ap")


@contextmanager
def network_once() -> Iterator[None]:
    """Computes the features of each picture once, for all fits."""
    import torch

    from flawscope.methods.features.backbone import Backbone
    from flawscope.pictures.decoding import pixel_hash

    forward, made = Backbone.forward, {}

    def of_image(network: Backbone, image: torch.Tensor) -> list[torch.Tensor]:
        key = (network.name, network.stages, tuple(image.shape), pixel_hash(image.contiguous().numpy()))
        if key not in made:
            made[key] = [one.clone() for one in forward(network, image[None])]
        return made[key]

    def remembered(network: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat(maps) for maps in zip(*(of_image(network, i) for i in images), strict=True)]

    Backbone.forward = remembered  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backbone.forward = forward  # type: ignore[method-assign]


def measure(root: Path, count: int, draw: int, preset: str, most: tuple[int, int]) -> Cell:
    """A model of `count` training pictures of a draw, on at most so many good and defective others."""
    import flawscope

    dataset = flawscope.open_dataset(root)
    order = np.random.default_rng(draw).permutation(len(dataset.train))[:count]
    test = []
    for anomalous, least in zip((False, True), most, strict=True):
        some = [item for item in dataset.test if item.anomalous == anomalous]
        kept = np.random.default_rng(99).permutation(len(some))[:least]
        test += [some[k] for k in sorted(kept)]
    images = [dataset.train[k].path for k in order]
    predictor = flawscope.fit(images, preset=preset, samples=0, device="cpu", force=True)
    found = flawscope.evaluate(predictor, dataclasses.replace(dataset, test=tuple(test))).to_dict()
    return {key: found["metrics"].get(key) for key in FIGURES} | {"test": len(test)}


def rows_of(cells: dict[tuple[str, int, int, str], Cell], presets: list[str]) -> Iterator[Cell]:
    """Means over draws of each set, then over sets; of the last preset also less the first."""
    for count in sorted({key[1] for key in cells}):
        values = {key: [cell[f] for f in FIGURES] for key, cell in cells.items() if key[1] == count}
        sets = sorted({name for name, *_ in values})
        means = {
            (name, preset): np.mean(
                [values[key] for key in values if (key[0], key[3]) == (name, preset)], axis=0
            )
            for name in sets
            for preset in presets
        }
        for preset in presets:
            for name in sets:
                yield {"good pictures": count, "preset": preset, "set": name} | _figures(means[name, preset])
            mean = np.mean([means[name, preset] for name in sets], axis=0)
            yield {"good pictures": count, "preset": preset, "set": "mean"} | _figures(mean)
        gain = np.mean([means[name, presets[-1]] - means[name, presets[0]] for name in sets], axis=0)
        yield {"good pictures": count, "preset": "gain", "set": "mean"} | _figures(gain)


def _figures(values: np.ndarray) -> Cell:
    return dict(zip(FIGURES, (round(float(value), 4) for value in values), strict=True))


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "few")
    parser.add_argument("--sets", default=",".join(guards.REAL))
    parser.add_argument("--counts", type=common.ints, default=[1, 4, 8], help="good pictures")
    parser.add_argument("--draws", type=int, default=5, help="of the pictures (default: %(default)s)")
    parser.add_argument("--presets", default="default,accurate")
    parser.add_argument("--most", type=common.ints, default=[24, 32], help="good and defective others")
    args = common.parse_arguments(
        parser, sets="mvtec/plate", presets="default", counts=[1], draws=1, most=[2, 2]
    )
    torch.set_num_threads(args.threads)
    record = Record(args, "what is found of a product of which few good pictures are known")
    presets, cells = args.presets.split(","), {}
    for name, folder in common.set_folders(args, args.sets.split(",")):
        with network_once():
            for draw, count, preset in itertools.product(range(args.draws), args.counts, presets):
                work = partial(measure, folder, count, draw, preset, tuple(args.most))
                cell = record.attempt(f"{name}, {count} pictures, draw {draw}, {preset}", work)
                if cell is not None:
                    cells[name, count, draw, preset] = cell
    if cells:
        common.print_table("few good pictures", list(rows_of(cells, presets)))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
