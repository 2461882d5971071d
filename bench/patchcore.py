"""PatchCore measured from outside: accuracy, fit time, memory, start-up, determinism.

    python bench/patchcore.py --peer-python PYTHON_WITH_ANOMALIB
    python bench/patchcore.py --only accuracy,startup

accuracy     every category with the default settings and with ResNet-18 stages 2,3, 10 %, `flawscope fit`
             and `evaluate --json` each in a process of its own
fit          the whole process against a process that only starts, reads, embeds and selects, in pairs
             A B A B; and against anomalib's `Engine.fit` with the same backbone and ratio at the smallest of
             our sizes (--set size=256 makes it the only one)
memory       predicted against measured peak; --large drawn pictures, and what ten times as many would take
startup      --help and --version against `python -c "import numpy"`
determinism  SHA-256 of what was learnt, fitted twice and with other numbers of threads

Times of a picture: `bench/latency.py`.

Every cell is written when it is done; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

RESNET = ("--backbone", "resnet18", "--stages", "2,3", "--set", "ratio=0.1", "--set", "cap=1000000")
METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "AP",
    "image_f1": "F1 (test labels)",
    "image_f1_calibrated": "F1 (calibrated)",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1": "pixel F1 (test labels)",
    "au_pro": "AU-PRO",
}
Args = argparse.Namespace
Record = common.Record


def fit_command(args: Args, root: Path, model: Path, *more: str, env: dict[str, str] | None = None) -> Any:
    """`flawscope fit` as a measured process; the settings of --set count for all."""
    settings = [word for pair in args.set for word in ("--set", pair)]
    return common.flawscope("fit", "--data", root, "--out", model, "--quiet", *settings, *more, env=env)


def facts_of(model: Path) -> dict[str, Any]:
    from flawscope.artefact.model_file import read_manifest

    return read_manifest(model).facts


# ---------------------------------------------------------------------------------------------- accuracy


def accuracy(args: Args, record: Record, folder: Path) -> None:
    weights = common.data_root(args) / "weights" / "resnet18_stages1-3.safetensors"
    rows = []
    for name, more in (("default", ()), ("resnet18", (*RESNET, "--weights", str(weights)))):
        for category in common.CATEGORIES:
            root = common.mvtec(args, category)
            if root is None:
                continue
            if name == "resnet18" and not weights.is_file():
                common.say("skipped: no ResNet-18 weights below the data root")
                continue

            def measure(root: Path = root, more: tuple[str, ...] = more) -> dict[str, Any]:
                model = folder / "accuracy.safetensors"
                fitted = fit_command(args, root, model, *more)
                tested = common.flawscope("evaluate", model, "--data", root, "--json", "--quiet")
                result = tested.json
                kept = ("metrics", "false_alarms", "kinds", "images", "left_out", "failures", "labels")
                facts = facts_of(model)
                return {k: result[k] for k in kept} | {
                    "bank": facts["bank"],
                    "patches": facts["patches"],
                    "fit": {"seconds": fitted.seconds, "peak_mib": fitted.peak // common.MIB},
                    "evaluate": {"seconds": tested.seconds, "peak_mib": tested.peak // common.MIB},
                }

            cell = record.cell(f"accuracy/{category}/{name}", measure)
            found, alarms = cell["metrics"], cell["false_alarms"]
            values = [f"{found[k]:.4f}" if found.get(k) is not None else "n/a" for k in METRICS]
            low, high = alarms["interval"]
            measured = f"{alarms['measured']:.1%} ({low:.1%} to {high:.1%})"
            rows.append((f"{category}, {name}", cell["bank"], *values, measured))
    common.table("accuracy", rows, ("category, settings", "bank", *METRICS.values(), "false alarms"))


# --------------------------------------------------------------------------------------------------- fit


def task_floor(folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Start-up, reading, features and coresets, nothing else."""
    from flawscope import config
    from flawscope.methods.patchcore import coreset
    from flawscope.methods.patchcore.config import Config
    from flawscope.methods.patchcore.memory_plan import bank_size

    built, bank = config.build(Config, settings), 0
    for view, features in enumerate(common.embed(common.pictures_below(Path(folder)), **settings)):
        points = features.flatten(0, 1)
        bank += len(coreset.select(points, bank_size(built, view, len(points))).indices)
    return {"bank": bank}


