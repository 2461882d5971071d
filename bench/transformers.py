"""What do transformers cost beside the default backbone: time, memory, file, and do both engines agree?

    python bench/transformers.py
    python bench/transformers.py --only "foundation,DINOv3 S/16 at 448"
    python bench/transformers.py --runtimes ""

Weights are random, as none of a transformer come with a package: neither time nor memory depends on them, and
nothing here says how well defects are found. First what one picture costs is counted, without running it:

    operations  of the networks, multiplications and additions, in 10^9; of the search, with full memory banks
    weights     MiB, of the layers that are used

Then models are fitted on drawn pictures, and each one and the default answer in turn (A B A B) in the same
engine, with memory banks of the same size:

    run         images to scores and maps, one picture
    over default
                the median of the ratios, round by round
    peak        MiB of a process that only answers for pictures
    score, map  the largest relative difference from torch; a map's is over its maximum
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import common
import models
from common import Args, Cell, Settings

LAYERS: Settings = {"neighbourhood": 1, "layers": "each"}
V3 = "vit_small_patch16_dinov3"
SUBJECTS: dict[str, Settings] = {
    "default": {},
    "default backbone at 448": {"size": "448"},
    "foundation": {"preset": "foundation"},  # DINOv2 S/14 at 448
    "foundation at 672": {"preset": "foundation", "size": "672"},
    "DINOv3 S/16 at 448": {"preset": "foundation", "backbone": V3},
    "DINOv2 B/14 at 448": {"preset": "foundation", "backbone": "vit_base_patch14_dinov2"},
    "DINOv3 S/16 at 448 by four layers": {
        **LAYERS, "backbone": V3, "size": "448", "distance": "cosine", "score": "map_top",
        "stages": "3,6,9,11",
    },
}  # fmt: skip
COUNTED: dict[str, Settings] = {
    **SUBJECTS,
    "RAD, DINOv3 B/16 at 448": {
        **LAYERS, "backbone": "vit_base_patch16_dinov3", "stages": "3,6,9,11", "size": "448"
    },
    "SuperADD, DINOv3 H+/16, one tile of 640": {
        **LAYERS, "backbone": "vit_huge_plus_patch16_dinov3", "stages": "7,15,23,31", "size": "640"
    },
}  # fmt: skip
SUBJECTS |= {"tiny": {**SUBJECTS["foundation"], "backbone": "test_vit"}}  # for --quick


def random_weights(backbone: str, folder: Path) -> Path:
    """A file with numbers of the size that training leaves, not timm's own, with which blocks do nothing."""
    import torch
    from safetensors.torch import save_file

    from flawscope.methods.features.backbone import import_timm

    path = folder / f"{backbone}.safetensors"
    if not path.is_file():
        network = import_timm().create_model(backbone, pretrained=False)
        generator = torch.Generator().manual_seed(0)
        state = {
            key: torch.randn(value.shape, generator=generator) * 0.03 + (1 if value.ndim == 1 else 0)
            for key, value in network.state_dict().items()
        }
        save_file(state, path)
    return path


def configured(settings: Settings) -> Any:
    from flawscope.methods import registry

    own = {key: value for key, value in settings.items() if key != "preset"}
    return registry.configure(registry.method("patchcore"), settings.get("preset", "default"), own)


def counted(settings: Settings) -> Cell:
    """What one picture costs: by shapes alone, so that the largest network takes no memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from flawscope.methods.features import backbone as backbones

    config, operations, search, patches = configured(settings), 0, 0, 0
    with torch.device("meta"), backbones._OnCpu(), torch.inference_mode():
        which = config.backbone, config.stages, config.network_size
        network = backbones._create(*which, config.final_norm, pretrained=False)
        backbone = backbones.Backbone(*which, network)
        for size, stage in config.looks:
            shapes = backbone.shapes_at(size)
            if stage in (None, 0):
                with FlopCounterMode(display=False) as counter:
                    backbone(torch.empty(1, 3, *size))
                operations += counter.get_total_flops()
            seen = shapes if stage is None else [shapes[stage]]
            cells, numbers = max(h * w for _, h, w in seen), sum(c for c, _, _ in seen)
            patches += cells
            search += 2 * cells * numbers * config.cap
    parameters = sum(value.numel() for value in backbone.state_dict().values())
    return {
        "networks": common.sig(operations / 1e9, 4),
        "search": common.sig(search / 1e9, 4),
        "patches": patches,
        "numbers": numbers,
        "weights_mib": common.sig(4 * parameters / common.MIB, 4),
    }


def fitted(settings: Settings, root: str, model: str, threads: int) -> Cell:
    import time

    import torch

    import flawscope

    torch.set_num_threads(threads)
    start = time.perf_counter()
    found = flawscope.fit(root, device="cpu", check=False, augment="none", **settings)
    took = time.perf_counter() - start
    found.save(model)
    config = found.manifest.config
    return {
        "seconds": common.sig(took, 4),
        "file_mib": common.sig(Path(model).stat().st_size / common.MIB, 4),
        "patches": sum(found.session.model.patches),
        "numbers": found.session.model.width,
        "bank": found.manifest.facts["bank"],
        "config": {key: config[key] for key in ("backbone", "stages", "size", "layers", "distance", "score")},
    }


def answered(model: str, pictures: list[str], threads: int) -> int:
    predictor = models.open_model(model, "cpu", threads)
    return len([predictor.predict(picture) for picture in pictures])


def in_turn(model: str, beside: str, trained: str, pictures: list[str], repeats: int, threads: int) -> Cell:
    """Seconds of one picture by both models, and how far this one is from torch."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    own, other, reference = (models.open_model(path, "cpu", threads) for path in (model, beside, trained))
    image, its = (p.manifest.preprocess(pictures[0])[0] for p in (own, other))
    works: dict[str, Any] = {"run": lambda: own.session.run(image), "default": lambda: other.session.run(its)}
    times = common.rounds(works, repeats)
    away: list[tuple[float, float]] = []
    for picture in pictures:
        shown = own.manifest.preprocess(picture)[0]
        (score, drawn), (expected, wanted) = own.session.run(shown), reference.session.run(shown)
        pixels = float(np.abs(drawn - wanted).max() / np.abs(wanted).max())
        away.append((float(abs(score[0] - expected[0]) / abs(expected[0])), pixels))
    score_away, map_away = (common.sig(max(one), 3) for one in zip(*away, strict=True))
    return {
        "run": common.spread(times["run"]),
        "over_default": common.paired(times["run"], times["default"]),
        "score": score_away,
        "map": map_away,
    }


