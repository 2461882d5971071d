"""Check a folder of pictures: counts, sizes, unreadable files, masks, copies; `data check --data ROOT`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from flawscope.cli import common

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.progress import Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"], help="check")
    common.add_data(parser)
    parser.add_argument(
        "--model", metavar="MODEL", help="also list good pictures that do not look good to this model"
    )
    parser.add_argument("--no-near", action="store_true", help="skip the search for near-duplicates")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.datasets import open_dataset
    from flawscope.datasets.check import check

    dataset = open_dataset(args.data, args.category)
    step = common.step_for(args)
    report = check(dataset, near=not args.no_near, progress=lambda done, total: step("check", done, total))
    suspects = _suspects(args, dataset, step) if args.model else None
    if args.json:
        document = report.to_dict()
        if suspects is not None:
            document["suspects"] = [{"path": n, "score": s, "p_value": p} for n, s, p in suspects]
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        print("\n".join(report.lines()))
        if suspects is not None:
            print(f"\n{len(suspects)} good pictures do not look good to {args.model}, most suspicious first:")
            for name, score, p in suspects:
                print(f"  {name}  score {score:.4g}, p {p:.3f}")
    return 0 if report.ok else 1


def _suspects(args: argparse.Namespace, dataset: Dataset, step: Step) -> list[tuple[str, float, float]]:
    """Good training pictures far out among the scores that the model was calibrated with.

    A picture the model was fitted on has its leave-one-out score in the manifest; its plain score would be
    far too small.
    """
    import numpy as np

    from flawscope.calibration import fence
    from flawscope.errors import InputError
    from flawscope.imaging import decode, pixel_hash
    from flawscope.predictor import load

    predictor = load(args.model, device=args.device)
    calibration = predictor.calibration
    own = dict(
        zip(predictor.manifest.facts.get("calibration_pictures", []), calibration.scores, strict=False)
    )
    found, fresh = [], []
    for item in dataset.train:
        try:
            score = own.get(pixel_hash(decode(item.path)))
        except InputError:
            continue  # the report above names it
        if score is None:
            fresh.append(item.path)
        else:
            found.append((item.path, score))
    results = predictor.stream(fresh)
    for done, (path, (_, result)) in enumerate(zip(fresh, results, strict=True), start=1):
        step("scores", done, len(fresh))
        if not isinstance(result, InputError):
            found.append((path, result.score))
    limit = fence(np.array(calibration.scores))
    far = sorted((f for f in found if f[1] > limit), key=lambda f: -f[1])
    return [(dataset.relative(path), float(s), float(calibration.p_values(s))) for path, s in far]