def fit(args: Args, record: Record, folder: Path) -> None:
    root = common.mvtec(args, args.category)
    if root is None:
        return
    from flawscope.config import build, parse_assignments
    from flawscope.features.weights import DEFAULT_BACKBONE, locate
    from flawscope.methods.patchcore.config import Config

    settings = parse_assignments(args.set)
    config = build(Config, settings)
    model = folder / "fit.safetensors"

    def paired() -> dict[str, Any]:
        whole, floor = [], []
        for _ in range(args.repeats):
            whole.append(fit_command(args, root, model))
            floor.append(common.task(__file__, "floor", folder=root / "train", settings=settings))
            common.say(f"  {whole[-1].seconds:.2f} s, floor {floor[-1].seconds:.2f} s")
        facts = facts_of(model)
        if floor[-1].json["bank"] != facts["bank"]:
            common.say(f"  the floor selects {floor[-1].json['bank']}, fit {facts['bank']}")
        return {
            "whole": common.summary([c.seconds for c in whole]) | {"peak_mib": _mib(whole)},
            "floor": common.summary([c.seconds for c in floor]) | {"peak_mib": _mib(floor)},
            "ratio": common.ratio(
                statistics.median(c.seconds for c in whole), statistics.median(c.seconds for c in floor)
            ),
            "ratio_of_pairs": [common.ratio(a.seconds, b.seconds) for a, b in zip(whole, floor, strict=True)],
            "bank": facts["bank"],
            "stages_of_last": facts["seconds"],
        }

    ours = record.cell(f"fit/{args.category}", paired)
    rows = [
        ("flawscope fit", common.short(ours["whole"]["median"]), ours["whole"]["peak_mib"], ""),
        ("floor", common.short(ours["floor"]["median"]), ours["floor"]["peak_mib"], ours["ratio"]),
    ]
    python = common.peer_python(args)
    if python:

        def peer() -> dict[str, Any]:
            command: list[str | Path] = [python, common.ROOT / "bench" / "peer.py", "fit", root]
            command += ["--backbone", DEFAULT_BACKBONE, "--ratio", str(config.ratio)]
            command += ["--size", str(config.sizes[0][0]), "--picks", ",".join(map(str, args.peer_picks))]
            path = locate(DEFAULT_BACKBONE).path
            command += ["--weights", path] if path else []
            child = common.run(command)
            found = child.json
            coreset = common.extrapolate(found.pop("runs"), found["whole_picks"])
            total = found["seconds_without_coreset"] + coreset["seconds"]
            return {**found, "coreset": coreset, "peak_mib": child.peak // common.MIB} | {
                "seconds": common.sig(total),
                "note": "whole fit: measured without the selection, plus the extrapolated selection; "
                "anomalib calibrates nothing here",
            }

        theirs = record.cell(f"fit/{args.category}/anomalib", peer)
        times = common.ratio(theirs["seconds"], ours["whole"]["median"])
        record.summarise("anomalib_fit_times_flawscope", times)
        few = ", ".join(str(r["picks"]) for r in theirs["coreset"]["extrapolated_from"])
        rows.append(
            (
                f"anomalib (coreset extrapolated from {few} picks)",
                common.short(theirs["seconds"]),
                theirs["peak_mib"],
                times,
            )
        )
    header = ("whole process", "seconds", "peak MiB", "ratio")
    common.table(
        f"fit of {args.category}, bank {ours['bank']} (ratio: fit / floor, peer / fit)", rows, header
    )


def _mib(children: list[common.Child]) -> int:
    return round(statistics.median(c.peak for c in children) / common.MIB)


# ------------------------------------------------------------------------------------------------ memory


def task_draw(folder: str, count: int, size: int) -> str:
    return str(common.draw(Path(folder), count, size))


