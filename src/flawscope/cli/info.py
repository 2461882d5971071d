"""Tell what a model is: method, settings, threshold, where its weights and pictures came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flawscope.cli import common
from flawscope.progress import duration

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file")
    parser.add_argument("--self-test", action="store_true", help="run the stored samples on this machine")
    parser.add_argument("--json", action="store_true", help="print the whole manifest")
    common.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.predictor import read_manifest

    manifest = read_manifest(args.model)
    if args.json:
        print(json.dumps(manifest.to_dict(), indent=1, allow_nan=False))
    else:
        print("\n".join(lines(manifest)))
    if not args.self_test:
        return 0
    from flawscope.predictor import load

    result = load(args.model, engine=args.engine, device=args.device, threads=args.threads).self_test()
    common.say(f"self-test {'passed' if result.passed else 'FAILED'}: {result.line()}")
    return 0 if result.passed else 1


def lines(manifest: Manifest) -> list[str]:
    """The manifest in words."""
    from collections import Counter

    from flawscope.calibration.simulated import described

    p, c, facts = manifest.preprocess, manifest.calibration, manifest.facts
    roles = Counter(picture.role for picture in manifest.pictures)
    sizes = str(manifest.config.get("size", ""))
    rows = [
        ("method", f"{manifest.method}" + (f" for {manifest.category}" if manifest.category else "")),
        ("backbone", f"{manifest.backbone.get('name', '?')}, {manifest.backbone.get('origin', '?')}"),
        ("licence of the weights", manifest.backbone.get("licence", "?")),
        (
            "picture",
            p.described()
            + (f", seen at {sizes}" if "+" in sizes else "")
            + (", aspect ratio kept" if p.keep_aspect else ", stretched")
            + (f", centre of {p.size[0]}x{p.size[1]}" if p.crop else "")
            + (f", white level {p.white_level:g}" if p.white_level else ""),
        ),
        ("pictures", ", ".join(f"{n} {role}" for role, n in roles.items())),
        ("decision", c.promise()),
        *([("simulated defects found", found)] if (found := described(facts, c)) else []),
        ("severity", f"1 is {c.spread:.3g} above the score threshold, the spread of good pictures"),
        ("mask threshold", c.outlined()),
        ("calibrated for", f"{c.runtime}, {c.precision}"),
        *[("fitted", line) for line in facts.get("summary", ())],
        *([("time of the fit", duration(facts["seconds_total"]))] if "seconds_total" in facts else []),
        ("made with", ", ".join(f"{k} {v}" for k, v in manifest.versions.items())),
        *[("exported", line) for line in exported(facts)],
        *[("note", note) for note in manifest.notes],
        *[(f"test {k}", f"{v:.4f}") for k, v in manifest.metrics.items() if isinstance(v, float)],
        ("samples", f"{len(manifest.samples)} for --self-test"),
        ("format", str(manifest.format)),
    ]
    pad = max(len(k) for k, _ in rows) + 2
    return [f"{k:<{pad}}{v}" for k, v in rows]


def exported(facts: Mapping[str, Any]) -> list[str]:
    """Its certificates, by engine."""
    from flawscope.artefact.certificate import of_facts

    try:
        return [certificate.line() for certificate in of_facts(facts)]
    except (KeyError, TypeError, ValueError, OverflowError):
        return ["its certificate is damaged"]
