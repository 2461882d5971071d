"""What does a joint model cost beside the models of its products: a picture's time, parity, size of the file?

    python bench/joint.py --threads 1
    python bench/joint.py --runtimes openvino --precisions bf16 --threads 1

Products are drawn: a plate, fabric, and both in other colours. Each gets a model of its own (PatchCore), and
all of them a joint one. That is exported, and the exported models of the single products have the same
networks. In every engine and precision, in a process of its own:

    time    one picture of each product by its own model and by the joint model, in turns (A B A B): `run`, an
            image to its score and map, and `predict`, from path to answer
    parity  all test pictures by the exported joint model and by the trained one: the largest difference of
            scores as certificates have it, decisions that differ, and pictures of which the product differs
    size    of the files

A precision that this machine lacks is skipped with a remark. Accuracy and the recognition of new pictures are
no matter of this script.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import common
import models
from common import Args, Cell, Work

DRAWN = {"plate": False, "fabric": False, "plate_other": True, "fabric_other": True}  # other colours
REST = 0.002  # seconds between works


def draw(root: Path, name: str, train: int, test: int, size: int) -> None:
    """A drawn product, once."""
    import numpy as np
    from PIL import Image

    from flawscope.synthesis.demo.dataset import draw_dataset

    if (root / name).is_dir():
        return
    category, draft = name.split("_")[0], root / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draw_dataset(
        draft, category=category, train=train, good=test, bad_per_kind=max(1, test // 8), size=size,
        seed=1 + DRAWN[name],
    )  # fmt: skip
    if DRAWN[name]:
        for path in common.pictures_below(draft / category):
            if "ground_truth" not in path.parts:
                Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(path))[..., ::-1])).save(path)
    (draft / category).rename(root / name)


def make(work: str, names: list[str], settings: dict[str, Any], precision: str) -> Cell:
    """Fits and joins the models in this folder, or exports them all; what is there stays."""
    import flawscope
    from flawscope.artefact import joint_file
    from flawscope.artefact.certificate import of_facts
    from flawscope.export.joint_export import export_joint

    folder = Path(work)
    good = {name: common.pictures_below(folder / "data" / name / "train") for name in names}
    trained = {name: folder / f"{name}.safetensors" for name in [*names, "joint"]}
    for name in names:
        if not trained[name].is_file():
            flawscope.fit(folder / "data" / name, device="cpu", check=False, **settings).save(trained[name])
    if not trained["joint"].is_file():
        flawscope.join({name: trained[name] for name in names}, good, device="cpu").save(trained["joint"])
    if precision != "trained":
        if not (out := file_of(folder, "joint", precision)).is_file():
            export_joint(trained["joint"], out, pictures=good, precision=precision)
        for name, product in joint_file.read(out).products.items():
            write_single(product, file_of(folder, name, precision))
    files = {name: file_of(folder, name, precision) for name in [*names, "joint"]}
    facts = [one.facts for one in joint_file.read_manifests(files["joint"]).values()]
    apart = sum(models.file_size(files[name]) for name in names)
    return {
        "apart_mib": common.sig(apart / common.MIB, 4),
        "joint_mib": common.sig(models.file_size(files["joint"]) / common.MIB, 4),
        "certificates": [one.line() for each in facts for one in of_facts(each)],
    }


def write_single(product: Any, out: Path) -> None:
    """The .onnx model of a product of an exported joint model: its networks in one graph, as an export of the
    product alone has them. In int8 that may leave other layers in fp32, which would be another comparison."""
    import onnx

    from flawscope.artefact.joint_file import EMBED, SCORE
    from flawscope.export.onnx_graph import join
    from flawscope.runtime import onnx_file

    embed, score = (onnx.load_from_string(product.tensors[key].tobytes()) for key in (EMBED, SCORE))
    left = [output for output in embed.graph.output if output.name != "descriptors"]
    del embed.graph.output[:]
    embed.graph.output.extend(left)
    onnx_file.write(product, join(embed, score).SerializeToString(), out)


def file_of(folder: Path, name: str, precision: str) -> Path:
    if precision == "trained":
        return folder / f"{name}.safetensors"
    return folder / f"{name}-{precision}{'.safetensors' if name == 'joint' else '.onnx'}"


def time(work: str, names: list[str], precision: str, engine: str, repeats: int, threads: int) -> Cell:
    """Seconds of a picture of each product by its own model and by the joint one."""
    import flawscope

    folder = Path(work)
    options: dict[str, Any] = {"engine": engine, "device": "cpu", "threads": threads}
    joint = flawscope.load(file_of(folder, "joint", precision), **options)
    works: dict[str, Work] = {}
    for name in names:
        single = flawscope.load(file_of(folder, name, precision), **options)
        path = str(common.pictures_below(folder / "data" / name / "test" / "good")[0])
        images = single.manifest.preprocess(path)[0]
        assert joint.predict(path).product == name
        for kind, model in (("single", single), ("joint", joint)):
            works[f"run/{kind}/{name}"] = lambda run=model.session.run, images=images: run(images)
            works[f"predict/{kind}/{name}"] = lambda one=model.predict, path=path: one(path)
    order = sorted(works, key=lambda key: (key.split("/")[2], key.split("/")[0]))  # neighbours in time
    times = common.rounds({key: works[key] for key in order}, repeats, warm=3, pause=REST)
    found: Cell = {}
    for what in ("run", "predict"):
        pair = [[t for name in names for t in times[f"{what}/{kind}/{name}"]] for kind in ("joint", "single")]
        own = {name: [times[f"{what}/{kind}/{name}"] for kind in ("joint", "single")] for name in names}
        found[what] = {
            "joint": common.spread(pair[0]),
            "single": common.spread(pair[1]),
            "ratio": common.paired(*pair),
            "ratio_by_product": {name: common.paired(*both) for name, both in own.items()},
        }
    return found


def parity(work: str, names: list[str], precision: str, engine: str, threads: int) -> Cell:
    """The exported joint model beside the trained one, on all test pictures."""
    import numpy as np

    import flawscope
    from flawscope.artefact.certificate import way

    folder = Path(work)
    paths = [str(path) for name in names for path in common.pictures_below(folder / "data" / name / "test")]
    found, expected = (
        [result for _, result in flawscope.load(file, engine=e, device="cpu", threads=threads).stream(paths)]
        for file, e in (
            (file_of(folder, "joint", precision), engine),
            (file_of(folder, "joint", "trained"), None),
        )
    )
    trained = flawscope.load(file_of(folder, "joint", "trained"), device="cpu").products
    away = []
    for a, b in zip(found, expected, strict=True):
        calibration = trained[b.product or names[0]].calibration
        unit = max(abs(b.score), 1.0)
        if precision != "fp32":
            unit = way(calibration.scores, calibration.score_threshold)
            unit = max(unit, b.score - float(np.median(calibration.scores)))
        away.append(abs(a.score - b.score) / unit)
    pairs = list(zip(found, expected, strict=True))
    return {
        "pictures": len(paths),
        "score": common.sig(max(away), 3),
        "decisions": sum(a.is_anomalous != b.is_anomalous for a, b in pairs),
        "products": sum(a.product != b.product for a, b in pairs),
        "product_p_value": common.sig(max(abs(a.product_p_value - b.product_p_value) for a, b in pairs), 3),
    }


def main() -> int:
    made = common.parser(__doc__, "joint", data=False)
    common.add_runtimes(made)
    made.add_argument("--products", default=",".join(DRAWN), help="default: %(default)s")
    made.add_argument("--size", default="256", help="default: %(default)s")
    made.add_argument("--pictures", type=int, default=40, help="good ones a product (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=40, help="default: %(default)s")
    args: Args = common.arguments(made, size="64", pictures=12, repeats=2, precisions="fp32")
    record = common.Record(args, "a joint model beside the models of its products")
    names, rows = args.products.split(","), []
    side = 320 if not args.quick else 96
    with common.workspace(args.work) as folder:
        for name in names:
            draw(folder / "data", name, args.pictures, 16 if not args.quick else 2, side)
        same: dict[str, Any] = {"work": folder, "names": names}
        sizes: dict[str, Cell] = {}
        for engine, precision in common.combinations(args):
            if (engine, precision) == ("torch", "bf16"):
                continue  # a fit of its own
            kind = "trained" if engine == "torch" else precision
            label = f"{len(names)} products/{args.size} px"
            settings = {"method": "patchcore", "size": args.size}

            def build(kind: str = kind, settings: Any = settings) -> Cell:
                return common.task(make, **same, settings=settings, precision=kind).json

            if not file_of(folder, "joint", kind).is_file():
                record.cells.pop(f"size/{label}/{kind}", None)
            if (cell := record.attempt(f"size/{label}/{kind}", build)) is None:
                continue
            sizes[kind] = cell
            where = f"{label}/{engine} {precision}"
            own = {**same, "precision": kind, "engine": engine, "threads": args.threads}
            took = record.attempt(
                f"time/{where}/{args.threads} threads",
                lambda own=own: common.task(time, repeats=args.repeats, **own).json,
            )
            if took is not None:
                row: Cell = {"engine": engine, "precision": precision}
                for work in ("run", "predict"):
                    row |= {f"{work} {k}, ms": common.ms(took[work][k]) for k in ("single", "joint")}
                    row[f"{work} ratio"] = took[work]["ratio"]
                rows.append(row)
            if engine != "torch":
                record.attempt(f"parity/{where}", lambda own=own: common.task(parity, **own).json)
    common.table("one picture", rows)
    common.table(
        "MiB", [{"files": k, "apart": c["apart_mib"], "joint": c["joint_mib"]} for k, c in sizes.items()]
    )
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