def task_plan(count: int, settings: dict[str, Any]) -> dict[str, Any]:
    """What `fit` would say about `count` pictures before it starts."""
    import torch

    from flawscope import config
    from flawscope.features.backbone import load_backbone
    from flawscope.methods.patchcore import memory_plan as memory
    from flawscope.methods.patchcore.config import Config
    from flawscope.methods.patchcore.model import Model

    built = config.build(Config, settings)
    backbone, _ = load_backbone(built.backbone, built.stages, built.network_size, built.weights)
    plan = memory.plan(built, Model(built, backbone), count, torch.device("cpu"))
    return {"peak_mib": plan.peak // common.MIB, "shards": plan.shards, "line": plan.line()}


def memory(args: Args, record: Record, folder: Path) -> None:
    drawn = {
        (n, size): (
            lambda n=n, size=size: Path(common.task(__file__, "draw", folder=folder, count=n, size=size).json)
        )
        for n, size in ((60, 256), (60, 384), (12, 640), (args.large, 256))
    }
    cases: list[tuple[str, Callable[[], Path], tuple[str, ...]]] = [
        ("60 drawn, as shipped", drawn[60, 384], ()),
        ("60 drawn, 256 px", drawn[60, 256], ("--size", "256")),
        ("60 drawn, 384 px", drawn[60, 384], ("--size", "384")),
        ("12 drawn, 640 px", drawn[12, 640], ("--size", "640")),
    ]
    for category in common.CATEGORIES:
        root = common.mvtec(args, category)
        if root is not None:
            for size in (256, 384):
                more = ("--size", str(size))
                cases.append((f"{category}, {size} px", lambda root=root: root, more))
    # a tenth of the memory for a tenth of the pictures: the same number of shards, each a tenth as large
    gib = args.large_memory / 10
    large, streamed = f"{args.large} drawn, 256 px", f"{args.large} drawn, 256 px, memory={gib:g}"
    small = ("--size", "256")
    cases.append((large, drawn[args.large, 256], (*small, "--set", "memory=1000")))  # all of it in memory
    cases.append((streamed, drawn[args.large, 256], (*small, "--set", f"memory={gib}")))
    rows = []
    for name, where, more in cases:

        def measure(where: Callable[[], Path] = where, more: tuple[str, ...] = more) -> dict[str, Any]:
            model = folder / "memory.safetensors"
            child = fit_command(args, where(), model, *more)
            facts = facts_of(model)
            return {
                "seconds": common.sig(child.seconds),
                "stages": facts["seconds"],
                "measured_mib": child.peak // common.MIB,
                "predicted_mib": facts["memory_predicted"] // common.MIB,
                "predicted_by_measured": common.ratio(facts["memory_predicted"], child.peak),
                "own_peak_mib": facts["memory_peak"] // common.MIB,
                "bank": facts["bank"],
                "patches": facts["patches"],
                "shards": facts["shards"],
                "covering_radius": facts["covering_radius"],
            }

        cell = record.cell(f"memory/{name}", measure)
        keys = ("bank", "shards", "predicted_mib", "measured_mib", "predicted_by_measured")
        rows.append((name, *(cell[k] for k in keys), common.short(cell["seconds"])))
    header = ("pictures", "bank", "shards", "predicted MiB", "measured MiB", "ratio", "seconds")
    common.table("memory", rows, header)
    plans = record.cell(
        "memory/predictions",
        lambda: {
            f"{n} pictures, memory={m}": common.task(
                __file__, "plan", count=n, settings={"memory": m, "size": "256"}
            ).json
            for n in (args.large, 10 * args.large)
            for m in (None, args.large_memory)
        },
    )
    estimate = tenfold(record.cells[f"memory/{large}"], record.cells[f"memory/{streamed}"])
    record.summarise(f"{10 * args.large} pictures", estimate)
    rows = [(k, v["peak_mib"], v["shards"]) for k, v in plans.items() if k != "_"]
    common.table("predicted before the start", rows, ("fit", "peak MiB", "shards"))
    took, kept = common.short(estimate["seconds_streamed"]), common.short(estimate["seconds_in_memory"])
    print(
        f"{10 * args.large} pictures: about {took} s streamed with memory={args.large_memory:g}, "
        f"{kept} s in memory ({estimate['how']})"
    )


def tenfold(whole: dict[str, Any], streamed: dict[str, Any]) -> dict[str, Any]:
    """Seconds for ten times the pictures, from the stages that were measured.

    Streamed with a tenth of the memory, `streamed` has the same number of shards and of picks: its features
    and the shards' coresets grow tenfold, the coreset of coresets and the calibration (at most 500 pictures)
    stay. In memory, features, coreset and calibration grow tenfold; the bank is at its cap in both.
    """
    rest = {
        name: cell["seconds"] - sum(cell["stages"].values()) for name, cell in (("w", whole), ("s", streamed))
    }
    s = streamed["stages"]
    return {
        "seconds_streamed": common.sig(rest["s"] + 10 * s["features"] + s["coreset"] + s["calibration"], 4),
        "seconds_in_memory": common.sig(rest["w"] + 10 * sum(whole["stages"].values()), 4),
        "how": "extrapolated: what grows with the pictures times ten, the rest as measured",
        "shards": streamed["shards"],
        "bank": streamed["bank"],
        "bank_at_cap": streamed["bank"] == whole["bank"],
    }


# ---------------------------------------------------------------------------------- start-up, determinism


def startup(args: Args, record: Record, _: Path) -> None:
    def measure() -> dict[str, Any]:
        script = Path(sys.executable).with_name("flawscope")
        start = [str(script)] if script.is_file() else [sys.executable, "-m", "flawscope"]
        times = common.interleaved(
            {
                "flawscope --help": lambda: common.finish([*start, "--help"]),
                "flawscope --version": lambda: common.finish([*start, "--version"]),
                "flawscope fit --help": lambda: common.finish([*start, "fit", "--help"]),
                'python -c "import numpy"': lambda: common.finish([sys.executable, "-c", "import numpy"]),
                "python -c pass": lambda: common.finish([sys.executable, "-c", "pass"]),
            },
            args.startup_repeats,
        )
        numpy = times['python -c "import numpy"']["median"]
        return {name: t | {"times_numpy": common.ratio(t["median"], numpy)} for name, t in times.items()}

    cell = record.cell("startup", measure)
    rows = [(k, f"{1000 * v['median']:.0f}", v["times_numpy"]) for k, v in cell.items() if k != "_"]
    common.table("start-up, whole process", rows, ("command", "ms", "x import numpy"))


def determinism(args: Args, record: Record, folder: Path) -> None:
    root = common.mvtec(args, args.category)
    if root is None:
        return
    cases: dict[str, dict[str, str]] = {
        "first": {},
        "again": {},
        "1 thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        "3 threads": {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "MKL_DYNAMIC": "FALSE"},
    }
    found = {}
    for name, env in cases.items():

        def measure(env: dict[str, str] = env) -> dict[str, Any]:
            from flawscope.artefact.model_file import read

            model = folder / "determinism.safetensors"
            child = fit_command(args, root, model, env=env)
            artefact = read(model)
            scores = repr(artefact.manifest.calibration.to_dict()).encode()
            hashes = {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in sorted(artefact.tensors.items())}
            return {
                "threads": artefact.manifest.facts["threads"],
                "seconds": common.sig(child.seconds),
                "sha256": hashes | {"calibration": hashlib.sha256(scores).hexdigest()},
            }

        found[name] = record.cell(f"determinism/{args.category}/{name}", measure)
    first = found["first"]["sha256"]
    banks = sorted(k for k in first if k.endswith(".bank"))
    same = {
        name: {"bank": all(cell["sha256"][k] == first[k] for k in banks)}
        | {"differing": [k for k, v in cell["sha256"].items() if v != first.get(k)]}
        for name, cell in found.items()
    }
    record.summarise("determinism", same)
    rows = [
        (
            name,
            cell["threads"],
            " ".join(cell["sha256"][k][:16] for k in banks),
            same[name]["bank"],
            same[name]["differing"] or "none",
        )
        for name, cell in found.items()
    ]
    header = ("fit", "threads", "bank sha256", "same bank", "tensors that differ")
    common.table(f"determinism, {args.category}", rows, header)


# -------------------------------------------------------------------------------------------------- main

SECTIONS: dict[str, Callable[[Args, Record, Path], None]] = {
    "accuracy": accuracy,
    "fit": fit,
    "memory": memory,
    "startup": startup,
    "determinism": determinism,
}
TASKS: dict[str, Callable[..., Any]] = {
    "floor": task_floor,
    "draw": task_draw,
    "plan": task_plan,
}


def main() -> int:
    parser = common.parser(__doc__, "patchcore")
    common.add_peer(parser)
    common.add_settings(parser)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by default all")
    parser.add_argument("--category", default="transistor", help="of fit, determinism")
    parser.add_argument("--repeats", type=int, default=3, help="of whole processes")
    parser.add_argument("--startup-repeats", type=int, default=10)
    parser.add_argument("--large", type=int, default=1000, help="drawn pictures of the large fit")
    parser.add_argument("--large-memory", type=float, default=1.5, help="GiB of features, ten times as many")
    parser.add_argument("--work", type=Path, help="keep drawn pictures and models here")
    args = parser.parse_args()
    if args.task:
        return common.run_task(args.task, TASKS)
    unknown = set(args.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    record = Record(args, "PatchCore from outside, whole processes unless said otherwise", {"set": args.set})
    common.headline("PatchCore")
    with common.workspace(args.work) as folder:
        for name in args.only.split(","):
            SECTIONS[name](args, record, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