def main() -> int:
    parser = common.parser(__doc__, "transformers", data=False)
    parser.add_argument(
        "--only", default=",".join(SUBJECTS).removesuffix(",tiny"), help="default: %(default)s"
    )
    parser.add_argument("--count", type=int, default=4096, help="elements of a bank (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--runtimes", default=",".join(common.RUNTIMES), help="default: %(default)s")
    args = common.arguments(parser, threads=1, repeats=1, count=64, only="default,tiny")
    record, rows = common.Record(args, "transformers with random weights beside the default backbone"), []
    for name, settings in COUNTED.items():
        cell = record.attempt(f"count/{name}", lambda: common.task(counted, settings=settings).json)  # noqa: B023
        rows += [{"of": name, **{k: v for k, v in cell.items() if k != "_"}}] if cell else []
    common.table("one picture, counted", rows)
    rows = []
    if not args.runtimes:
        return record.status()
    with common.workspace(args.work) as folder:
        root = common.draw(folder / "mvtec", train=8, good=4, bad=0, size=96 if args.quick else 512)
        pictures = [str(path) for path in common.pictures_below(root / "test")]
        first = folder / "default.safetensors"
        for name in dict.fromkeys(["default", *args.only.split(",")]):
            model = folder / f"{common.slug(name)}.safetensors"
            settings = {**SUBJECTS[name], "count": args.count, **({"size": "64"} if args.quick else {})}
            if not model.is_file():
                record.cells.pop(f"fit/{name}", None)
            fit = record.attempt(f"fit/{name}", lambda: fit_cell(args, settings, folder, root, model))  # noqa: B023
            for engine in args.runtimes.split(",") if fit else ():
                cell = record.attempt(
                    f"{engine}/{name}",
                    lambda: engine_cell(args, engine, model, first, root, pictures),  # noqa: B023
                )
                if fit and cell:
                    row = {"of": name, "engine": engine, "ms": common.ms(cell["run"])}
                    row |= {"/ default": cell["over_default"], "peak MiB": cell["peak_mib"]}
                    row |= {"file MiB": fit["file_mib"], "patches": fit["patches"], "numbers": fit["numbers"]}
                    rows.append({**row, "score off": cell["score"], "map off": cell["map"]})
    common.table("one picture, in turn with the default", rows)
    return record.status()


def fit_cell(args: Args, settings: Settings, folder: Path, root: Path, model: Path) -> Cell:
    backbone = configured(settings).backbone
    if "vit" in backbone:
        settings = {**settings, "weights": str(random_weights(backbone, folder))}
    given = {"settings": settings, "root": root / "train" / "good", "model": model, "threads": args.threads}
    child = common.task(fitted, **given)
    return {**child.json, **child.facts}


def exported(model: Path, engine: str, root: Path) -> Path:
    """The model's one .onnx file, under the name that says which engine opens it."""
    made = models.exported(model, "onnxruntime", "fp32", root)
    named = Path(str(made).removesuffix(".onnx") + common.RUNTIMES[engine])
    if not named.is_file():
        shutil.copy(made, named)
    return named


def engine_cell(args: Args, engine: str, model: Path, first: Path, root: Path, pictures: list[str]) -> Cell:
    own, beside = (one if engine == "torch" else exported(one, engine, root) for one in (model, first))
    same = {"pictures": pictures, "threads": args.threads}
    peak = common.task(answered, model=own, **same).peak // common.MIB
    turns = common.task(in_turn, model=own, beside=beside, trained=model, repeats=args.repeats, **same)
    return {**turns.json, "peak_mib": peak}


if __name__ == "__main__":
    sys.exit(common.start(main))
